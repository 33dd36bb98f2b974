"""How gRPC calls end: statuses, and what stands for one where a peer or a network gave none.

The tables are gRPC's own (grpc/doc: PROTOCOL-HTTP2.md, http-grpc-status-mapping.md).
"""

from base64 import b64decode
from collections.abc import Mapping
from contextlib import suppress
from enum import IntEnum
from urllib.parse import unquote_to_bytes

from gumball.http2 import frames


class Code(IntEnum):
    """The codes of gRPC."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """A call failed. `details` is a google.rpc.Status, encoded, where the service gave one.

    `is_unseen` says that the service did not look at the call, so that it may be made again.
    """

    def __init__(self, code: Code, message: str, details: bytes = b"", is_unseen: bool = False) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.details = details
        self.is_unseen = is_unseen


_OF_HTTP = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}
_OF_RESET = {
    frames.REFUSED_STREAM: Code.UNAVAILABLE,
    frames.CANCEL: Code.CANCELLED,
    frames.ENHANCE_YOUR_CALM: Code.RESOURCE_EXHAUSTED,
    frames.INADEQUATE_SECURITY: Code.PERMISSION_DENIED,
}


def error_of_headers(http_status: int, fields: Mapping[bytes, bytes]) -> RpcError | None:
    """The error that a response ends with, by the fields of its trailers, or of its headers where it has only those."""
    status = fields.get(b"grpc-status")
    if status is None:
        code = _OF_HTTP.get(http_status, Code.UNKNOWN)
        return RpcError(code, f"no answer of gRPC, but HTTP status {http_status}")
    if status == b"0":
        return None
    try:
        code = Code(int(status))
    except ValueError:
        code = Code.UNKNOWN
    message = unquote_to_bytes(fields.get(b"grpc-message", b"")).decode(errors="replace")
    return RpcError(code, message, _bytes_of(fields.get(b"grpc-status-details-bin", b"")))


def error_of_reset(code: int, is_unseen: bool) -> RpcError:
    """The error of a call whose stream was reset."""
    told = "the service did not take the call" if is_unseen else f"the service reset the call by the code {code}"
    return RpcError(_OF_RESET.get(code, Code.INTERNAL), told, is_unseen=is_unseen)


def _bytes_of(text: bytes) -> bytes:
    """What is told in Base64, with or without padding; nothing where it is neither."""
    with suppress(ValueError):
        return b64decode(text + b"=" * (-len(text) % 4))
    return b""
