"""Windows, of services and of the client: what they let through, and when (RFC 9113, 5.2)."""

import asyncio

import numpy as np
import pytest
from gumball import AsyncClient
from gumball.v1 import sampling_pb2 as pb
from http2_frames import END_STREAM, WINDOW, Setting
from http2_peer import OK, SAMPLE, STREAM, Asked, Peer, framed
from http2_scripts import LARGE, LOGITS, draw, in_time, scripted

pytestmark = pytest.mark.usefixtures("nothing_is_lost")

FIRST = Setting.INITIAL_WINDOW_SIZE
BYTES = LARGE.nbytes  # of a body, at least
OPEN = 1 << 24


async def answer_all(peer: Peer) -> None:
    while True:
        peer.send(peer.answer(await peer.next()))


async def greet(peer: Peer, first: int = WINDOW, **more: int) -> None:
    """With windows that are opened only by the test; that of the connection may be large."""
    peer.grants = False
    await peer.greet({FIRST: first})
    if more.get("connection"):
        peer.grant(0, more["connection"])


# Windows of the service.


@pytest.mark.parametrize("step", [1, 999, 16_384, 40_000])
@pytest.mark.parametrize("which", ["stream", "connection"])
async def test_a_body_waits_for_windows(which, step):
    """It uses all that a window has, then stops; each step lets just so much through."""

    async def script(peer: Peer) -> None:
        await greet(peer, *([WINDOW] if which == "stream" else [OPEN]), connection=OPEN if which == "stream" else 0)
        await peer.until(lambda: peer.calls)
        number, allowed = (1 if which == "stream" else 0), WINDOW
        for _ in range(3):
            await peer.sync()
            assert peer.calls[1].received == allowed
            peer.grant(number, step) if allowed + step < BYTES else None
            allowed += step if allowed + step < BYTES else 0
        peer.grant(number, OPEN)
        await answer_all(peer)

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        await draw(client, 1, LARGE)


async def test_a_window_may_be_closed_at_first_and_opened_by_settings():
    """Even the first byte waits, of each kind of call (6.9.2)."""

    async def script(peer: Peer) -> None:
        await greet(peer, 0, connection=OPEN)
        await peer.until(lambda: len(peer.calls) == 2)
        await peer.sync()
        assert [call.received for call in peer.calls.values()] == [0, 0]
        peer.change({FIRST: 7})
        await peer.sync()
        assert [call.received for call in peer.calls.values()] == [7, 7]
        peer.change({FIRST: OPEN})
        await answer_all(peer)

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        await asyncio.gather(draw(client, 1, LARGE), draw(client, 2))


async def test_a_window_may_become_negative():
    """Then it must be opened by more than that before anything goes on (6.9.2)."""

    async def script(peer: Peer) -> None:
        await greet(peer, 50_000, connection=OPEN)
        await peer.until(lambda: peer.calls and peer.calls[1].received == 50_000)
        peer.change({FIRST: 0})
        await peer.sync()
        assert peer.calls[1].window == -50_000
        peer.grant(1, 50_000)
        await peer.sync()
        assert peer.calls[1].received == 50_000
        peer.grant(1, 5)
        await peer.sync()
        assert peer.calls[1].received == 50_005
        peer.change({FIRST: 10})
        await peer.sync()
        assert peer.calls[1].received == 50_015
        peer.change({FIRST: 0})
        peer.grant(1, OPEN)
        await peer.next()
        peer.send(peer.answer(peer.asked[0]))
        peer.change({FIRST: WINDOW})
        await peer.next()
        peer.send(peer.answer(peer.asked[1]))

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        await draw(client, 1, LARGE)
        await draw(client, 2)


async def test_calls_share_a_small_window_of_the_connection():
    """Each gets its part, none is forgotten, and a small call does not wait for all large ones."""

    async def script(peer: Peer) -> None:
        await greet(peer, OPEN)
        granted = 0
        while len(peer.asked) < 6:
            await peer.sync()
            assert sum(call.received for call in peer.calls.values()) <= WINDOW + granted
            peer.grant(0, 30_000)
            granted += 30_000
        for asked in peer.asked:
            peer.send(peer.answer(asked))

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        await asyncio.gather(*(draw(client, seed, LARGE) for seed in range(5)), draw(client, 9))
    (peer,) = service.peers
    assert peer.asked[-1].seeds != [9]


async def test_a_large_body_that_waits_is_in_nobodys_way():
    """Windows are of streams (5.2.1)."""

    async def script(peer: Peer) -> None:
        await greet(peer, 10_000, connection=OPEN)
        await peer.until(lambda: peer.calls and peer.calls[1].received == 10_000)
        for _ in range(3):
            asked = await peer.next()
            assert asked.path == STREAM
            peer.send(peer.answer(asked))
        peer.grant(1, OPEN)
        await answer_all(peer)

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        large = asyncio.create_task(draw(client, 1, LARGE))
        peer = await service.connected(0)
        await peer.until(lambda: peer.calls)
        for seed in range(3):
            await draw(client, seed)
        assert not large.done()
        await large


async def test_calls_of_a_stream_whose_window_is_closed_go_out_when_it_opens():
    """All of them, once each, in their order."""

    async def script(peer: Peer) -> None:
        await greet(peer, 0, connection=OPEN)
        await peer.until(lambda: peer.calls)
        await peer.sync()
        peer.change({FIRST: 100})
        await peer.sync()
        assert peer.calls[1].received == 100
        peer.change({FIRST: OPEN})
        await answer_all(peer)

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        await asyncio.gather(*(draw(client, seed) for seed in range(200)))
    assert service.seeds == list(range(200))


async def test_a_call_that_was_given_up_leaves_its_window_to_others():
    """What it had not sent yet does not go out."""

    async def script(peer: Peer) -> None:
        await greet(peer, OPEN)
        await peer.until(lambda: peer.calls and peer.calls[1].code is not None)
        assert peer.calls[1].received == WINDOW
        peer.grant(0, WINDOW)
        await answer_all(peer)

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        first = asyncio.create_task(client.sample(LARGE))
        peer = await service.connected(0)
        await peer.until(lambda: peer.calls and peer.calls[1].received == WINDOW)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await draw(client, 1)
    assert peer.calls[1].received == WINDOW


async def test_calls_of_a_stream_that_are_given_up_before_they_are_sent_are_not_sent():
    """However many there are while the service takes nothing: they are not kept, and it is not told of them."""
    logits = np.zeros((1, 10_000), np.float32)

    async def script(peer: Peer) -> None:
        await greet(peer, 0, connection=OPEN)
        await gave_up.wait()
        peer.change({FIRST: OPEN})
        await answer_all(peer)

    gave_up = asyncio.Event()
    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        first = [asyncio.create_task(draw(client, seed, logits)) for seed in (1, 2)]  # as much as is written ahead
        peer = await service.connected(0)
        await peer.until(lambda: peer.calls)
        later = [asyncio.create_task(draw(client, seed, logits)) for seed in (3, 4, 5)]
        await asyncio.sleep(0)
        later[1].cancel()
        await asyncio.gather(later[1], return_exceptions=True)
        gave_up.set()
        await asyncio.gather(*first, later[0], later[2])
    assert service.seeds == [1, 2, 3, 5]
    assert not [number for asked in peer.asked for number in asked.message.withdrawn]


async def test_a_service_that_does_not_read_holds_up_and_loses_nothing():
    """Windows are open; it is the network that takes no more."""
    huge = np.arange(4_000_000, dtype=np.float32)[None]

    async def script(peer: Peer) -> None:
        await peer.greet({FIRST: 1 << 30})
        peer.grant(0, 1 << 30)
        peer.send(peer.answer(await peer.next()))
        peer.reads.clear()
        asked: dict[tuple[int, ...], Asked] = {}
        while not {(1,), (2,)} <= set(asked):  # one that is given up may have gone out before
            each = await peer.next()
            asked[tuple(each.seeds)] = each
        peer.send(peer.answer(asked[2,]))
        large = asked[1,]
        assert large.message.logits.data == huge.tobytes()
        tensor = pb.Tensor(dtype=pb.DATA_TYPE_INT32, shape=[1, 1], data=bytes([9, 0, 0, 0]))
        message = pb.SampleResponse(contract="gumball/1", seed=1, tau=[1.0], index=tensor).SerializeToString()
        data = peer.begin(large.stream) + peer.data(large.stream, framed(message))
        peer.send(data + peer.headers(large.stream, OK, END_STREAM))

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        await in_time(client.info())
        (peer,) = service.peers
        calls = [asyncio.create_task(in_time(client.sample(huge, seed=1))), asyncio.create_task(draw(client, 2))]
        left = asyncio.create_task(client.sample(LARGE, seed=3))
        await asyncio.sleep(0.05)
        assert len(peer.asked) == 1
        left.cancel()
        peer.reads.set()
        assert (await calls[0]).index.tolist() == [[9]]
        await calls[1]


# Windows of the client.

DRAWS = 300
SOFT = np.zeros((1, DRAWS, LARGE.shape[1]), np.float32)


def soft(asked: Asked) -> bytes:
    """24 MB, more than the client's windows are likely to be."""
    tensor = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=SOFT.shape, data=SOFT.tobytes())
    seed = asked.message.seed
    return framed(pb.SampleResponse(contract="gumball/1", seed=seed, tau=[1.0], soft=tensor).SerializeToString())


async def test_the_client_opens_its_windows_as_answers_come():
    """However large they are, one after another and at the same time; that of the connection, too."""

    async def answer(peer: Peer, asked: Asked) -> None:
        peer.send(peer.begin(asked.stream))
        await peer.upload(asked.stream, soft(asked))
        peer.send(peer.headers(asked.stream, OK, END_STREAM))

    async def script(peer: Peer) -> None:
        await peer.greet()
        await answer(peer, await peer.next())
        await asyncio.gather(*[answer(peer, await peer.next()) for _ in range(2)])

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        for many in (1, 2):
            samples = [client.sample(LARGE, mode="soft", seed=1, draws=DRAWS) for _ in range(many)]
            for sample in await in_time(asyncio.gather(*samples)):
                assert sample.soft.shape == SOFT.shape
                assert not sample.soft.any()


async def test_answers_that_nobody_waits_for_close_no_window():
    """What was on its way when a call was given up counts as taken."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        for _ in range(20):
            asked = await peer.next()
            size = min(peer.room(asked.stream), 1 << 23)
            peer.send(peer.begin(asked.stream))
            await peer.until(lambda number=asked.stream: peer.calls[number].code is not None)
            while size > 0:
                peer.send(peer.data(asked.stream, bytes(min(16_384, size))))
                size -= 16_384
            await peer.writer.drain()
            await peer.sync()
        assert peer.their_window >= 1 << 23
        await answer_all(peer)

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        for number in range(20):
            call = asyncio.create_task(client.sample(LARGE))
            peer = await service.connected(0)
            await peer.until(lambda peer=peer, least=number: len(peer.asked) > least)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        await draw(client, 1, LARGE)
        await draw(client, 2, LOGITS)
    assert [asked.path for asked in peer.asked[-2:]] == [SAMPLE, STREAM]
