"""The frame of a stream's messages, for messages that are encoded already.

Protobuf's encoding of a repeated field is its items one after another, each behind a tag and its length, and that of a
message is its fields one after another. So what was encoded once, perhaps in another thread, is never copied into a
larger message and encoded again.
"""

from collections.abc import Iterable

from google.protobuf.message import Message

_FIRST_FIELD = b"\x0a"  # field 1, with a length: SampleStreamRequest.requests and SampleStreamResponse.responses


def stream_message(items: Iterable[bytes]) -> bytes:
    """The SampleStreamRequest of encoded requests, or the SampleStreamResponse of encoded responses."""
    parts: list[bytes] = []
    for item in items:
        parts += (_FIRST_FIELD, varint(len(item)), item)
    return b"".join(parts)


def field_start(kind: type[Message], name: str, size: int) -> bytes:
    """What comes before so many bytes of a field of bytes, or of a message."""
    return varint(kind.DESCRIPTOR.fields_by_name[name].number << 3 | 2) + varint(size)


def varint(number: int) -> bytes:
    """Seven bits a byte, the low ones first."""
    if number < 0x80:
        return bytes((number,))
    return bytes((number & 0x7F | 0x80,)) + varint(number >> 7)
