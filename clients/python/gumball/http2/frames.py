"""Frames as HTTP/2 has them on the wire (RFC 9113, sections 4, 6 and 7). Pure."""

import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# A frame begins with its length (3 bytes) and type, read as one number, its flags and its stream.
HEAD = struct.Struct(">IBI")
HEAD_BYTES = HEAD.size
STREAM_BITS = 0x7FFF_FFFF  # of the last; the first bit is reserved

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)
SETTING = struct.Struct(">HI")

NO_ERROR = 0x0
PROTOCOL_ERROR = 0x1
FLOW_CONTROL_ERROR = 0x3
STREAM_CLOSED = 0x5
FRAME_SIZE_ERROR = 0x6
REFUSED_STREAM = 0x7
CANCEL = 0x8
COMPRESSION_ERROR = 0x9
ENHANCE_YOUR_CALM = 0xB
INADEQUATE_SECURITY = 0xC

# What holds until a peer's settings say otherwise.
DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_BYTES = 16_384
MAX_WINDOW = 2**31 - 1
MAX_FRAME_BYTES = 2**24 - 1


class Http2Error(Exception):
    """Ends a connection, with a code of section 7."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


def headers(stream: int, block: bytes, flags: int = 0) -> bytes:
    """A header block, in as many frames as it needs to be taken by any peer."""
    if len(block) <= DEFAULT_FRAME_BYTES:
        return HEAD.pack(len(block) << 8 | HEADERS, flags | END_HEADERS, stream) + block
    parts = [block[at : at + DEFAULT_FRAME_BYTES] for at in range(0, len(block), DEFAULT_FRAME_BYTES)]
    first, *middle, last = parts
    more = [frame(CONTINUATION, 0, stream, part) for part in middle]
    return b"".join((frame(HEADERS, flags, stream, first), *more, frame(CONTINUATION, END_HEADERS, stream, last)))


def ending(stream: int, trailers: bytes) -> bytes:
    """The frame that ends a stream, of trailers where it has any."""
    return headers(stream, trailers, END_STREAM) if trailers else HEAD.pack(0, END_STREAM, stream)


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join([SETTING.pack(*pair) for pair in values.items()]))


def reset(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def window_update(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def goaway(last_stream: int, code: int, reason: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, last_stream.to_bytes(4, "big") + code.to_bytes(4, "big") + reason.encode())


def four_bytes(payload: bytes) -> int:
    """The one number in the payload of a RST_STREAM or WINDOW_UPDATE."""
    if len(payload) != 4:
        raise Http2Error(FRAME_SIZE_ERROR, "the payload must have four bytes")
    return int.from_bytes(payload, "big")


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload of a DATA or HEADERS frame without its padding, and without the priority of the latter."""
    start, end = 0, len(payload)
    if flags & PADDED:
        start, end = 1, end - (payload[0] if payload else 0)
    if flags & WITH_PRIORITY:
        start += 5
    if start > end:
        raise Http2Error(PROTOCOL_ERROR if payload else FRAME_SIZE_ERROR, "the padding is longer than the frame")
    return payload[start:end]
