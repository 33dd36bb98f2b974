"""A way to one service by gRPC: a connection that is opened by the first call, and by the next one once it is gone."""

import asyncio
import ssl
from functools import cache

from gumball._calls import CLOSED, Call, Partner, StreamCall, UnaryCall
from gumball._connect import Target, connect
from gumball._messages import timeout_value
from gumball._status import Code, RpcError
from gumball.http2.client import ClientConnection
from gumball.http2.endpoint import GOODBYE_SECONDS
from gumball.http2.headers import Headers, block, literals


@cache
def _user_agent() -> bytes:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"gumball/{version('gumball')}".encode()
    except PackageNotFoundError:  # a source tree
        return b"gumball"


class Channel:
    """Begins calls: at once where there is a connection, else when there is; all who wait share the attempt."""

    def __init__(self, target: Target, context: ssl.SSLContext | None) -> None:
        self._target = target
        self._context = context
        if context is not None:
            context.set_alpn_protocols(["h2"])
        self._connection: ClientConnection | None = None
        self._connections: set[ClientConnection] = set()  # that one, and those that only end what they began
        self._waiting: list[Call] = []
        self._connecting: asyncio.Task[None] | None = None
        self._is_closed = False

    def head(self, path: str, metadata: Headers) -> bytes:
        """The header block of calls of a method."""
        fields = [
            (b":method", b"POST"),
            (b":scheme", b"https" if self._target.is_tls else b"http"),
            (b":path", path.encode()),
            (b":authority", self._target.authority.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        ]
        if not any(name == b"user-agent" for name, _ in metadata):
            fields.append((b"user-agent", _user_agent()))
        return block(fields + metadata)

    async def unary(
        self,
        head: bytes,
        message: bytes,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that the service is told, not one to wait here
        metadata: Headers | None = None,
    ) -> bytes:
        """The answer to a message; `metadata` is that of this call alone. Raises RpcError."""
        more = list(metadata or ())
        if timeout is not None:
            more.append((b"grpc-timeout", timeout_value(timeout)))
        call = UnaryCall(self, head + literals(more) if more else head, message, timeout)
        self.begin(call)
        try:
            return await call.answer
        except asyncio.CancelledError:
            call.cancel()
            raise

    def stream(self, head: bytes, partner: Partner) -> StreamCall:
        """Begin a call of many messages."""
        call = StreamCall(self, head, partner)
        self.begin(call)
        return call

    def begin(self, call: Call) -> None:
        """Begin a call, now or when there is a connection."""
        if self._connection is not None and not self._connection.is_leaving:
            self._connection.begin(call)
        elif self._is_closed:
            call.fail(RpcError(Code.UNAVAILABLE, CLOSED))
        else:
            self._waiting.append(call)
            if self._connecting is None:
                self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def close(self) -> None:
        """End all calls, and the connections."""
        self._is_closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        for call in self._take_waiting():
            call.stop()
        connections = list(self._connections)
        for connection in connections:
            connection.close()
        if connections:
            await asyncio.wait([each.closed for each in connections], timeout=2 * GOODBYE_SECONDS)

    async def _connect(self) -> None:
        try:
            connection = await connect(self._target, self._context, self._connections)
        except RpcError as error:
            self._connecting = None
            for call in self._take_waiting():
                call.fail(error)
        else:
            self._connection, self._connecting = connection, None
            for call in self._take_waiting():
                if not call.is_over:
                    connection.begin(call)

    def _take_waiting(self) -> list[Call]:
        waiting, self._waiting = self._waiting, []
        return waiting
