"""Calls over gRPC as a server of HTTP/2 sees them, and its answers however they come, if only they are right."""

import asyncio
import base64
import re

import gumball
import pytest
from gumball import AsyncClient
from gumball.v1 import sampling_pb2 as pb
from http2_frames import END_STREAM, PADDED, Code, Kind, Setting, frame, padded, ping, settings, window_update
from http2_peer import HEAD, INFO, OK, SAMPLE, STREAM, VERSION, Asked, Peer, framed, response
from http2_scripts import LARGE, LOGITS, Scripted, answering, draw, in_time, scripted

pytestmark = pytest.mark.usefixtures("nothing_is_lost")


# Calls.


async def seen(*calls: str, **given) -> Scripted:
    """A service that was called for these paths."""
    async with scripted(answering) as service, AsyncClient(service.address, **given) as client:
        for path in calls:
            if path == INFO:
                assert (await in_time(client.info()))["version"] == VERSION
            else:
                await draw(client, 5, LARGE if path == SAMPLE else LOGITS)
    return service


async def test_calls_are_posted_with_the_headers_of_grpc():
    """As gRPC over HTTP/2 has them: pseudo-headers before others, `te` for proxies, and who asks."""
    service = await seen(INFO, SAMPLE, STREAM)
    (peer,) = service.peers
    assert [call.headers[":path"] for call in peer.calls.values()] == [INFO, SAMPLE, STREAM]
    for call in peer.calls.values():
        names = list(call.headers)
        assert names[:4] == sorted(names[:4], key=names.index)
        assert {*names[:4]} == {":method", ":scheme", ":path", ":authority"}
        assert (call.headers[":method"], call.headers[":scheme"]) == ("POST", "http")
        assert call.headers[":authority"] == service.address.removeprefix("grpc://")
        assert (call.headers["te"], call.headers["content-type"]) == ("trailers", "application/grpc")
        assert "gumball" in call.headers["user-agent"] or "grpc" in call.headers["user-agent"]
        assert "grpc-timeout" not in call.headers


async def test_metadata_go_with_every_call():
    """Those of a name that ends in -bin are bytes, which are told in base64."""
    service = await seen(INFO, SAMPLE, STREAM, headers={"X-Where": "here, or: there", "x-empty": ""}, token="t0")  # noqa: S106
    for call in service.peers[0].calls.values():
        assert call.headers["authorization"] == "Bearer t0"
        assert (call.headers["x-where"], call.headers["x-empty"]) == ("here, or: there", "")


async def test_metadata_are_not_folded_into_those_of_another_client():
    """What is kept encoded is of one client."""
    for token in ("first", "second"):
        service = await seen(INFO, INFO, STREAM, token=token)
        assert {call.headers["authorization"] for call in service.peers[0].calls.values()} == {f"Bearer {token}"}


async def test_long_metadata_arrive():
    """Longer than a frame, so in CONTINUATION."""
    service = await seen(INFO, STREAM, headers={"x-long": "0123456789~" * 3000})
    assert {call.headers["x-long"] for call in service.peers[0].calls.values()} == {"0123456789~" * 3000}


UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


@pytest.mark.parametrize("seconds", [0.5, 2.0, 100.0, 1e5, 1e6])
async def test_a_deadline_is_told(seconds):
    """To a call by itself in grpc-timeout, of 8 digits at most, and closely."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        peer.send(peer.answer(await peer.next()))

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        await in_time(client.info())
        call = asyncio.create_task(client.sample(LARGE, timeout=seconds))
        await service.peers[0].until(lambda: 3 in service.peers[0].calls)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    told = service.peers[0].calls[3].headers["grpc-timeout"]
    number, unit = re.fullmatch(r"(\d{1,8})([HMSmun])", told).groups()
    assert int(number) * UNITS[unit] == pytest.approx(seconds, rel=0.02, abs=0.3)


async def test_calls_share_one_connection():
    """Of those that begin at once, too, while there is none yet."""
    async with scripted(answering) as service, AsyncClient(service.address) as client:
        await asyncio.gather(*(draw(client, seed, logits) for seed in range(20) for logits in (LOGITS, LARGE)))
        await asyncio.gather(*(draw(client, seed) for seed in range(20, 40)))
    (peer,) = service.peers
    paths = [call.headers[":path"] for call in peer.calls.values()]
    assert (paths.count(STREAM), paths.count(SAMPLE)) == (1, 20)
    assert sorted(service.seeds) == sorted([*range(40), *range(20)])


async def test_closing_ends_the_connection():
    """There is no client any more; nothing of it stays."""
    async with scripted(answering) as service:
        async with AsyncClient(service.address) as client:
            await draw(client, 1)
        await in_time(service.peers[0].gone())


# Answers.


def plain(peer: Peer, asked: Asked) -> bytes:
    return peer.answer(asked)


def indexed(peer: Peer, asked: Asked) -> bytes:
    """Headers that are new to the table and long, and then by their places there; Huffman where that is shorter."""
    more = [("server", "a-server-of-some-kind"), ("date", "Mon, 21 Oct 2013 20:13:21 GMT"), ("x", "\x7f~}|{zyx" * 30)]
    begin = b"" if peer.calls[asked.stream].headed else peer.headers(asked.stream, [*HEAD, *more])
    frames = begin + peer.data(asked.stream, framed(response(asked)))
    return frames if asked.path == STREAM else frames + peer.headers(asked.stream, [*OK, *more], END_STREAM)


def evicted(peer: Peer, asked: Asked) -> bytes:
    """More headers than the table holds."""
    more = [(f"x-{len(peer.calls)}-{number}", "v" * 500) for number in range(12)]
    begin = b"" if peer.calls[asked.stream].headed else peer.headers(asked.stream, [*HEAD, *more])
    return begin + plain(peer, asked)


def resized(peer: Peer, asked: Asked) -> bytes:
    """A smaller table, then a larger one, which a block begins with."""
    if not peer.calls[asked.stream].headed:
        peer.encoder.header_table_size = 0
        peer.encoder.header_table_size = 200 + asked.stream
    return indexed(peer, asked)


def continued(peer: Peer, asked: Asked) -> bytes:
    """Blocks in pieces, some of them empty."""
    frames = b"" if peer.calls[asked.stream].headed else peer.headers(asked.stream, HEAD, parts=30)
    frames += peer.data(asked.stream, framed(response(asked)))
    return frames if asked.path == STREAM else frames + peer.headers(asked.stream, OK, END_STREAM, parts=3)


def with_padding(peer: Peer, asked: Asked) -> bytes:
    """Of each kind of frame that may have some, none of it and most of it."""
    frames = b"" if peer.calls[asked.stream].headed else peer.headers(asked.stream, HEAD, padding=255)
    body = framed(response(asked))
    frames += peer.data(asked.stream, padded(body[:7], 0), PADDED)
    frames += peer.data(asked.stream, padded(body[7:], 255), PADDED)
    frames += peer.data(asked.stream, padded(b"", 100), PADDED)
    return frames if asked.path == STREAM else frames + peer.headers(asked.stream, OK, END_STREAM, padding=9)


def with_priority(peer: Peer, asked: Asked) -> bytes:
    """Which is of no use any more, and of no harm (5.3.2)."""
    block = peer.encoder.encode(HEAD)
    frames = b""
    if not peer.calls[asked.stream].headed:
        frames = frame(Kind.HEADERS, 0x20 | 0x4, asked.stream, bytes(4) + b"\x0f" + block)
        peer.calls[asked.stream].headed = True
    frames += frame(Kind.PRIORITY, 0, asked.stream, bytes(5)) + frame(Kind.PRIORITY, 0, 99, bytes(5))
    return frames + plain(peer, asked)


def after_interim_headers(peer: Peer, asked: Asked) -> bytes:
    """Which say nothing yet (RFC 9110, 15.2)."""
    frames = b""
    if not peer.calls[asked.stream].headed:
        frames = peer.headers(asked.stream, [(":status", "100")])
        frames += peer.headers(asked.stream, [(":status", "103"), ("link", "</style.css>"), ("grpc-status", "5")])
        peer.calls[asked.stream].headed = False
    return frames + plain(peer, asked)


def in_many_frames(peer: Peer, asked: Asked) -> bytes:
    """A byte in each, and some with nothing in them."""
    frames = peer.begin(asked.stream)
    for byte in framed(response(asked)):
        frames += peer.data(asked.stream, bytes([byte])) + peer.data(asked.stream, b"")
    return frames if asked.path == STREAM else frames + peer.headers(asked.stream, OK, END_STREAM)


def beside_what_is_unknown(peer: Peer, asked: Asked) -> bytes:
    """Frames of kinds that there may be one day, and flags and settings (4.1, 5.5, 6.5.2)."""
    unknown = b"".join(frame(kind, 0xFF, stream, b"?" * 30) for kind in (10, 0xFA) for stream in (0, asked.stream, 99))
    frames = unknown + settings({0x99: 2**32 - 1, Setting.MAX_HEADER_LIST_SIZE: 1 << 20}) + peer.begin(asked.stream)
    peer.unacknowledged.append({})
    frames += unknown + frame(Kind.DATA, 0xF6 & ~PADDED, asked.stream, framed(response(asked))) + unknown
    return frames if asked.path == STREAM else frames + peer.headers(asked.stream, OK, END_STREAM)


def among_pings_and_windows(peer: Peer, asked: Asked) -> bytes:
    """And settings."""
    peer.unacknowledged.append({})
    busy = ping() + window_update(0, 1) + window_update(asked.stream, 1) + settings({})
    return busy + peer.begin(asked.stream) + busy.replace(settings({}), b"") + plain(peer, asked)


def with_more_headers(peer: Peer, asked: Asked) -> bytes:
    """Other metadata, several of one name, a content type that says more, trailers that do."""
    head = [(":status", "200"), ("content-type", "application/grpc+proto"), ("x", "1"), ("x", "2"), ("x-bin", "AAA")]
    begin = b"" if peer.calls[asked.stream].headed else peer.headers(asked.stream, head)
    frames = begin + peer.data(asked.stream, framed(response(asked)))
    trailers = [("x-late", "y"), ("grpc-message", ""), *OK, ("grpc-encoding", "identity")]
    return frames if asked.path == STREAM else frames + peer.headers(asked.stream, trailers, END_STREAM)


SHAPES = [
    plain,
    indexed,
    evicted,
    resized,
    continued,
    with_padding,
    with_priority,
    after_interim_headers,
    in_many_frames,
    beside_what_is_unknown,
    among_pings_and_windows,
    with_more_headers,
]
TWICE = [(logits, seed) for seed in (1, 2) for logits in (LOGITS, LARGE)]


@pytest.mark.parametrize("size", [1, 7, 1 << 20], ids=["in bytes", "in sevens", "at once"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
async def test_an_answer_may_come_in_any_shape(shape, size):
    """All calls get theirs, of a stream and by themselves, twice on one connection."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        while True:
            await peer.trickle(shape(peer, await peer.next()), size)

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        for logits, seed in TWICE:
            await draw(client, seed, logits)
        assert (await in_time(client.info()))["version"] == VERSION
    assert len(service.peers) == 1


@pytest.mark.parametrize("size", [1, 9, 10, 1 << 20])
async def test_a_server_may_greet_late_and_in_pieces(size):
    """Its settings come after the first request, if that does not wait for them."""

    async def script(peer: Peer) -> None:
        await asyncio.sleep(0.02)
        peer.unacknowledged.append({})
        await peer.trickle(settings({Setting.MAX_CONCURRENT_STREAMS: 100, Setting.INITIAL_WINDOW_SIZE: 65_535}), size)
        while True:
            peer.send(peer.answer(await peer.next()))

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        await asyncio.gather(draw(client, 1), draw(client, 2, LARGE))


async def test_answers_of_many_calls_may_come_mixed_and_in_any_order():
    """Frame by frame of one and of another, the last asked first."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        asked = [await peer.next() for _ in range(8)]
        bodies = {each.stream: framed(response(each)) for each in reversed(asked)}
        for stream in bodies:
            peer.send(peer.begin(stream))
        while any(bodies.values()):
            for stream, body in bodies.items():
                peer.send(peer.data(stream, body[:4]))
                bodies[stream] = body[4:]
        peer.send(b"".join(peer.headers(stream, OK, END_STREAM) for stream in bodies))

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        await asyncio.gather(*(draw(client, seed, LARGE) for seed in range(8)))


async def test_messages_of_a_stream_may_share_frames_and_be_cut_anywhere():
    """Several in a frame, or each in some; with no response in them, with one, with many."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        asked = await peer.next()
        assert len(asked.requests) == 9
        answers = pb.SampleStreamResponse.FromString(response(asked)).responses
        groups = [answers[8:9], [], answers[3:8], [], [], answers[:3]]
        body = b"".join(framed(pb.SampleStreamResponse(responses=group).SerializeToString()) for group in groups)
        third = len(body) // 3
        peer.send(peer.begin(asked.stream) + peer.data(asked.stream, body[:third]))
        await peer.sync()
        peer.send(peer.data(asked.stream, body[third:-1]))
        await peer.sync()
        peer.send(peer.data(asked.stream, body[-1:]))

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        await asyncio.gather(*(draw(client, seed) for seed in range(9)))


async def test_an_answer_of_the_stream_to_nobody_is_passed_over():
    """To an id that was never given, and the same answer twice."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        while True:
            asked = await peer.next()
            stray = pb.SampleStreamResponse(responses=[pb.SampleResponse(id=1 << 60), pb.SampleResponse()])
            peer.send(peer.begin(asked.stream) + peer.data(asked.stream, framed(stray.SerializeToString())))
            peer.send(peer.answer(asked), peer.answer(asked))

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        for seed in range(5):
            await draw(client, seed)
    assert len(service.peers) == 1


async def test_a_call_by_itself_is_answered_before_its_body_is_read():
    """A server may know early; what is left is not asked for (8.1), and the connection goes on."""

    async def script(peer: Peer) -> None:
        peer.grants = False
        await peer.greet({})
        await peer.until(lambda: peer.calls)
        early = [*HEAD, ("grpc-status", "8"), ("grpc-message", "too large")]
        peer.send(peer.headers(1, early, END_STREAM) + peer.reset(1, Code.NO_ERROR))
        peer.grants = True
        peer.grant(0, 1 << 20)
        while True:
            peer.send(peer.answer(await peer.next()))

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        with pytest.raises(gumball.TooLarge, match="too large"):
            await in_time(client.sample(LARGE))
        await draw(client, 5)
    assert len(service.peers) == 1


async def test_pings_are_answered_with_what_they_hold():
    """In order, and whatever else goes on (6.7)."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        asked = await peer.next()
        payloads = [base64.b16encode(bytes([number, 0, 255, number])) for number in range(50)]
        peer.send(*(ping(payload) for payload in payloads), ping(b"unasked!", 0x1))
        await peer.until(lambda: len(peer.pongs) == 50)
        assert peer.pongs == payloads
        peer.send(peer.answer(asked))

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        await draw(client, 1)
