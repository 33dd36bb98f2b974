"""How many streams a service takes at a time, how large frames and tables, however it changes its mind."""

import asyncio

import pytest
from gumball import AsyncClient, errors
from http2_frames import Setting
from http2_peer import ROOMY, Peer
from http2_scripts import LARGE, answering, draw, failure, in_time, scripted

pytestmark = pytest.mark.usefixtures("nothing_is_lost")

FIRST = Setting.INITIAL_WINDOW_SIZE
OPEN = 1 << 24


async def answer_all(peer: Peer) -> None:
    while True:
        peer.send(peer.answer(await peer.next()))


@pytest.mark.parametrize("most", [1, 2, 7])
async def test_calls_wait_for_their_turn(most):
    """As many at a time as the service takes, all at once where it takes more, in the order in which they were made."""

    async def script(peer: Peer) -> None:
        await peer.greet({Setting.MAX_CONCURRENT_STREAMS: most} | ROOMY)
        for _ in range(20):
            await peer.until(lambda: peer.open == min(most, 20 - sum(call.done for call in peer.calls.values())))
            peer.send(peer.answer(await peer.next()))

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        await asyncio.gather(*(draw(client, seed, LARGE) for seed in range(20)))
    (peer,) = service.peers
    assert peer.most_open == most
    assert [asked.seeds for asked in sorted(peer.asked, key=lambda asked: asked.stream)] == [[n] for n in range(20)]


async def test_a_service_may_take_no_streams_for_a_while():
    """And then some."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        peer.send(peer.answer(await peer.next()))
        peer.change({Setting.MAX_CONCURRENT_STREAMS: 0})
        await peer.sync()
        begun.set()
        await asyncio.sleep(0.02)
        await peer.sync()
        assert len(peer.calls) == 1
        peer.change({Setting.MAX_CONCURRENT_STREAMS: 3})
        await answer_all(peer)

    begun = asyncio.Event()
    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        await in_time(client.info())
        await begun.wait()
        await asyncio.gather(*(draw(client, seed, LARGE) for seed in range(5)), draw(client, 9))
    assert service.peers[0].most_open == 3


async def test_fewer_streams_than_are_open_are_no_fault_of_theirs():
    """They go on; new ones wait until there are fewer (5.1.2)."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        first = [await peer.next() for _ in range(4)]
        peer.change({Setting.MAX_CONCURRENT_STREAMS: 2})
        await peer.sync()
        begun.set()
        await asyncio.sleep(0.02)
        for asked in first:
            await peer.sync()
            assert peer.open <= 4 - first.index(asked) + max(0, first.index(asked) - 2)
            peer.send(peer.answer(asked))
        await answer_all(peer)

    begun = asyncio.Event()
    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        first = [asyncio.create_task(draw(client, seed, LARGE)) for seed in range(4)]
        await begun.wait()
        await asyncio.gather(*first, *(draw(client, seed, LARGE) for seed in range(4, 8)))


async def test_a_call_that_waits_for_its_turn_may_be_given_up():
    """By its caller, or by its deadline; the service never hears of it, and the next has its turn."""

    async def script(peer: Peer) -> None:
        await peer.greet({Setting.MAX_CONCURRENT_STREAMS: 1} | ROOMY)
        first = await peer.next()
        await ended.wait()
        peer.send(peer.answer(first))
        await answer_all(peer)

    ended = asyncio.Event()
    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        first = asyncio.create_task(draw(client, 1, LARGE))
        peer = await service.connected(0)
        await peer.until(lambda: peer.asked)
        left = asyncio.create_task(client.sample(LARGE, seed=2))
        last = asyncio.create_task(draw(client, 4, LARGE))
        await failure(client.sample(LARGE, seed=3, timeout=0.01), errors.DeadlineExceeded)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        ended.set()
        await asyncio.gather(first, last)
    assert service.seeds == [1, 4]


async def test_calls_that_wait_for_their_turn_go_elsewhere_when_the_connection_ends():
    """They were not looked at, and are made on the next one."""

    async def script(peer: Peer) -> None:
        await peer.greet({Setting.MAX_CONCURRENT_STREAMS: 1} | ROOMY)
        asked = await peer.next()
        peer.send(peer.goes_away(asked.stream))
        peer.send(peer.answer(asked))
        await peer.gone()

    async with scripted(script, answering) as service, AsyncClient(service.address, retries=0) as client:
        await asyncio.gather(*(draw(client, seed, LARGE) for seed in range(5)))
    assert [len(peer.asked) for peer in service.peers] == [1, 4]


@pytest.mark.parametrize("sizes", [(0,), (100, 0, 4096), (1 << 20, 50), (0, 1 << 16)])
async def test_the_table_of_headers_may_have_any_size(sizes):
    """A block after a change says how large the table is, if it must be smaller (RFC 7541, 4.2)."""

    async def script(peer: Peer) -> None:
        await peer.greet({Setting.HEADER_TABLE_SIZE: sizes[0]} | ROOMY)
        for size in (*sizes[1:], sizes[0]):
            for _ in range(2):
                peer.send(peer.answer(await peer.next()))
            peer.change({Setting.HEADER_TABLE_SIZE: size})
            await peer.sync()
        await answer_all(peer)

    async with scripted(script) as service, AsyncClient(service.address, retries=0, token="t" * 100) as client:
        for seed in range(2 * len(sizes) + 2):
            await draw(client, seed, LARGE)
            await service.peers[0].until(lambda: not service.peers[0].unacknowledged)
    assert len(service.peers) == 1


@pytest.mark.parametrize("sizes", [(1 << 20, 16_384), (16_384, 1 << 24), (20_001, 16_385)])
async def test_frames_are_as_large_as_the_service_takes(sizes):
    """From when it says so (6.5.2)."""

    async def script(peer: Peer) -> None:
        for size in sizes:
            change = {Setting.MAX_FRAME_SIZE: min(size, (1 << 24) - 1), FIRST: OPEN}
            if not peer.prefaced:
                await peer.greet(change)
                peer.grant(0, OPEN)
            else:
                peer.change(change)
            await peer.sync()
            peer.send(peer.answer(await peer.next()))

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        await draw(client, 0, LARGE)
        await service.peers[0].until(lambda: not service.peers[0].unacknowledged)
        await draw(client, 1, LARGE)
