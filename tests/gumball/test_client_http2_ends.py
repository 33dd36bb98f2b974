"""How connections of the client end: announced, at any point of a call, by whoever is no server; and calls that end."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest
from gumball import AsyncClient, Client, errors
from http2_frames import ACK, END_STREAM, Code, Kind, frame, ping, settings
from http2_peer import HEAD, INFO, SAMPLE, STREAM, Peer, framed, response
from http2_scripts import LARGE, LOGITS, answering, draw, failure, in_time, scripted

pytestmark = pytest.mark.usefixtures("nothing_is_lost")

each_logits = pytest.mark.parametrize("logits", [LOGITS, LARGE], ids=["stream", "alone"])


# GOAWAY.


@each_logits
async def test_a_connection_that_says_goodbye_between_calls_is_replaced(logits):
    """Nobody notices."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        asked = await peer.next()
        peer.send(peer.answer(asked), peer.goes_away(asked.stream))
        if asked.path == STREAM:
            peer.send(peer.headers(asked.stream, [("grpc-status", "14"), ("grpc-message", "drained")], END_STREAM))

    async with scripted(script, answering) as service, AsyncClient(service.address, retries=0) as client:
        for seed in range(4):
            await draw(client, seed, logits)
        await in_time(service.peers[0].gone())
    assert [peer.seeds for peer in map(Seen, service.peers)] == [[0], [1, 2, 3]]


class Seen:
    """The seeds of all requests on a connection."""

    def __init__(self, peer: Peer) -> None:
        self.seeds = sorted(seed for asked in peer.asked for seed in asked.seeds)


async def test_calls_above_the_last_stream_are_made_elsewhere_and_others_go_on():
    """Those were not looked at; these are answered where they are, and nothing is asked twice."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        asked = [await peer.next() for _ in range(6)]
        asked.sort(key=lambda each: each.stream)
        peer.send(peer.goes_away(asked[2].stream))
        await peer.sync()
        for each in asked[:3]:
            peer.send(peer.answer(each))
        await peer.gone()

    async with scripted(script, answering) as service, AsyncClient(service.address, retries=0) as client:
        await asyncio.gather(*(draw(client, seed, LARGE) for seed in range(6)))
        await draw(client, 7, LARGE)
    assert [Seen(peer).seeds for peer in service.peers] == [[*range(6)], [3, 4, 5, 7]]


@pytest.mark.parametrize("code", [Code.NO_ERROR, Code.ENHANCE_YOUR_CALM, Code.INTERNAL_ERROR])
@pytest.mark.parametrize("closes", [False, True])
@each_logits
async def test_a_service_that_looked_at_nothing_is_asked_again(logits, closes, code):
    """On a new connection, without an error, once."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.next()
        peer.send(peer.goes_away(0, code, b"not now"))
        if closes:
            await peer.close()

    async with scripted(script, answering) as service, AsyncClient(service.address, retries=0) as client:
        await draw(client, 5, logits)
    assert [Seen(peer).seeds for peer in service.peers] == [[5], [5]]


async def test_a_call_that_nobody_looks_at_is_made_twice_and_no_more():
    """Two services in a row go away before it."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        await peer.next()
        peer.send(peer.goes_away(0))

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        await failure(client.sample(LARGE), errors.Unavailable)
        await failure(client.info(), errors.Unavailable)
    assert [asked.path for peer in service.peers for asked in peer.asked] == [SAMPLE, SAMPLE, INFO, INFO]


async def test_a_goodbye_in_two_steps():
    """First of all streams there may be, then of those that there were (6.8); what comes between goes elsewhere."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        asked = await peer.next()
        peer.send(peer.goes_away((1 << 31) - 1))
        await peer.sync()
        left.set()
        await elsewhere.wait()
        peer.send(peer.goes_away(asked.stream), peer.answer(asked))
        await peer.gone()

    left, elsewhere = asyncio.Event(), asyncio.Event()
    async with scripted(script, answering) as service, AsyncClient(service.address, retries=0) as client:
        first = asyncio.create_task(draw(client, 1, LARGE))
        await in_time(left.wait())
        await draw(client, 2, LARGE)
        elsewhere.set()
        await first
    assert [Seen(peer).seeds for peer in service.peers] == [[1], [2]]


async def test_a_stream_whose_service_says_goodbye_is_answered_to_its_end():
    """What was asked on it is answered on it; what is asked then is answered, too."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        asked = await peer.next()
        peer.send(peer.goes_away(asked.stream))
        await peer.sync()
        left.set()
        await asyncio.sleep(0.02)
        for each in peer.asked:
            peer.send(peer.answer(each))
        peer.send(peer.headers(asked.stream, [("grpc-status", "14"), ("grpc-message", "drained")], END_STREAM))
        await peer.gone()

    left = asyncio.Event()
    async with scripted(script, answering) as service, AsyncClient(service.address) as client:
        calls = [asyncio.create_task(draw(client, seed)) for seed in range(3)]
        await in_time(left.wait())
        await asyncio.gather(*calls, *(draw(client, seed) for seed in range(3, 6)))
        await in_time(service.peers[0].gone())
    seen = [Seen(peer).seeds for peer in service.peers]
    assert seen[0][:3] == [0, 1, 2]
    assert sorted(seed for seeds in seen for seed in seeds) == [*range(6)]


# Connections that are cut off.


async def nothing(peer: Peer) -> None:
    """Not even settings."""


async def greeting(peer: Peer) -> None:
    await peer.greet()


async def asking(peer: Peer) -> None:
    await peer.greet()
    await peer.next()


async def heading(peer: Peer) -> None:
    await peer.greet()
    peer.send(peer.begin((await peer.next()).stream))


async def half_a_frame(peer: Peer) -> None:
    await peer.greet()
    asked = await peer.next()
    peer.send((peer.begin(asked.stream) + peer.data(asked.stream, framed(response(asked))))[:-3])


async def half_a_message(peer: Peer) -> None:
    await peer.greet()
    asked = await peer.next()
    peer.send(peer.begin(asked.stream), peer.data(asked.stream, framed(response(asked))[:-3]))


async def all_but_trailers(peer: Peer) -> None:
    await peer.greet()
    asked = await peer.next()
    peer.send(peer.begin(asked.stream), peer.data(asked.stream, framed(response(asked))))


async def half_of_headers(peer: Peer) -> None:
    await peer.greet()
    asked = await peer.next()
    peer.send(peer.headers(asked.stream, HEAD, parts=3)[:-10])


STAGES = [nothing, greeting, asking, heading, half_a_frame, half_a_message, all_but_trailers, half_of_headers]


def cut_after(stage: Callable[[Peer], Awaitable[None]], how: str) -> Callable[[Peer], Awaitable[None]]:
    async def script(peer: Peer) -> None:
        await stage(peer)
        if how == "half":
            peer.end()
        elif how == "reset":
            linger = b"\1\0\0\0\0\0\0\0"  # for no time: what was not sent is thrown away, and the peer is told
            peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            await peer.writer.drain()
            peer.writer.transport.abort()
        else:
            await peer.close()

    return script


@pytest.mark.parametrize("how", ["closed", "half", "reset"])
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
@pytest.mark.parametrize("call", [INFO, SAMPLE, STREAM])
async def test_a_connection_that_ends_before_its_time_is_unavailable(call, stage, how):
    """At whatever point of the answer; and the next call has a new one."""
    cut = cut_after(stage, how)
    async with scripted(cut, answering) as service, AsyncClient(service.address, retries=0) as client:
        if stage is all_but_trailers and call == STREAM:
            await draw(client, 1)  # its answer is whole
        else:
            try:
                wanted = client.info() if call == INFO else client.sample(LARGE if call == SAMPLE else LOGITS)
                await failure(wanted, errors.Unavailable)
            except pytest.fail.Exception:
                assert stage is greeting  # the connection ended before the call began
        for logits in (LOGITS, LARGE):
            await draw(client, 2, logits)
    assert len(service.peers) == 2


async def test_calls_that_are_cut_off_are_made_again():
    """With the seeds that they had."""
    cuts = [cut_after(stage, how) for stage in STAGES[:6] for how in ("closed", "reset")][:3]
    async with scripted(*cuts, answering) as service, AsyncClient(service.address) as client:
        await asyncio.gather(*(draw(client, seed) for seed in range(10)), *(draw(client, s, LARGE) for s in range(3)))


def test_a_client_that_blocks_is_told_so_too():
    """As one whose calls are awaited."""

    async def serve() -> None:
        cut = cut_after(half_a_message, "closed")
        async with scripted(cut, answering) as service:

            def calls() -> list[int]:
                with Client(service.address, retries=0) as client:
                    with pytest.raises(errors.Unavailable):
                        client.sample(LARGE)
                    return [client.sample(LOGITS, seed=1).seed, client.sample(LARGE, seed=2).seed]

            assert await in_time(asyncio.to_thread(calls)) == [1, 2]

    asyncio.run(serve())


# Peers that are no servers of HTTP/2.

NO_SERVERS = {
    "HTTP/1.1": b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    "TLS": bytes.fromhex("15030300020246") + bytes(60),  # an alert
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "the preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + settings({}),
    "zeros": bytes(100),
    "ones": b"\xff" * 100,
    "an echo of settings": frame(Kind.SETTINGS, ACK),
    "a ping first": ping() + settings({}),
    "headers first": frame(Kind.HEADERS, 0x5, 1, b"\x88"),
}


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("told", NO_SERVERS.values(), ids=NO_SERVERS)
async def test_a_peer_that_does_not_speak_http_2_is_unavailable(told, closes):
    """Soon, though it may keep the connection open; there are words; and a right one may follow."""

    async def script(peer: Peer) -> None:
        peer.send(told)
        if closes:
            await peer.close()
        else:
            await peer.gone()

    async with scripted(script, answering) as service, AsyncClient(service.address, retries=0) as client:
        error = await failure(client.sample(LOGITS), errors.Unavailable)
        assert error.detail
        await draw(client, 1)


async def test_a_silent_peer_keeps_nobody_longer_than_they_wait():
    """It takes the connection, and says nothing; who does not wait any more is done at once."""
    async with scripted(nothing) as service, AsyncClient(service.address, retries=0) as client:
        waits = [asyncio.create_task(client.sample(logits)) for logits in (LOGITS, LARGE)]
        await service.connected(0)
        await failure(client.sample(LOGITS, timeout=0.01), errors.DeadlineExceeded)
        for wait in waits:
            wait.cancel()
        assert all(
            isinstance(done, asyncio.CancelledError) for done in await asyncio.gather(*waits, return_exceptions=True)
        )
    assert not service.peers[0].calls
