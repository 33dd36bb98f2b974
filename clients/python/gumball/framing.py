"""The frame of a stream's messages, for messages that are encoded already.

Protobuf's encoding of a repeated field is its items one after another, each behind a tag and its length, and that of a
message is its fields one after another. So what was encoded once, perhaps in another thread, is never copied into a
larger message and encoded again.
"""

from collections.abc import Iterable

_FIRST_FIELD = b"\x0a"  # field 1, with a length: SampleStreamRequest.requests and SampleStreamResponse.responses
_ID = b"\x08"  # field 1, an integer: SampleRequest.id


def stream_message(items: Iterable[bytes]) -> bytes:
    """The SampleStreamRequest of encoded requests, or the SampleStreamResponse of encoded responses."""
    parts: list[bytes] = []
    for item in items:
        parts += (_FIRST_FIELD, varint(len(item)), item)
    return b"".join(parts)


def with_id(request: bytes, number: int) -> bytes:
    """An encoded request that has no id, with one."""
    return b"".join((_ID, varint(number), request))


def varint(number: int) -> bytes:
    """Seven bits a byte, the low ones first."""
    if number < 0x80:
        return bytes((number,))
    low = number & 0x7F | 0x80
    return bytes((low,)) + varint(number >> 7)
