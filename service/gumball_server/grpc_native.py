"""gRPC without grpcio's server: on our own HTTP/2, in this process and on its event loop.

A call of `Sample` needs no coroutine and no task here: its message goes to the batcher as soon as it is whole, and its
answer is one write.
"""

import asyncio
import socket
from functools import partial

import grpc
from gumball.http2.endpoint import GOODBYE_SECONDS
from gumball.http2.headers import block
from gumball.http2.pieces import Pieces
from gumball.http2.stream import Stream

from gumball_server import grpc_protocol
from gumball_server.domain import SampleRequest, SamplingError
from gumball_server.exchange import Exchange, Headers
from gumball_server.grpc_calls import OK, START, STATUS_OK, STOPPING, Check, GrpcApplication, Head, only_block
from gumball_server.grpc_protocol import PREFIX_BYTES
from gumball_server.grpc_sample import SAMPLE, SampleCall, status_of
from gumball_server.grpc_server import SamplingService, add_services
from gumball_server.grpc_stream import Streams
from gumball_server.http2.connection import Connection
from gumball_server.http2.lifetime import HANDSHAKE_SECONDS, Ages
from gumball_server.info import Info
from gumball_server.lifecycle import Lifecycle
from gumball_server.security import Certificates
from gumball_server.settings import Settings

BACKLOG = 2048
SHUTDOWN_SECONDS = 5.0  # in which a client is to take the last of what it is sent, and to end TLS


class NativeCall(SampleCall):
    """A call on a stream, whose message is to have `max_bytes` at most."""

    __slots__ = (
        "_fault",
        "_first",
        "_framed",
        "_head",
        "_is_answered",
        "_is_begun",
        "_max_bytes",
        "_more",
        "_stream",
    )

    def __init__(self, exchange: Exchange, max_bytes: int, check: Check | None, head: Head, stream: Stream) -> None:
        super().__init__(exchange)
        self._max_bytes = max_bytes
        self._head = head
        self._stream = stream
        self._first: bytes | memoryview = b""  # piece of the body, as a rule all of it
        self._more: Pieces | None = None  # else, all but the prefix of the message
        self._is_begun = self._is_answered = False
        self._framed = b""  # all of it, where the prefix tells of more than the length of what follows
        self._fault: SamplingError | None = None
        exchange.open()
        if check is not None:
            try:
                check(head.method, head.metadata)
            except SamplingError as error:
                self._fail(error)

    def take(self, data: bytes | memoryview) -> None:
        if not self._first:
            self._first = data
            return
        if self._more is None:
            self._more = Pieces()
            self._more.add(self._first[PREFIX_BYTES:])
        self._more.add(data)
        if max(self._more.size, int.from_bytes(self._first[1:PREFIX_BYTES], "big")) > self._max_bytes:
            self._fail(grpc_protocol.too_large(self._max_bytes))

    def end(self) -> None:
        prefix = self._first[:PREFIX_BYTES]
        body = bytes(self._first[PREFIX_BYTES:]) if self._more is None else self._more.joined()
        self._is_begun = True
        if prefix == grpc_protocol.prefix(len(body)) and len(body) <= self._max_bytes:
            self.body = body
            self.begin()
        else:
            self._framed = b"".join((prefix, body))
            self.has_large_body = True  # of a few bytes that are compressed may come many
            self.exchange.begin(self)

    def has_room(self) -> bool:
        return True

    def gone(self, code: int | None) -> None:
        if not self._is_answered and not (self._is_begun and self.is_due()):  # else its deadline ends it
            self.exchange.abandon(self)

    def stop(self) -> None:
        if not self._is_answered:
            self.exchange.abandon(self)
            self._stream.end(only_block(STOPPING))

    def headers(self) -> Headers:
        return self._head.headers

    def decode(self) -> tuple[SampleRequest, float | None]:
        if self._fault is not None:
            raise self._fault
        self.seconds = self._head.seconds
        if self._framed:
            self.body = grpc_protocol.only_message(self._framed, self._head.encoding, self._max_bytes)
        return super().decode()

    def reply(self, answer: bytes) -> None:
        self._is_answered = True
        metadata = grpc_protocol.metadata_headers(self.trace_metadata())
        trailers = block(STATUS_OK + metadata) if metadata else OK
        self._stream.send_whole(START, grpc_protocol.frame(answer), trailers)

    def refuse(self, error: SamplingError) -> None:
        self._is_answered = True
        self._stream.end(only_block(status_of(error, self.trace_metadata())))

    def _fail(self, fault: SamplingError) -> None:
        """Refuse it before it is whole."""
        self._fault, self._is_begun = fault, True
        self.exchange.begin(self)


class NativeServer:
    """Starts and stops as a `grpc.aio.Server` does; TLS, where there are certificates, is not for Unix sockets."""

    def __init__(
        self, application: GrpcApplication, sockets: list[socket.socket], certificates: Certificates | None, ages: Ages
    ) -> None:
        self._sockets = sockets
        self._certificates = certificates
        self._connections: set[Connection] = set()
        self._connect = partial(Connection, application.route, ages, self._connections)
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        """Raises OSError."""
        for listener in self._sockets:
            tls = self._certificates.http2 if self._certificates and listener.family != socket.AF_UNIX else None
            server = await asyncio.get_running_loop().create_server(
                self._connect,
                sock=listener,
                backlog=BACKLOG,
                ssl=tls,
                ssl_handshake_timeout=HANDSHAKE_SECONDS if tls else None,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS if tls else None,
            )
            self._servers.append(server)

    async def stop(self, grace: float) -> None:
        """Stop accepting, and return when all calls have ended; those open after `grace` seconds are cancelled."""
        for server in self._servers:
            server.close()
        for connection in list(self._connections):
            connection.leave()
        await self._closed(grace)
        for connection in list(self._connections):
            connection.stop()
        await self._closed(2 * GOODBYE_SECONDS)

    async def _closed(self, seconds: float) -> None:
        if self._connections:
            await asyncio.wait([connection.closed for connection in self._connections], timeout=seconds)


def create_application(
    exchange: Exchange,
    streams: Streams,
    lifecycle: Lifecycle,
    info: Info,
    settings: Settings,
    inference_handlers: grpc.GenericRpcHandler,
    check: Check | None,
) -> GrpcApplication:
    """What `grpc_server.create_server` serves, for a NativeServer."""
    service = SamplingService(exchange, streams, info)
    open_sample = partial(NativeCall, exchange, settings.max_request_bytes, check)
    application = GrpcApplication(settings.max_request_bytes, service.refuse, check, {f"/{SAMPLE}": open_sample})
    add_services(application, service, lifecycle, inference_handlers)
    return application
