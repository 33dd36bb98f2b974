"""Calls of gRPC on streams of HTTP/2.

It takes the method handlers of grpcio's generated code as a `grpc.aio.Server` does, so that a servicer need not know
which of the two it is registered with.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from functools import cached_property, partial
from http import HTTPStatus
from typing import Any, NamedTuple, NoReturn

import grpc
from gumball.http2.headers import block
from gumball.http2.pieces import Pieces
from gumball.http2.stream import NOBODY, Open, Receiver, Stream

from gumball_server import grpc_protocol
from gumball_server.domain import MalformedError, SamplingError
from gumball_server.grpc_protocol import PREFIX_BYTES, Headers, Metadata, StatusError

log = logging.getLogger("gumball")

CONTENT_TYPE = b"application/grpc"
_HEADERS = [
    (b":status", b"200"),
    (b"content-type", CONTENT_TYPE),
    (b"grpc-accept-encoding", grpc_protocol.ACCEPTED_ENCODINGS),
]
STATUS_OK = [(b"grpc-status", b"0")]
START, OK = block(_HEADERS), block(STATUS_OK)
LATE = StatusError(grpc.StatusCode.DEADLINE_EXCEEDED, "not done by its deadline")
STOPPING = StatusError(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
DEFECT = StatusError(grpc.StatusCode.INTERNAL, "a defect of the service; its log has the cause")

_MESSAGE_BYTES = 128  # that a message takes beside its own
UNREAD_BYTES = 1 << 20  # of messages that a handler has not read yet; then its stream is not read on


class Head:
    """What a call begins with. Calls that begin with the same bytes share one."""

    def __init__(self, headers: Headers) -> None:
        fields = dict(headers)
        self.method = fields[b":path"].decode("latin-1")
        self.encoding = fields.get(b"grpc-encoding", b"identity")
        self.headers = [pair for pair in headers if not pair[0].startswith(b":")]
        self._timeout = fields.get(b"grpc-timeout")

    @cached_property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What the caller sent along."""
        return grpc_protocol.metadata(self.headers)

    @cached_property
    def seconds(self) -> float | None:
        """In which the call is to be done. Raises SamplingError."""
        return None if self._timeout is None else grpc_protocol.seconds(self._timeout)


class Messages:
    """The messages of a request, as they arrive."""

    def __init__(self, stream: Stream, encoding: bytes, max_bytes: int) -> None:
        self._stream = stream
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._pieces, self._needed = Pieces(), PREFIX_BYTES  # of a message that is not whole; bytes until more is known
        self._whole: deque[tuple[int, bytes]] = deque()  # whether it is compressed, and a message
        self._unread_bytes = 0
        self._error: SamplingError | None = None  # after those
        self._has_ended = False
        self._waiting: asyncio.Future[None] | None = None

    def take(self, data: bytes | memoryview) -> None:
        """More of the request."""
        self._pieces.add(data)
        if self._pieces.size >= self._needed and self._error is None:
            self._cut(self._pieces.joined())
            self._wake()

    def end(self) -> None:
        self._has_ended = True
        if self._pieces.size and self._error is None:
            self._error = MalformedError("the request ends within a message")
        self._wake()

    def has_room(self) -> bool:
        return self._unread_bytes < UNREAD_BYTES

    async def next(self) -> bytes | None:
        """The next message, or None after the last. Raises SamplingError."""
        while not self._whole:
            if self._error is not None:
                raise self._error
            if self._has_ended:
                return None
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        is_compressed, message = self._whole.popleft()
        self._unread_bytes -= len(message) + _MESSAGE_BYTES
        self._stream.read_on()
        if is_compressed:  # in a thread, for of a few bytes may come many
            return await asyncio.to_thread(grpc_protocol.inflate, message, self._encoding, self._max_bytes)
        return message

    async def only(self) -> bytes:
        """The one message of a request that has just one."""
        message = await self.next()
        if message is None or await self.next() is not None:
            raise MalformedError("the request must have one message")
        return message

    def _cut(self, data: bytes) -> None:
        """Take the whole messages off."""
        at = 0
        while (rest := len(data) - at) >= PREFIX_BYTES:
            start = at + PREFIX_BYTES
            size = int.from_bytes(data[at + 1 : start], "big")
            if size > self._max_bytes:
                self._error = grpc_protocol.too_large(self._max_bytes)
                return
            self._needed = PREFIX_BYTES + size
            if rest < self._needed:
                break
            self._whole.append((data[at], data[start : start + size]))
            self._unread_bytes += size + _MESSAGE_BYTES
            at, self._needed = start + size, PREFIX_BYTES
        self._pieces = Pieces()
        if rest:
            self._pieces.add(data[at:])

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class Context:
    """A call, as its handler sees it: what our servicers ask of a `grpc.aio.ServicerContext`."""

    def __init__(self, handler: Any, head: Head, stream: Stream, messages: Messages) -> None:
        self._handler = handler
        self._head = head
        self._stream = stream
        self._messages = messages
        self._arrived = asyncio.get_running_loop().time()
        self._has_started = False  # the response
        self._trailing: Metadata = ()

    @property
    def method(self) -> str:
        return self._head.method

    def time_remaining(self) -> float | None:
        seconds = self._head.seconds
        return None if seconds is None else max(0.0, self._arrived + seconds - asyncio.get_running_loop().time())

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._head.metadata

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        self._trailing = trailing_metadata

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        raise StatusError(code, details, trailing_metadata)

    async def read(self) -> Any:
        """The next message of the caller, or grpc.aio.EOF."""
        message = await self._messages.next()
        return grpc.aio.EOF if message is None else self._deserialize(message)

    async def write(self, response: Any) -> None:
        """Send a message; returns when there is room for more."""
        if not self._has_started:
            self._has_started = True
            self._stream.start(START)
        self._stream.send(self._framed(response))
        await self._stream.room()

    async def serve(self) -> None:
        """Call the handler, and send what it answers."""
        remaining = self.time_remaining()
        if self._handler.unary_unary:  # keeps its deadline itself
            answer = await self._handler.unary_unary(await self._request(), self)
            self._stream.send_whole(START, self._framed(answer), self._trailers(STATUS_OK))
        else:
            async with asyncio.timeout(remaining):
                await self._serve_stream()
            self.finish(STATUS_OK)

    def finish(self, status: Headers) -> None:
        """End the call: in trailers, or where no message went before, in one block of headers."""
        self._stream.end(self._trailers(status if self._has_started else _HEADERS + status))

    async def _serve_stream(self) -> None:
        handler = self._handler
        if handler.request_streaming:
            answering = handler.stream_stream(self._requests(), self)
        else:
            answering = handler.unary_stream(await self._request(), self)
        if isinstance(answering, AsyncIterator):
            async for response in answering:
                await self.write(response)
        else:
            await answering  # it calls `write`

    async def _request(self) -> Any:
        return self._deserialize(await self._messages.only())

    async def _requests(self) -> AsyncIterator[Any]:
        while (message := await self._messages.next()) is not None:
            yield self._deserialize(message)

    def _deserialize(self, message: bytes) -> Any:
        deserialize = self._handler.request_deserializer
        return deserialize(message) if deserialize else message

    def _framed(self, response: Any) -> bytes:
        serialize = self._handler.response_serializer
        return grpc_protocol.frame(serialize(response) if serialize else response)

    def _trailers(self, status: Headers) -> bytes:
        return block(status + grpc_protocol.metadata_headers(self._trailing))


class CallDetails(NamedTuple):
    """By which a generic handler finds a method."""

    method: str
    invocation_metadata: Metadata = ()


# Raises SamplingError for a call that may not go on, by its method and metadata.
Check = Callable[[str, Iterable[tuple[str, Any]]], None]
Refuse = Callable[[Context, SamplingError], Awaitable[None]]
OpenCall = Callable[[Head, Stream], Receiver]


class GrpcApplication:
    """Serves what is registered with it.

    Messages may have `max_bytes`. `refuse` aborts the call of one that has more, or is not as gRPC wants it, or does
    not pass the `check`. Calls of some methods may be opened by functions of their own, in place of handlers.
    """

    def __init__(
        self,
        max_bytes: int,
        refuse: Refuse,
        check: Check | None = None,
        open_calls: Mapping[str, OpenCall] | None = None,
    ) -> None:
        self.max_bytes = max_bytes
        self.refuse = refuse
        self.check = check
        self._open_calls = open_calls or {}
        self._generic: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        self._generic += handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Nothing: generated code registers the same handlers as generic ones."""

    def route(self, headers: Headers) -> Open:
        """What opens a call with these headers."""
        if error := _http_error(dict(headers)):
            return partial(_refuse, error)
        head = Head(headers)
        if (open_call := self._open_calls.get(head.method)) is not None:
            return partial(open_call, head)
        found = (generic.service(CallDetails(head.method)) for generic in self._generic)
        return partial(HandledCall, self, next(filter(None, found), _UNKNOWN), head)


class HandledCall:
    """A call of a handler, which is a task."""

    def __init__(self, application: GrpcApplication, handler: Any, head: Head, stream: Stream) -> None:
        self._application = application
        self._messages = Messages(stream, head.encoding, application.max_bytes)
        self._context = Context(handler, head, stream, self._messages)
        self._is_stopping = False
        self.take, self.end, self.has_room = self._messages.take, self._messages.end, self._messages.has_room
        self._task = asyncio.ensure_future(self._run())

    def gone(self, code: int | None) -> None:
        self._task.cancel()

    def stop(self) -> None:
        self._is_stopping = True
        self._task.cancel()

    async def _run(self) -> None:
        try:
            await self._serve()
        except StatusError as error:
            status = error
        except TimeoutError:
            status = LATE
        except asyncio.CancelledError:
            if not self._is_stopping:
                raise
            status = STOPPING
        except Exception:
            log.exception("a call failed")
            status = DEFECT
        else:
            return
        self._context.finish(status.headers())

    async def _serve(self) -> None:
        context, application = self._context, self._application
        try:
            try:
                if application.check is not None:
                    application.check(context.method, context.invocation_metadata())
                await context.serve()
            except ExceptionGroup as group:  # of a handler that reads and writes in tasks
                raise _root(group) from None
        except SamplingError as error:
            await application.refuse(context, error)


def only_block(status: StatusError) -> bytes:
    """The header block of a response that has no message."""
    return block(_HEADERS + status.headers())


def _refuse(status: HTTPStatus, stream: Stream) -> Receiver:
    """Answer as HTTP does what is no call of gRPC."""
    stream.end(block([(b":status", b"%d" % status)]))
    return NOBODY


def _root(error: Exception) -> Exception:
    """What went wrong first."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def _refuse_unknown(messages: AsyncIterator[bytes], context: Context) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "there is no such method")


_UNKNOWN = grpc.stream_stream_rpc_method_handler(_refuse_unknown)


def _http_error(headers: Mapping[bytes, bytes]) -> HTTPStatus | None:
    """The status that HTTP has for what is not a call of gRPC."""
    content_type = headers.get(b"content-type", b"")
    if content_type != CONTENT_TYPE and not content_type.startswith((CONTENT_TYPE + b"+", CONTENT_TYPE + b";")):
        return HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    return HTTPStatus.METHOD_NOT_ALLOWED if headers[b":method"] != b"POST" else None
