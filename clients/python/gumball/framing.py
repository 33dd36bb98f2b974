"""The frame of a stream's messages, for messages that are encoded already.

Protobuf's encoding of a repeated field is its items one after another, each behind a tag and its length, and that of a
message is its fields one after another. So what was encoded once, perhaps in another thread, is never copied into a
larger message and encoded again.
"""

from collections.abc import Iterable

from google.protobuf.message import Message

_FIRST_TAG = 0x0A  # of field 1, with a length: SampleStreamRequest.requests and SampleStreamResponse.responses
_FIRST_FIELD = bytes((_FIRST_TAG,))


def stream_message(items: Iterable[bytes]) -> bytes:
    """The SampleStreamRequest of encoded requests, or the SampleStreamResponse of encoded responses."""
    parts: list[bytes] = []
    for item in items:
        parts += (_FIRST_FIELD, varint(len(item)), item)
    return b"".join(parts)


def items_of(message: bytes) -> list[bytes] | None:
    """The encoded items of such a message; None if it has anything else, or is not whole."""
    items: list[bytes] = []
    at, end = 0, len(message)
    try:
        while at < end:
            size, start = message[at + 1], at + 2
            if size > 0x7F:
                size, start = _long_varint(message, at + 1)
            if message[at] != _FIRST_TAG:
                return None
            at = start + size
            items.append(message[start:at])
    except IndexError:
        return None
    return items if at == end else None


def _long_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number at a place, and where it ends."""
    number = shift = 0
    while data[at] > 0x7F:
        number |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return number | data[at] << shift, at + 1


def field_start(kind: type[Message], name: str, size: int) -> bytes:
    """What comes before so many bytes of a field of bytes, or of a message."""
    return varint(kind.DESCRIPTOR.fields_by_name[name].number << 3 | 2) + varint(size)


def varint(number: int) -> bytes:
    """Seven bits a byte, the low ones first."""
    if number < 0x80:
        return bytes((number,))
    return bytes((number & 0x7F | 0x80,)) + varint(number >> 7)
