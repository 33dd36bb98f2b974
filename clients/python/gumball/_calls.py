"""Calls of gRPC on streams of HTTP/2: what they send, and how what comes becomes messages and a status."""

import asyncio
from abc import abstractmethod
from collections.abc import Mapping
from typing import Protocol

from gumball._messages import MessageReader, framed
from gumball._status import Code, RpcError, error_of_headers, error_of_reset
from gumball.http2 import frames
from gumball.http2.client import ClientConnection
from gumball.http2.stream import MAX_UNSENT_BYTES, Stream

CLOSED = "the connection was closed"
_CONTENT_TYPE = b"application/grpc"


class Begins(Protocol):
    """What begins a call, now or when it is connected."""

    def begin(self, call: "Call") -> None: ...


class Call:
    """A call, from the request to the status. The service is told that it is cancelled, or never hears of it."""

    __slots__ = (
        "_channel",
        "_connection",
        "_fields",
        "_head",
        "_http_status",
        "_reader",
        "_stream",
        "_was_unseen",
        "is_over",
    )

    def __init__(self, channel: Begins, head: bytes) -> None:
        self._channel = channel
        self._head = head  # block of headers
        self._connection: ClientConnection  # these from `begin` on
        self._stream: Stream | None = None
        self._http_status = 0
        self._fields: Mapping[bytes, bytes] = {}  # of the trailers, and until they come of the headers
        self._reader: MessageReader | None = None  # None: the response is not gRPC
        self._was_unseen = False
        self.is_over = False

    # What each kind of call has of its own.

    @abstractmethod
    def send(self, stream: Stream) -> None:
        """Send the request, or begin to."""

    @abstractmethod
    def received(self, message: bytes) -> None:
        """A message has come."""

    @abstractmethod
    def ended(self, error: RpcError | None) -> None:
        """The call is over; nothing else follows."""

    def is_waiting(self) -> bool:
        """Whether the service is to answer something."""
        return True

    def may_repeat(self) -> bool:
        """Whether all that was sent can be sent again."""
        return self._stream is None

    def cancel(self) -> None:
        """End it without a word to whoever called."""
        self.is_over = True
        if self._stream is not None:
            self._connection.cancel(self._stream)

    def fail(self, error: RpcError) -> None:
        """End it by an error that is found here."""
        if not self.is_over:
            self.cancel()
            self.ended(error)

    # As HTTP/2 wants it.

    def begin(self, connection: ClientConnection, stream: Stream) -> None:
        self._connection, self._stream = connection, stream
        self.send(stream)

    def head(self, status: int, fields: Mapping[bytes, bytes]) -> None:
        self._http_status, self._fields = status, fields
        if status == 200 and fields.get(b"content-type", b"").startswith(_CONTENT_TYPE):
            self._reader = MessageReader()

    def take(self, data: bytes | memoryview) -> None:
        if self._reader is None:
            return
        try:
            messages = self._reader.take(data)
        except ValueError as error:
            self.fail(RpcError(Code.INTERNAL, str(error)))
            return
        for message in messages:
            if not self.is_over:
                self._pass_on(message)

    def trailers(self, fields: Mapping[bytes, bytes]) -> None:
        self._fields = fields

    def end(self) -> None:
        error = error_of_headers(self._http_status, self._fields)
        if error is None and self._reader is not None and not self._reader.is_between:
            error = RpcError(Code.INTERNAL, "the answer ends within a message")
        self.fail(error) if error is not None else self._succeed()

    def has_room(self) -> bool:
        return True

    def gone(self, code: int | None) -> None:
        if self.is_over:
            return
        is_unseen = code == frames.REFUSED_STREAM and not self._http_status
        if is_unseen and not self._was_unseen and self.may_repeat():
            self._was_unseen, self._stream = True, None
            self._channel.begin(self)
        elif code is None:
            self.fail(RpcError(Code.UNAVAILABLE, self._connection.why))
        else:
            self.fail(error_of_reset(code, is_unseen))

    def stop(self) -> None:
        self.fail(RpcError(Code.UNAVAILABLE, CLOSED))

    def _pass_on(self, message: bytes) -> None:
        try:
            self.received(message)
        except Exception as error:  # it is that of this call, and no matter of the others
            self.fail(RpcError(Code.INTERNAL, f"an answer that cannot be read: {error!r}"))

    def _succeed(self) -> None:
        if not self.is_over:
            self.is_over = True
            self.ended(None)


class UnaryCall(Call):
    """A call of one message there and one back."""

    __slots__ = ("_body", "_deadline", "_loop", "_message", "answer")

    def __init__(self, channel: Begins, head: bytes, message: bytes, timeout: float | None) -> None:
        super().__init__(channel, head)
        self._loop = asyncio.get_running_loop()
        self._deadline = None if timeout is None else self._loop.time() + timeout
        self._body = framed(message)
        self._message: bytes | None = None
        self.answer: asyncio.Future[bytes] = self._loop.create_future()

    def send(self, stream: Stream) -> None:
        stream.send_whole(self._head, self._body)

    def received(self, message: bytes) -> None:
        if self._message is not None:
            self.fail(RpcError(Code.INTERNAL, "there is more than one answer"))
        self._message = message

    def may_repeat(self) -> bool:
        return True

    def ended(self, error: RpcError | None) -> None:
        if self.answer.done():
            return
        if error is None and self._message is None:
            error = RpcError(Code.INTERNAL, "there is no answer")
        if error is None:
            self.answer.set_result(self._message or b"")
        else:
            self.answer.set_exception(self._in_time(error))

    def _in_time(self, error: RpcError) -> RpcError:
        """A service may cancel what is late."""
        if error.code is Code.CANCELLED and self._deadline is not None and self._loop.time() >= self._deadline:
            return RpcError(Code.DEADLINE_EXCEEDED, "no answer in time")
        return error


class Partner(Protocol):
    """Who speaks on a stream of messages."""

    def received(self, message: bytes) -> None: ...

    def ended(self, error: RpcError | None) -> None: ...

    def room(self) -> None:
        """More can be sent, now that it could not."""

    def is_waiting(self) -> bool: ...


class StreamCall(Call):
    """A call of many messages, either way and in no order."""

    __slots__ = ("_partner",)

    def __init__(self, channel: Begins, head: bytes, partner: Partner) -> None:
        super().__init__(channel, head)
        self._partner = partner

    def can_write(self) -> bool:
        """Whether the service takes more; once it does again, the partner is told so."""
        return self._stream is not None and self._stream.unsent_bytes <= MAX_UNSENT_BYTES

    def write(self, message: bytes) -> None:
        if self._stream is not None:
            self._stream.send(framed(message))

    def finish(self) -> None:
        """Nothing more is to be written; the service ends the call when it has answered."""
        if self._stream is not None:
            self._stream.end()

    def is_leaving(self) -> bool:
        """Whether the service wants calls to begin anew, and go elsewhere with what they write."""
        return self._stream is not None and self._connection.is_leaving

    def send(self, stream: Stream) -> None:
        stream.on_room = self._partner.room
        stream.start(self._head)
        self._partner.room()

    def is_waiting(self) -> bool:
        return self._partner.is_waiting()

    def received(self, message: bytes) -> None:
        self._partner.received(message)

    def ended(self, error: RpcError | None) -> None:
        self._partner.ended(error)
