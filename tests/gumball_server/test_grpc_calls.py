"""Handlers on our own HTTP/2 as a client of grpcio meets them, and requests that no such client sends."""

import asyncio
import gzip
import itertools
import logging
import socket
import zlib
from collections.abc import AsyncIterator

import grpc
import hpack
import pytest
from gumball_server.domain import Reason, SamplingError
from gumball_server.grpc_calls import Context, GrpcApplication
from gumball_server.grpc_native import NativeServer
from gumball_server.http2.lifetime import Ages

MAX_BYTES = 8 << 20
DETAILS = "100 % voll: Größe, 日本"
SECONDS = 10
CODES = {
    Reason.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.MEDIA_TYPE: grpc.StatusCode.UNIMPLEMENTED,
}


class Service:
    """A handler of each kind; `events` tells what became of those that wait."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[str] = asyncio.Queue()

    async def echo(self, body: bytes, context: Context) -> bytes:
        return body

    async def wait(self, body: bytes, context: Context) -> bytes:
        await self.events.put("waits")
        try:
            await asyncio.sleep(float(body))
        except asyncio.CancelledError:
            await self.events.put("cancelled")
            raise
        return b"waited"

    async def fail(self, body: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, DETAILS, (("of-bin", b"\x00\xff\x01"), ("of", "text")))

    async def break_down(self, body: bytes, context: Context) -> bytes:
        raise ValueError("secret")

    async def tell(self, body: bytes, context: Context) -> bytes:
        return repr(sorted(context.invocation_metadata())).encode()

    async def count(self, body: bytes, context: Context) -> AsyncIterator[bytes]:
        for n in range(int(body)):
            yield b"%d" % n

    async def shout(self, messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for message in messages:
            yield message.upper()

    async def turns(self, messages: AsyncIterator[bytes], context: Context) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            await context.write(message * 2)

    async def group(self, messages: AsyncIterator[bytes], context: Context) -> None:
        """Reads in a task of its own."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.turns(messages, context))

    async def burst(self, messages: AsyncIterator[bytes], context: Context) -> None:
        """Writes from several tasks at once."""
        await asyncio.gather(*(context.write(bytes([n]) * 100_000) for n in range(100)))

    async def watch(self, body: bytes, context: Context) -> None:
        await context.write(b"first")
        await self.wait(body, context)

    def handlers(self) -> grpc.GenericRpcHandler:
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        both = grpc.stream_stream_rpc_method_handler
        methods = {each: unary(getattr(self, each)) for each in ("echo", "wait", "fail", "break_down", "tell")}
        methods |= {each: stream(getattr(self, each)) for each in ("count", "watch")}
        methods |= {each: both(getattr(self, each)) for each in ("shout", "turns", "group", "burst")}
        return grpc.method_handlers_generic_handler("test.Service", methods)


def application_of(service: Service) -> GrpcApplication:
    async def refuse(context: Context, error: SamplingError) -> None:
        await context.abort(CODES[error.reason], error.reason.value)

    application = GrpcApplication(MAX_BYTES, refuse)
    application.add_generic_rpc_handlers((service.handlers(),))
    return application


class Running:
    """A server of the service, and a channel to it."""

    def __init__(self) -> None:
        self.service = Service()
        listener = socket.create_server(("127.0.0.1", 0))
        address = "{}:{}".format(*listener.getsockname())
        self.server = NativeServer(application_of(self.service), [listener], None, Ages(0, 0, 0))
        self.channel = grpc.aio.insecure_channel(address, [("grpc.max_receive_message_length", -1)])

    def unary(self, method: str, body: bytes = b"", timeout: float = SECONDS, **options) -> grpc.aio.UnaryUnaryCall:
        return self.channel.unary_unary(f"/test.Service/{method}")(body, timeout=timeout, **options)

    def stream(self, method: str, body: bytes = b"", timeout: float = SECONDS) -> grpc.aio.UnaryStreamCall:
        return self.channel.unary_stream(f"/test.Service/{method}")(body, timeout=timeout)

    def both(self, method: str) -> grpc.aio.StreamStreamCall:
        return self.channel.stream_stream(f"/test.Service/{method}")(timeout=SECONDS)

    async def event(self) -> str:
        return await asyncio.wait_for(self.service.events.get(), SECONDS)


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    running = Running()
    await running.server.start()
    yield running
    await running.channel.close()
    await running.server.stop(0)


@pytest.mark.parametrize("size", [0, 1, 65_536, MAX_BYTES])
async def test_messages_of_any_size_pass_both_ways(running, size):
    """Up to the limit itself."""
    body = bytes(range(256)) * (size // 256 + 1)
    assert await running.unary("echo", body[:size]) == body[:size]


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_messages_are_read(running, compression):
    """As a client sends them whose channel compresses."""
    assert await running.unary("echo", b"x" * 100_000, compression=compression) == b"x" * 100_000


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
async def test_a_message_over_the_limit_is_refused_and_the_channel_serves_on(running, compression):
    """Be it so after decompression only."""
    call = running.unary("echo", bytes(MAX_BYTES + 1), compression=compression)
    assert (await call.code(), await call.details()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE")
    assert await running.unary("echo", b"next") == b"next"


async def test_a_status_has_its_message_and_metadata(running):
    """Text beyond ASCII, and bytes."""
    call = running.unary("fail")
    assert (await call.code(), await call.details()) == (grpc.StatusCode.OUT_OF_RANGE, DETAILS)
    trailing = dict(await call.trailing_metadata())
    assert (trailing["of-bin"], trailing["of"]) == (b"\x00\xff\x01", "text")


async def test_metadata_of_the_caller_reaches_the_handler(running):
    """Text and bytes; what is gRPC's own is left out."""
    told = await running.unary("tell", metadata=(("key", "value"), ("key-bin", b"\x00\xff")))
    assert "('key', 'value'), ('key-bin', b'\\x00\\xff')" in told.decode()
    assert "grpc-timeout" not in told.decode()


async def test_a_defect_is_internal_and_tells_nothing(running, caplog):
    """Its cause goes to the log alone."""
    with caplog.at_level(logging.ERROR):
        call = running.unary("break_down")
        assert await call.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in await call.details()
    assert "secret" in caplog.text


async def test_streams_of_all_kinds(running):
    """A handler may iterate and yield, or read and write in turn."""
    assert [each async for each in running.stream("count", b"3")] == [b"0", b"1", b"2"]
    for method, answer in (("shout", b"A"), ("turns", b"aa")):
        call = running.both(method)
        for _ in range(3):
            await call.write(b"a")
            assert await call.read() == answer
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is grpc.StatusCode.OK


async def test_tasks_of_a_handler_may_write_at_once(running):
    """Messages stay whole."""
    call = running.both("burst")
    await call.done_writing()
    assert sorted([each async for each in call]) == [bytes([n]) * 100_000 for n in range(100)]


@pytest.mark.parametrize("method", ["wait", "watch"])
async def test_a_caller_who_leaves_cancels_the_handler(running, method):
    """Of a single call and of a stream."""
    call = (running.unary if method == "wait" else running.stream)(method, b"3600")
    assert await running.event() == "waits"
    call.cancel()
    assert await running.event() == "cancelled"


@pytest.mark.parametrize("method", ["wait", "watch"])
async def test_a_deadline_ends_the_handler(running, method):
    """It is not left waiting for nobody."""
    call = (running.unary if method == "wait" else running.stream)(method, b"3600", timeout=0.2)
    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert [await running.event(), await running.event()] == ["waits", "cancelled"]


async def test_a_stop_waits_for_calls_and_ends_those_that_stay(running):
    """What is done within the grace is answered, the rest is told why."""
    short, long = running.unary("wait", b"0.3"), running.stream("watch", b"3600")
    assert await long.read() == b"first"
    assert [await running.event(), await running.event()] == ["waits", "waits"]
    await running.server.stop(1)
    assert await short == b"waited"
    assert await long.code() is grpc.StatusCode.UNAVAILABLE
    late = running.unary("echo")
    assert await late.code() is grpc.StatusCode.UNAVAILABLE


# Requests that no client of grpcio sends.

CALL = {b"content-type": b"application/grpc", b"te": b"trailers"}


class Sent:
    """A stream that keeps what is sent on it: the fields of all headers, in order."""

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.ended = asyncio.Event()
        self.decoder = hpack.Decoder()

    def start(self, head: bytes) -> None:
        self.fields += self.decoder.decode(head, raw=True)

    def send(self, data: bytes) -> None: ...

    def end(self, trailers: bytes) -> None:
        self.fields += self.decoder.decode(trailers, raw=True)
        self.ended.set()

    def send_whole(self, head: bytes, body: bytes, trailers: bytes) -> None:
        self.start(head)
        self.end(trailers)

    async def room(self) -> None: ...

    def read_on(self) -> None: ...


async def answer(
    body: bytes,
    path: str = "/test.Service/echo",
    cuts: tuple[int, ...] = (3,),
    headers: dict[bytes, bytes] = CALL,
    method: bytes = b"POST",
) -> tuple[int, dict[bytes, bytes]]:
    """The status of HTTP and all headers and trailers of a response to a body that arrives in pieces."""
    head = [(b":method", method), (b":path", path.encode()), *headers.items()]
    receiver = application_of(Service()).route(head)(sent := Sent())
    for start, end in itertools.pairwise((0, *cuts, len(body))):
        receiver.take(body[start:end])
        await asyncio.sleep(0)
    receiver.end()
    await asyncio.wait_for(sent.ended.wait(), SECONDS)
    fields = dict(sent.fields)
    return int(fields[b":status"]), fields


def framed(message: bytes, compressed: int = 0) -> bytes:
    return bytes([compressed]) + len(message).to_bytes(4, "big") + message


GZIP, DEFLATE = CALL | {b"grpc-encoding": b"gzip"}, CALL | {b"grpc-encoding": b"deflate"}
OK, INVALID, UNIMPLEMENTED, EXHAUSTED = b"0", b"3", b"12", b"8"


@pytest.mark.parametrize("method", ["echo", "shout", "group"])
@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (framed(b"message"), CALL, OK),
        (framed(gzip.compress(b"message"), 1), GZIP, OK),
        (framed(zlib.compress(b"message"), 1), DEFLATE, OK),
        (framed(b"message"), GZIP, OK),  # each message says whether it is compressed
        (b"", CALL, INVALID),
        (framed(b"message")[:-1], CALL, INVALID),
        (framed(b"message")[:4], CALL, INVALID),
        (framed(b"one") + framed(b"two"), CALL, INVALID),
        (framed(b"message", 1), CALL, UNIMPLEMENTED),
        (framed(b"message", 1), CALL | {b"grpc-encoding": b"snappy"}, UNIMPLEMENTED),
        (framed(b"message", 1), GZIP, INVALID),
        (framed(gzip.compress(b"message")[:-9], 1), GZIP, INVALID),
        (framed(gzip.compress(bytes(MAX_BYTES + 1)), 1), GZIP, EXHAUSTED),
        (framed(gzip.compress(bytes(MAX_BYTES)), 1), GZIP, OK),
        (b"\0\xff\xff\xff\xff", CALL, EXHAUSTED),
        (framed(b""), CALL | {b"grpc-timeout": b"5"}, INVALID),
        (framed(b""), CALL | {b"grpc-timeout": b"123456789S"}, INVALID),
        (framed(b""), CALL | {b"grpc-timeout": b"99999999H"}, OK),
    ],
)
async def test_a_malformed_call_is_refused(method, body, headers, status):
    """With a status, whatever kind of handler reads it."""
    http, told = await answer(body, f"/test.Service/{method}", headers=headers)
    if method != "echo" and body in (b"", framed(b"one") + framed(b"two")):
        status = OK  # a stream may have any number of messages
    assert (http, told[b"grpc-status"]) == (200, status)
    assert told[b"grpc-accept-encoding"] == b"identity,gzip,deflate"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (framed(b"message"), OK),
        (framed(b""), OK),
        (framed(b"one") + framed(b"two"), INVALID),
        (framed(b"one") + b"\0", INVALID),
        (framed(b"message")[:-1], INVALID),
        (b"", INVALID),
    ],
)
async def test_a_body_may_arrive_in_any_pieces(body, status):
    """Its end with the last of them, or by itself."""
    for cuts in itertools.combinations_with_replacement(range(len(body) + 1), 2):
        for pieces in ((), cuts[:1], cuts, (*cuts, len(body))):
            http, told = await answer(body, cuts=pieces)
            assert (http, told[b"grpc-status"]) == (200, status), pieces


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"headers": {}}, 415),
        ({"headers": {b"content-type": b"text/plain"}}, 415),
        ({"headers": {b"content-type": b"application/grpc-web"}}, 415),
        ({"headers": {b"content-type": b"application/grpc+proto"}}, 200),
        ({"method": b"GET"}, 405),
    ],
)
async def test_what_is_no_call_of_grpc_is_refused_by_http(request_, status):
    """As a browser or a probe would send it."""
    assert (await answer(framed(b""), **request_))[0] == status
