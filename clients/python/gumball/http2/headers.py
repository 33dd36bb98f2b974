"""The headers of requests and responses (RFC 9113, section 8)."""

import re
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from gumball.http2.hpack_decoder import HpackDecoder

Headers = list[tuple[bytes, bytes]]
T = TypeVar("T")

MAX_LIST_BYTES = 1 << 16  # of the headers of a request, as RFC 9113 counts them
_MOST_SEEN, _SHORT_BYTES = 64, 1 << 10  # blocks that are remembered

_NO_TABLE = b"\x20"  # sets its size to 0

_NAME = re.compile(rb":?[!#$%&'*+.^_`|~0-9a-z-]+")
_BAD_VALUE = re.compile(rb"[\0\r\n]|\A[ \t]|[ \t]\Z")
_STATUS = re.compile(rb"[1-9][0-9][0-9]")
_REQUIRED = {b":method", b":scheme", b":path"}
_PSEUDO = _REQUIRED | {b":authority"}
_OF_CONNECTIONS = {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}


class HeaderReader(Generic[T]):
    """Reads the header blocks of a connection, of which `make` makes whatever a request or a response needs.

    Peers send the same block again and again. As long as the table that it refers to stays as it is, it says the
    same, and what was made of it is used again.
    """

    def __init__(self, make: Callable[[Headers], T]) -> None:
        self._make = make
        self._decoder = HpackDecoder(MAX_LIST_BYTES)
        self._seen: dict[bytes, T] = {}

    def read(self, block: bytes) -> T:
        """What is made of a block. Each that comes must be read, in their order. Raises Http2Error."""
        if (seen := self._seen.get(block)) is not None:
            return seen
        changes = self._decoder.changes
        made = self._make(self.decode(block))
        if len(block) <= _SHORT_BYTES and self._decoder.changes == changes:
            if len(self._seen) >= _MOST_SEEN:
                self._seen.clear()
            self._seen[block] = made
        return made

    def decode(self, block: bytes) -> Headers:
        """The headers in a block."""
        changes = self._decoder.changes
        headers = self._decoder.decode(block)
        if self._decoder.changes != changes:
            self._seen.clear()
        return headers


def is_request(headers: Headers) -> bool:
    """Whether these can be the headers of a request (RFC 9113, 8.2 and 8.3)."""
    names = [name for name, _ in headers]
    pseudo = [name for name in names if name.startswith(b":")]
    return (
        names[: len(pseudo)] == pseudo  # they come first
        and len(set(pseudo)) == len(pseudo)
        and _REQUIRED <= set(pseudo) <= _PSEUDO
        and dict(headers)[b":path"] != b""
        and are_fields(headers)
    )


def is_response(headers: Headers) -> bool:
    """Whether they can be the headers of a response."""
    name, value = headers[0] if headers else (b"", b"")
    return name == b":status" and _STATUS.fullmatch(value) is not None and are_trailers(headers[1:])


def are_trailers(headers: Headers) -> bool:
    """Whether they may come last."""
    return are_fields(headers) and not any(name.startswith(b":") for name, _ in headers)


def are_fields(headers: Headers) -> bool:
    return not any(
        _NAME.fullmatch(name) is None
        or _BAD_VALUE.search(value)
        or name in _OF_CONNECTIONS
        or (name == b"te" and value != b"trailers")
        for name, value in headers
    )


def block(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A header block that any peer can read: literals, which are in no table.

    A first block on a connection may come after settings that shrink the table, and would have to say so. Ours all say
    that we have none.
    """
    return _NO_TABLE + literals(headers)


def literals(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """More headers, to be appended to a block."""
    return b"".join([b"\0" + _string(name) + _string(value) for name, value in headers])


def _string(text: bytes) -> bytes:
    """Its length in seven bits and, where that is not enough, in more groups of them."""
    length, more = len(text), b""
    if length >= 0x7F:
        left, length = length - 0x7F, 0x7F
        while left >= 0x80:
            more += bytes([left & 0x7F | 0x80])
            left >>= 7
        more += bytes([left])
    return bytes([length]) + more + text
