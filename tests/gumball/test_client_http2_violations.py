"""Services that break the rules of HTTP/2, or send anything at all: calls fail soon and in words, and others go on."""

import asyncio
from collections.abc import Callable

import pytest
from gumball import AsyncClient, errors
from http2_frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    LARGEST_WINDOW,
    NEW,
    PADDED,
    PLAIN,
    Code,
    Kind,
    Setting,
    frame,
    indexed,
    literal,
    ping,
    reset,
    resize,
    settings,
    uint32,
    window_update,
)
from http2_peer import HEAD, OK, Asked, Headers, Peer, framed, response
from http2_scripts import LARGE, LOGITS, answering, draw, failure, in_time, scripted

pytestmark = pytest.mark.usefixtures("nothing_is_lost")

each_logits = pytest.mark.parametrize("logits", [LOGITS, LARGE], ids=["stream", "alone"])
P, F, S, W, H, C = (
    Code.PROTOCOL_ERROR,
    Code.FRAME_SIZE_ERROR,
    Code.STREAM_CLOSED,
    Code.FLOW_CONTROL_ERROR,
    Code.COMPRESSION_ERROR,
    Code.ENHANCE_YOUR_CALM,
)


def headers(block: bytes, stream: int = 1, flags: int = END_HEADERS) -> bytes:
    return frame(Kind.HEADERS, flags, stream, block)


# Of the connection: what is sent while a call waits on stream 1, and the codes by which the client may end it.

FATAL: dict[str, tuple[bytes, set[Code]]] = {
    "DATA of no stream": (frame(Kind.DATA, 0, 0, b"x"), {P}),
    "DATA of an idle stream": (frame(Kind.DATA, 0, 99, b"x"), {P, S}),
    "DATA of an even stream": (frame(Kind.DATA, 0, 2, b"x"), {P, S}),
    "DATA of padding alone, and too much": (frame(Kind.DATA, PADDED, 1, b"\x05xxxx"), {P}),
    "DATA without a length of padding": (frame(Kind.DATA, PADDED, 1), {P, F}),
    "HEADERS of no stream": (headers(b"\x88", 0), {P}),
    "HEADERS of an idle stream": (headers(b"\x88", 99), {P, S}),
    "HEADERS of an even stream": (headers(b"\x88", 2), {P, S}),
    "HEADERS of padding": (headers(b"\x09\x88", flags=END_HEADERS | PADDED), {P}),
    "HEADERS with half a priority": (headers(b"\0\0\0", flags=END_HEADERS | 0x20), {P, F}),
    "HEADERS that stop": (headers(b"\x88", flags=0) + ping(), {P}),
    "HEADERS that go on elsewhere": (headers(b"\x88", flags=0) + frame(Kind.CONTINUATION, END_HEADERS, 3), {P}),
    "CONTINUATION of nothing": (frame(Kind.CONTINUATION, END_HEADERS, 1, b"\x88"), {P}),
    "RST_STREAM of no stream": (reset(0), {P}),
    "RST_STREAM of an idle stream": (reset(99), {P}),
    "RST_STREAM of three bytes": (frame(Kind.RST_STREAM, 0, 1, bytes(3)), {F}),
    "RST_STREAM of five bytes": (frame(Kind.RST_STREAM, 0, 1, bytes(5)), {F}),
    "SETTINGS of a stream": (frame(Kind.SETTINGS, 0, 1), {P}),
    "SETTINGS of five bytes": (frame(Kind.SETTINGS, 0, 0, bytes(5)), {F}),
    "SETTINGS acknowledged with some": (frame(Kind.SETTINGS, ACK, 0, bytes(6)), {F}),
    "ENABLE_PUSH": (settings({Setting.ENABLE_PUSH: 1}), {P}),
    "ENABLE_PUSH of 2": (settings({Setting.ENABLE_PUSH: 2}), {P}),
    "a large INITIAL_WINDOW_SIZE": (settings({Setting.INITIAL_WINDOW_SIZE: 1 << 31}), {W}),
    "a small MAX_FRAME_SIZE": (settings({Setting.MAX_FRAME_SIZE: 16_383}), {P}),
    "a large MAX_FRAME_SIZE": (settings({Setting.MAX_FRAME_SIZE: 1 << 24}), {P}),
    "PUSH_PROMISE": (frame(Kind.PUSH_PROMISE, END_HEADERS, 1, uint32(2) + b"\x82"), {P}),
    "PING of a stream": (ping().replace(b"\0\0\0\0", b"\0\0\0\1"), {P}),
    "PING of seven bytes": (ping(bytes(7)), {F}),
    "PING of nine bytes": (ping(bytes(9), ACK), {F}),
    "GOAWAY of a stream": (frame(Kind.GOAWAY, 0, 1, bytes(8)), {P}),
    "GOAWAY of seven bytes": (frame(Kind.GOAWAY, 0, 0, bytes(7)), {F}),
    "WINDOW_UPDATE by nothing": (window_update(0, 0), {P}),
    "WINDOW_UPDATE of three bytes": (frame(Kind.WINDOW_UPDATE, 0, 0, bytes(3)), {F}),
    "WINDOW_UPDATE by too much": (window_update(0, LARGEST_WINDOW), {W}),
    "WINDOW_UPDATE of an idle stream": (window_update(99, 1), {P}),
    "a window by way of settings": (
        window_update(1, LARGEST_WINDOW - (1 << 20)) + settings({Setting.INITIAL_WINDOW_SIZE: LARGEST_WINDOW}),
        {W},
    ),
    "a frame that is too large": (frame(Kind.DATA, 0, 1)[3:].join([b"\xff\xff\xff", b""]), {F}),
    "an unknown frame that is too large": (b"\xff\xff\xff" + frame(0xFA, 0, 0)[3:], {F, C}),
    "headers at index 0": (headers(indexed(0)), {H}),
    "headers at an index that is not": (headers(b"\x88" + indexed(62)), {H}),
    "headers with a name that is not": (headers(literal(PLAIN, 99, "x")), {H}),
    "headers that are cut off": (headers(literal(PLAIN, "x", "yyy")[:-1]), {H}),
    "headers with an endless number": (headers(b"\x7f" + b"\xff" * 20 + b"\x01"), {H}),
    "headers with wrong Huffman": (headers(b"\0\x01x\x84\xff\xff\xff\xff"), {H}),
    "headers with wrong padding": (headers(b"\0\x01x\x81\x00"), {H}),
    "a table that is too large": (headers(resize(4097) + b"\x88"), {H}),
    "a table that is resized late": (headers(b"\x88" + resize(0)), {H}),
    "headers that grow": (headers(b"\x88" + literal(NEW, "x", "y" * 4000) + indexed(62) * 12_000), {H, C, P}),
    "CONTINUATION without end": (headers(b"", flags=0) + frame(Kind.CONTINUATION, 0, 1) * 100_000, {C}),
    "CONTINUATION of much": (
        headers(b"", flags=0) + frame(Kind.CONTINUATION, 0, 1, b"\0\x01x\x7f\x80\x7fy" + b"y" * 16_000) * 100,
        {C, H},
    ),
}


@each_logits
@pytest.mark.parametrize(("told", "codes"), FATAL.values(), ids=FATAL)
async def test_what_breaks_the_connection_is_unavailable(told, codes, logits):
    """The service is told by which code, all calls of the connection fail at once, and the next has a new one."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.next()
        await waiting.wait()
        peer.unacknowledged.append({})  # should there be settings
        peer.send(told)
        await peer.gone()

    waiting = asyncio.Event()
    async with scripted(script, answering) as service, AsyncClient(service.address, retries=0) as client:
        first = asyncio.create_task(client.sample(logits))
        peer = await service.connected(0)
        await peer.until(lambda: peer.asked)
        second = asyncio.create_task(client.info())
        await peer.until(lambda: len(peer.asked) == 2)
        waiting.set()
        for call in (first, second):
            assert (await failure(call, errors.Unavailable)).detail
        await draw(client, 1, logits)
        await peer.gone()
    assert peer.goaway is not None
    assert peer.goaway[1] in codes


def beginning(*headers: tuple[str, str]) -> Callable[[Peer, Asked], bytes]:
    """Headers, and an answer that would be right."""

    def frames(peer: Peer, asked: Asked) -> bytes:
        return peer.headers(asked.stream, headers) + peer.answer(asked)

    return frames


def ending(trailers: Headers, flags: int = END_STREAM) -> Callable[[Peer, Asked], bytes]:
    def frames(peer: Peer, asked: Asked) -> bytes:
        return (
            peer.begin(asked.stream)
            + peer.data(asked.stream, framed(response(asked)))
            + peer.headers(asked.stream, trailers, flags)
        )

    return frames


def beside(make: Callable[[int], bytes]) -> Callable[[Peer, Asked], bytes]:
    return lambda peer, asked: make(asked.stream)


# Of one stream: what comes instead of its answer.

MALFORMED = {
    "a name in capitals": beginning(*HEAD, ("X", "y")),
    "a name with a space": beginning(*HEAD, ("x y", "z")),
    "an empty name": beginning(*HEAD, ("", "y")),
    "a value with a line": beginning(*HEAD, ("x", "y\r\nz: 1")),
    "a value with a zero": beginning(*HEAD, ("x", "y\0")),
    "no status": beginning(*HEAD[1:]),
    "two statuses": beginning(HEAD[0], *HEAD),
    "a status of letters": beginning((":status", "abc"), *HEAD[1:]),
    "a status of two digits": beginning((":status", "20"), *HEAD[1:]),
    "an empty status": beginning((":status", ""), *HEAD[1:]),
    "a status late": beginning(*HEAD[1:], HEAD[0]),
    "a pseudo-header of requests": beginning(HEAD[0], (":path", "/"), *HEAD[1:]),
    "a pseudo-header that is none": beginning(HEAD[0], (":x", "y"), *HEAD[1:]),
    "a header of connections": beginning(*HEAD, ("connection", "close")),
    "an encoding of HTTP/1.1": beginning(*HEAD, ("transfer-encoding", "chunked")),
    "headers twice": beginning(*HEAD, ("x", "1")),
    "interim headers that end": lambda peer, asked: peer.headers(asked.stream, [(":status", "103")], END_STREAM),
    "interim headers late": ending([(":status", "103")], 0),
    "trailers first": lambda peer, asked: peer.headers(asked.stream, OK, END_STREAM),
    "trailers that do not end": ending(OK, 0),
    "trailers with a status of HTTP": ending([(":status", "200"), *OK]),
    "trailers with a pseudo-header": ending([(":path", "/"), *OK]),
    "trailers in capitals": ending([*OK, ("X", "y")]),
    "data first": lambda peer, asked: peer.data(asked.stream, framed(response(asked))),
    "the end first": lambda peer, asked: peer.data(asked.stream, b"", END_STREAM),
    "a window by nothing": beside(lambda stream: window_update(stream, 0)),
    "a window by too much": beside(lambda stream: window_update(stream, LARGEST_WINDOW)),
}
MALFORMED["headers twice"] = lambda peer, asked: peer.begin(asked.stream) + peer.headers(asked.stream, HEAD)


@pytest.mark.parametrize("make", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_answer_is_an_error_of_its_call(make):
    """The stream is reset where it is open, and its neighbours go on."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        asked = [await peer.next() for _ in range(3)]
        wrong = next(each for each in asked if each.seeds == [5])
        peer.send(make(peer, wrong))
        await peer.sync()
        for each in asked:
            if each is not wrong:
                peer.send(peer.answer(each))
        while True:
            peer.send(peer.answer(await peer.next()))

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        wrong = failure(client.sample(LARGE, seed=5))
        error, *_ = await asyncio.gather(wrong, draw(client, 1), draw(client, 2, LARGE))
        assert error.detail
        await draw(client, 3, LARGE)
        await draw(client, 4)
    assert len(service.peers) == 1
    [stream] = [asked.stream for asked in service.peers[0].asked if asked.seeds == [5]]
    assert service.peers[0].calls[stream].code in (P, W, S, None)


@pytest.mark.parametrize("name", ["no status", "trailers that do not end", "data first", "a window by nothing"])
async def test_a_malformed_answer_on_the_stream_is_no_end_of_its_calls(name):
    """They are made again."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        peer.send(MALFORMED[name](peer, await peer.next()))
        while True:
            peer.send(peer.answer(await peer.next()))

    async with scripted(script, answering) as service, AsyncClient(service.address) as client:
        await asyncio.gather(*(draw(client, seed) for seed in range(5)))


STRAY = {
    "DATA": frame(Kind.DATA, 0, 1, b"more"),
    "DATA that ends": frame(Kind.DATA, END_STREAM, 1, b"more"),
    "RST_STREAM": reset(1),
    "RST_STREAM twice": reset(1, Code.NO_ERROR) * 2,
    "WINDOW_UPDATE": window_update(1, 100),
    "PRIORITY": frame(Kind.PRIORITY, 0, 1, bytes(5)),
    "an unknown frame": frame(0xFA, 0xFF, 1, b"?"),
}


@pytest.mark.parametrize("told", STRAY.values(), ids=STRAY)
async def test_what_comes_of_a_stream_that_has_ended_is_passed_over(told):
    """It may have been on its way (5.1), and no other call suffers."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        peer.send(peer.answer(await peer.next()), told)
        while True:
            peer.send(peer.answer(await peer.next()), told)

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        for seed in range(3):
            await draw(client, seed, LARGE)
            await draw(client, seed)
        await in_time(client.info())
    assert len(service.peers) == 1


@each_logits
async def test_nothing_is_lost_by_a_flood(logits):
    """Of frames that are allowed; each ping is answered."""
    count = 5000

    async def script(peer: Peer) -> None:
        await peer.greet()
        asked = await peer.next()
        peer.send(peer.begin(asked.stream))
        peer.unacknowledged += [{}] * 100
        floods = (ping(), frame(Kind.DATA, 0, asked.stream), window_update(asked.stream, 1), frame(0xFA, 0, 0, b"?"))
        peer.send(settings({}) * 100, *(each * count for each in floods))
        await peer.until(lambda: len(peer.pongs) == count)
        peer.send(peer.answer(asked))

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        await draw(client, 1, logits)
    assert not service.peers[0].unacknowledged


async def test_a_table_of_headers_is_that_of_the_connection():
    """Blocks of streams that nobody waits for are read all the same, for later ones build on them (4.3)."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        asked = await peer.next()
        await peer.until(lambda: peer.calls[asked.stream].code is not None)
        peer.send(peer.headers(asked.stream, [*HEAD, ("x-new", "value"), ("x-newer", "another")]))
        late = await peer.next()
        block = peer.encoder.encode([*HEAD, ("x-new", "value"), ("x-newer", "another"), ("grpc-status", "3")])
        assert len(block) < 20
        peer.send(frame(Kind.HEADERS, END_HEADERS | END_STREAM, late.stream, block))

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        left = asyncio.create_task(client.sample(LARGE))
        peer = await service.connected(0)
        await peer.until(lambda: peer.asked)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        await failure(client.info(), errors.InvalidArgument)
