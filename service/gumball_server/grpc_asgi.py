"""gRPC as an ASGI application, for servers of HTTP/2 that send trailers and cancel the task of a call that is reset.

It takes the method handlers of grpcio's generated code as a `grpc.aio.Server` does, so that a servicer need not know
which of the two it is registered with.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, NoReturn

import grpc
from starlette.types import Receive, Scope, Send

from gumball_server import grpc_protocol
from gumball_server.domain import MalformedError, SamplingError
from gumball_server.grpc_protocol import Headers, Metadata, StatusError

log = logging.getLogger("gumball")

CONTENT_TYPE = b"application/grpc"
_HEADERS = [(b"content-type", CONTENT_TYPE), (b"grpc-accept-encoding", grpc_protocol.ACCEPTED_ENCODINGS)]
_START = {"type": "http.response.start", "status": 200, "headers": _HEADERS, "trailers": True}
_OK = [(b"grpc-status", b"0")]
_LATE = StatusError(grpc.StatusCode.DEADLINE_EXCEEDED, "not done by its deadline").headers()
_STOPPING = StatusError(grpc.StatusCode.UNAVAILABLE, "the server is shutting down").headers()
_DEFECT = StatusError(grpc.StatusCode.INTERNAL, "a defect of the service; its log has the cause").headers()


class Messages:
    """The messages of a request, as they arrive."""

    __slots__ = ("_buffer", "_encoding", "_ended", "_max_bytes", "_receive")

    def __init__(self, receive: Receive, encoding: bytes, max_bytes: int) -> None:
        self._receive = receive
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._buffer = b""
        self._ended = False

    async def next(self) -> bytes | None:
        """The next message, or None after the last. Raises SamplingError."""
        prefix = await self._take(grpc_protocol.PREFIX_BYTES)
        if not prefix:
            return None
        size = int.from_bytes(prefix[1:], "big")
        if size > self._max_bytes:
            raise grpc_protocol.too_large(self._max_bytes)
        message = await self._take(size)
        if prefix[0]:  # in a thread, for of a few bytes may come many
            return await asyncio.to_thread(grpc_protocol.inflate, message, self._encoding, self._max_bytes)
        return message

    async def only(self) -> bytes:
        """The one message of a request that has just one."""
        self._buffer = data = await self._more()
        size = len(data) - grpc_protocol.PREFIX_BYTES
        if 0 <= size <= self._max_bytes and data.startswith(grpc_protocol.prefix(size)):  # it is all here, as mostly
            if not self._ended:
                self._buffer += await self._more()  # the end comes by itself
            if self._ended and len(self._buffer) == len(data):
                return data[grpc_protocol.PREFIX_BYTES :]
        message = await self.next()
        if message is None or await self.next() is not None:
            raise MalformedError("the request must have one message")
        return message

    async def _take(self, size: int) -> bytes:
        """The next `size` bytes, or none at the end of the request."""
        chunks, missing = [self._buffer], size - len(self._buffer)
        while missing > 0 and not self._ended:
            chunks.append(await self._more())
            missing -= len(chunks[-1])
        data = b"".join(chunks)
        if missing > 0 and data:
            raise MalformedError("the request ends within a message")
        self._buffer = data[size:]
        return data[:size]

    async def _more(self) -> bytes:
        event = await self._receive()
        if event["type"] == "http.disconnect":
            raise asyncio.CancelledError
        self._ended = not event.get("more_body", False)
        body: bytes = event.get("body", b"")
        return body


class Context:
    """A call, as its handler sees it: what our servicers ask of a `grpc.aio.ServicerContext`."""

    __slots__ = (
        "_complete",
        "_deadline",
        "_handler",
        "_messages",
        "_scope",
        "_send",
        "_started",
        "_timeout",
        "_trailing",
    )

    def __init__(self, handler: Any, messages: Messages, scope: Scope, send: Send, timeout: bytes | None) -> None:
        self._handler = handler
        self._messages = messages
        self._scope = scope
        self._send = send
        self._timeout = timeout
        self._deadline: float | None = None
        self._started = self._complete = False  # the first message, or all, is on its way
        self._trailing: Metadata = ()

    @property
    def method(self) -> str:
        return str(self._scope["path"])

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return grpc_protocol.metadata(self._scope["headers"])

    def set_trailing_metadata(self, trailing_metadata: Metadata) -> None:
        self._trailing = trailing_metadata

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        raise StatusError(code, details, trailing_metadata)

    async def read(self) -> Any:
        """The next message of the caller, or grpc.aio.EOF."""
        message = await self._messages.next()
        return grpc.aio.EOF if message is None else self._deserialize(message)

    async def write(self, response: Any, *, is_last: bool = False) -> None:
        """Send a message; returns when there is room for more. Raises grpc.aio.InternalError if the caller is gone."""
        serialize = self._handler.response_serializer
        body = grpc_protocol.frame(serialize(response) if serialize else response)
        try:
            if not self._started:
                self._started = True
                await self._send(_START)
            await self._send({"type": "http.response.body", "body": body, "more_body": not is_last})
            self._complete = is_last
        except OSError as error:
            raise grpc.aio.InternalError("the caller is gone") from error

    async def serve(self) -> None:
        """Call the handler, and send what it answers."""
        if self._timeout is not None:
            self._deadline = time.monotonic() + grpc_protocol.seconds(self._timeout)
        if self._handler.unary_unary:  # keeps its deadline itself
            await self.write(await self._handler.unary_unary(await self._request(), self), is_last=True)
        else:
            async with asyncio.timeout(self.time_remaining()):
                await self._serve_stream()

    async def finish(self, status: Headers) -> None:
        """End the call: in trailers, or where no message went before, in one block of headers."""
        status = status + grpc_protocol.metadata_headers(self._trailing) if self._trailing else status
        if self._started:
            if not self._complete:
                await self._send({"type": "http.response.body", "body": b""})
            await self._send({"type": "http.response.trailers", "headers": status})
        else:
            await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS + status})
            await self._send({"type": "http.response.body", "body": b""})

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


class CallDetails(NamedTuple):
    """By which a generic handler finds a method."""

    method: str
    invocation_metadata: Metadata = ()


# Raises SamplingError for a call that may not go on, by its method and metadata.
Check = Callable[[str, Iterable[tuple[str, Any]]], None]


class GrpcApplication:
    """Serves what is registered with it.

    Messages may have `max_bytes`. `refuse` aborts the call of one that has more, or is not as gRPC wants it, or does
    not pass the `check`.
    """

    def __init__(
        self,
        max_bytes: int,
        refuse: Callable[[Context, SamplingError], Awaitable[None]],
        check: Check | None = None,
    ) -> None:
        self._max_bytes = max_bytes
        self._refuse = refuse
        self._check = check
        self._generic: list[grpc.GenericRpcHandler] = []
        self._handlers: dict[str, Any] = {}  # by path, of those called so far
        self._calls: set[asyncio.Task[Any]] = set()
        self._stopping = False

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        self._generic += handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Nothing: generated code registers the same handlers as generic ones."""

    def cancel_calls(self) -> None:
        """End what is still open, with UNAVAILABLE."""
        self._stopping = True
        for call in self._calls:
            call.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a call. The server cancels it when its caller gives it up."""
        headers = dict(scope["headers"]) if scope["type"] == "http" else {}
        if error := _http_error(scope, headers):
            await _refuse(scope, error, send)
            return
        messages = Messages(receive, headers.get(b"grpc-encoding", b"identity"), self._max_bytes)
        context = Context(self._handler(scope["path"]), messages, scope, send, headers.get(b"grpc-timeout"))
        call: Any = asyncio.current_task()
        self._calls.add(call)
        try:
            status = await self._status(context)
            with contextlib.suppress(OSError):  # the caller is gone
                await context.finish(status)
        finally:
            self._calls.discard(call)

    async def _status(self, context: Context) -> Headers:
        """That which a call comes to."""
        try:
            await self._serve(context)
        except StatusError as error:
            return error.headers()
        except TimeoutError:
            return _LATE
        except asyncio.CancelledError:
            if not self._stopping:
                raise
            return _STOPPING
        except Exception as error:
            if not isinstance(error, grpc.aio.InternalError):
                log.exception("a call failed")
            return _DEFECT
        return _OK

    async def _serve(self, context: Context) -> None:
        try:
            try:
                if self._check is not None:
                    self._check(context.method, context.invocation_metadata())
                await context.serve()
            except ExceptionGroup as group:  # of a handler that reads and writes in tasks
                raise _root(group) from None
        except SamplingError as error:
            await self._refuse(context, error)

    def _handler(self, path: str) -> Any:
        if path not in self._handlers:
            found = (generic.service(CallDetails(path)) for generic in self._generic)
            handler = next(filter(None, found), None)
            if handler is None:
                return _UNKNOWN
            self._handlers[path] = handler
        return self._handlers[path]


def _root(error: Exception) -> Exception:
    """What went wrong first."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def _refuse_unknown(messages: AsyncIterator[bytes], context: Context) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "there is no such method")


_UNKNOWN = grpc.stream_stream_rpc_method_handler(_refuse_unknown)


def _http_error(scope: Scope, headers: Mapping[bytes, bytes]) -> HTTPStatus | None:
    """The status that HTTP has for what is not a call of gRPC."""
    content_type = headers.get(b"content-type", b"")
    if content_type != CONTENT_TYPE and not content_type.startswith((CONTENT_TYPE + b"+", CONTENT_TYPE + b";")):
        return HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    if scope["method"] != "POST" or "http.response.trailers" not in scope["extensions"]:
        return HTTPStatus.BAD_REQUEST
    return None


async def _refuse(scope: Scope, status: HTTPStatus, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
    else:
        await send({"type": "http.response.start", "status": status})
        await send({"type": "http.response.body", "body": b""})
