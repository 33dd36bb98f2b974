"""gRPC's messages and metadata as HTTP/2 carries them. Pure."""

from base64 import b64encode
from collections.abc import Mapping
from math import ceil

from gumball.errors import InvalidArgument
from gumball.http2.headers import Headers, are_fields
from gumball.http2.pieces import Pieces

_PREFIX_BYTES = 5  # of a message: whether it is compressed, and how long it is
_MAX_AMOUNT = 99_999_999  # eight digits


def framed(message: bytes) -> bytes:
    """A message with what comes before it."""
    return b"\0" + len(message).to_bytes(4, "big") + message


class MessageReader:
    """Puts messages together from the pieces in which they come."""

    __slots__ = ("_body", "_missing", "_prefix")

    def __init__(self) -> None:
        self._prefix = b""  # of the message at hand
        self._body = Pieces()
        self._missing = 0  # bytes of it

    @property
    def is_between(self) -> bool:
        """Whether nothing of a message has come that is not whole."""
        return not self._prefix

    def take(self, data: bytes | memoryview) -> list[bytes]:
        """The messages that are whole by this piece. Raises ValueError for one that is compressed."""
        if not self._prefix and int.from_bytes(data[:_PREFIX_BYTES], "big") == len(data) - _PREFIX_BYTES:
            return [bytes(data[_PREFIX_BYTES:])]  # as a rule, for the first byte is 0
        whole = []
        while data:
            if (lacking := _PREFIX_BYTES - len(self._prefix)) > 0:
                self._prefix += data[:lacking]
                data = data[lacking:]
                if len(self._prefix) < _PREFIX_BYTES:
                    break
                if self._prefix[0]:
                    raise ValueError("a message is compressed, which was not offered")
                self._missing = int.from_bytes(self._prefix[1:], "big")
            piece, data = data[: self._missing], data[self._missing :]
            self._body.add(piece)
            self._missing -= len(piece)
            if not self._missing:
                whole.append(self._body.joined())
                self._prefix, self._body = b"", Pieces()
        return whole


def metadata_of(headers: Mapping[str, str]) -> Headers:
    """Headers as metadata. Raises InvalidArgument for what cannot be sent."""
    metadata = [(name.lower().encode("latin-1", "replace"), _value(name, value)) for name, value in headers.items()]
    for field in metadata:
        if field[0].startswith(b":") or not are_fields([field]):
            raise InvalidArgument(f"{field[0].decode('latin-1')!r} cannot be sent", "headers")
    return metadata


def _value(name: str, value: str | bytes) -> bytes:
    if name.lower().endswith("-bin"):
        return b64encode(value.encode() if isinstance(value, str) else value).rstrip(b"=")
    try:
        return value.encode("ascii") if isinstance(value, str) else value
    except UnicodeEncodeError:
        raise InvalidArgument(f"the value of {name!r} is not ASCII", "headers") from None


def timeout_value(seconds: float) -> bytes:
    """As the header grpc-timeout has it, in at most eight digits."""
    for unit, scale in ((b"u", 1e6), (b"m", 1e3)):
        if (amount := ceil(seconds * scale)) <= _MAX_AMOUNT:
            return b"%d%s" % (amount, unit)
    return b"%dS" % min(ceil(seconds), _MAX_AMOUNT)
