"""Frames of HTTP/2 (RFC 9113) and header blocks (RFC 7541), right or wrong, byte by byte."""

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple

from hpack import huffman_constants
from hpack.huffman import HuffmanEncoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
WINDOW = 65_535  # of flow control, unless SETTINGS say otherwise (6.9.2)
LARGEST_WINDOW = 2**31 - 1
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20  # flags


class Kind(IntEnum):
    """Of a frame (section 6)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Code(IntEnum):
    """Of an error (section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    ENHANCE_YOUR_CALM = 11


class Setting(IntEnum):
    """Of an endpoint (section 6.5.2)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Frame(NamedTuple):
    """As it was received."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def uint32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """4.1."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + uint32(stream) + payload


def settings(values: Mapping[int, int]) -> bytes:
    payload = b"".join(key.to_bytes(2, "big") + uint32(value) for key, value in values.items())
    return frame(Kind.SETTINGS, payload=payload)


def ping(payload: bytes = b"12345678", flags: int = 0) -> bytes:
    return frame(Kind.PING, flags, 0, payload)


def window_update(stream: int, increment: int) -> bytes:
    return frame(Kind.WINDOW_UPDATE, 0, stream, uint32(increment))


def reset(stream: int, code: int = Code.CANCEL) -> bytes:
    return frame(Kind.RST_STREAM, 0, stream, uint32(code))


A_PRIORITY = uint32(0) + b"\x0f"  # 6.3


def padded(payload: bytes, padding: int) -> bytes:
    """The payload of a frame with the flag PADDED (6.1)."""
    return bytes([padding]) + payload + bytes(padding)


# Header blocks.

NEW, PLAIN, NEVER = (0x40, 6), (0x00, 4), (0x10, 4)  # forms of a literal, of which NEW is indexed (RFC 7541, 6.2)


def integer(value: int, first: int, bits: int) -> bytes:
    """RFC 7541, 5.1: in the last bits of the first byte, and in more where they do not do."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([first | value])
    value -= most
    more = []
    while value >= 128:
        more.append(value % 128 | 128)
        value //= 128
    return bytes([first | most, *more, value])


def string(text: str, huffman: bool = False) -> bytes:
    """5.2."""
    encoder = HuffmanEncoder(huffman_constants.REQUEST_CODES, huffman_constants.REQUEST_CODES_LENGTH)
    data = encoder.encode(text.encode()) if huffman else text.encode()
    return integer(len(data), 128 * huffman, 7) + data


def indexed(index: int) -> bytes:
    """6.1."""
    return integer(index, 0x80, 7)


def literal(form: tuple[int, int], name: int | str, value: str, huffman: bool = False) -> bytes:
    """6.2, its name by index or as it is."""
    named = integer(name if isinstance(name, int) else 0, *form)
    return named + (string(name, huffman) if isinstance(name, str) else b"") + string(value, huffman)


def resize(size: int) -> bytes:
    """6.3."""
    return integer(size, 0x20, 5)
