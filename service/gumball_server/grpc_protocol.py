"""gRPC as HTTP/2 carries it: the framing of messages, timeouts, metadata and statuses. Pure, no server."""

import binascii
import re
import urllib.parse
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable

import grpc

from gumball_server.domain import MalformedError, Reason, SamplingError

Headers = list[tuple[bytes, bytes]]
Metadata = Iterable[tuple[str, str | bytes]]

# One byte tells whether the message is compressed, four how long it is.
PREFIX_BYTES = 5
ACCEPTED_ENCODINGS = b"identity,gzip,deflate"
_WINDOW_BITS = {b"gzip": 31, b"deflate": 15}  # as zlib calls the two

_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

# What a status message may have unescaped: printable ASCII but for the percent sign.
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


class StatusError(Exception):
    """Ends a call with a status other than OK."""

    def __init__(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> None:
        super().__init__(details)
        self.code = code
        self.details = details
        self.trailing_metadata = trailing_metadata

    def headers(self) -> Headers:
        """As trailers, or as what a response that has no message ends with."""
        headers = [(b"grpc-status", b"%d" % self.code.value[0])]
        if self.details:
            headers.append((b"grpc-message", urllib.parse.quote(self.details, safe=_PRINTABLE).encode()))
        return headers + metadata_headers(self.trailing_metadata)


def too_large(max_bytes: int) -> SamplingError:
    return SamplingError(Reason.TOO_LARGE, f"the message may have {max_bytes} bytes")


def prefix(size: int) -> bytes:
    """Of a message of so many bytes, not compressed."""
    return b"\0" + size.to_bytes(4, "big")


def frame(message: bytes) -> bytes:
    return prefix(len(message)) + message


def inflate(message: bytes, encoding: bytes, max_bytes: int) -> bytes:
    """A compressed message as it was. Raises SamplingError, and that before it makes more bytes than may be."""
    if encoding not in _WINDOW_BITS:
        raise SamplingError(Reason.MEDIA_TYPE, f"the message is compressed by {encoding!r}, which is not read here")
    inflater = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        inflated = inflater.decompress(message, max_bytes + 1)
    except zlib.error as error:
        raise MalformedError(f"the message does not decompress: {error}") from None
    if len(inflated) > max_bytes:
        raise too_large(max_bytes)
    if not inflater.eof:
        raise MalformedError("the compressed message is not complete")
    return inflated


def only_message(body: bytes, encoding: bytes, max_bytes: int) -> bytes:
    """The one message of a request that is whole. Raises SamplingError."""
    size = int.from_bytes(body[1:PREFIX_BYTES], "big")
    if len(body) >= PREFIX_BYTES and size > max_bytes:
        raise too_large(max_bytes)
    if len(body) != PREFIX_BYTES + size:
        raise MalformedError("the request must have one message, and end with it")
    message = body[PREFIX_BYTES:]
    return inflate(message, encoding, max_bytes) if body[0] else message


def seconds(timeout: bytes) -> float:
    """Of the header grpc-timeout. Raises SamplingError."""
    if not (parsed := _TIMEOUT.fullmatch(timeout)):
        raise MalformedError("grpc-timeout is malformed")
    return int(parsed[1]) * _SECONDS[parsed[2]]


def metadata(headers: Headers) -> tuple[tuple[str, str | bytes], ...]:
    """What the caller sent along. Raises SamplingError."""
    try:
        return tuple(
            (name.decode(), b64decode(value + b"==") if name.endswith(b"-bin") else value.decode("latin-1"))
            for name, value in headers
            if not name.startswith(b"grpc-") and name not in (b"te", b"content-type")
        )
    except binascii.Error as error:
        raise MalformedError(f"metadata that is not base64: {error}") from None


def metadata_headers(metadata: Metadata) -> Headers:
    """The same the other way."""
    return [(name.encode(), _value(value)) for name, value in metadata]


def _value(value: str | bytes) -> bytes:
    return b64encode(value).rstrip(b"=") if isinstance(value, bytes) else value.encode()
