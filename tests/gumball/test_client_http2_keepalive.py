"""A connection that died without a word is noticed while calls wait; a clock that skips saves the waiting."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from gumball import AsyncClient, errors
from http2_peer import Peer
from http2_scripts import LARGE, LOGITS, answering, draw, failure, scripted

pytestmark = pytest.mark.usefixtures("nothing_is_lost")


class Skipping(asyncio.SelectorEventLoop):
    """A loop whose clock goes on at once where a test has no time to wait."""

    skipped = 0.0

    def time(self) -> float:
        return super().time() + self.skipped


def run_skipping(test: Callable[[], Awaitable[None]]) -> None:
    with asyncio.Runner(loop_factory=Skipping) as runner:
        runner.run(test())


async def skip(seconds: float) -> None:
    """What was to happen in this time happens now."""
    asyncio.get_running_loop().skipped += seconds
    for _ in range(5):
        await asyncio.sleep(0.001)


async def waiting(peer: Peer) -> None:
    """A script: nothing is answered, not even pings."""
    peer.answers_pings = False
    await peer.greet()


@pytest.mark.parametrize("logits", [LOGITS, LARGE], ids=["stream", "alone"])
def test_a_service_that_died_without_a_word_is_given_up(logits):
    """It is asked by a ping after half a minute, and given ten seconds."""

    async def test() -> None:
        async with scripted(waiting, answering) as service, AsyncClient(service.address, retries=0) as client:
            call = asyncio.create_task(client.sample(logits))
            peer = await service.connected(0)
            await peer.until(lambda: peer.asked)
            await peer.sync()
            await skip(25)
            assert not peer.pings
            await skip(6)
            await peer.until(lambda: peer.pings)
            assert not call.done()
            await skip(11)
            await failure(call, errors.Unavailable)
            await draw(client, 1, logits)
        assert len(service.peers) == 2

    run_skipping(test)


def test_a_service_that_answers_pings_is_waited_for():
    """For as long as it takes."""

    async def test() -> None:
        async def script(peer: Peer) -> None:
            await peer.greet()
            asked = await peer.next()
            await answer.wait()
            peer.send(peer.answer(asked))

        answer = asyncio.Event()
        async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
            call = asyncio.create_task(client.sample(LARGE, seed=1))
            peer = await service.connected(0)
            await peer.until(lambda: peer.asked)
            for _ in range(10):
                await skip(20)
            assert peer.pings
            assert not call.done()
            answer.set()
            assert (await call).seed == 1
        assert len(service.peers) == 1

    run_skipping(test)


def test_a_service_that_dies_late_is_given_up_too():
    """However long a call has waited before; though it is asked less often then, for servers count pings."""

    async def test() -> None:
        async with scripted(Peer.greet, answering) as service, AsyncClient(service.address, retries=0) as client:
            call = asyncio.create_task(client.sample(LARGE))
            peer = await service.connected(0)
            await peer.until(lambda: peer.asked)
            for _ in range(30):
                await skip(20)
            assert not call.done()
            assert peer.pings
            peer.answers_pings = False
            for _ in range(60):
                await skip(20)
            await failure(call, errors.Unavailable)

    run_skipping(test)


def test_nobody_is_asked_while_no_call_waits():
    """Though the stream is open: servers count pings that are for nothing, and gRPC's own ends the connection."""

    async def patient(peer: Peer) -> None:
        await peer.greet()
        while True:
            with suppress(TimeoutError):  # which the clock makes of nothing
                peer.send(peer.answer(await peer.next()))

    async def test() -> None:
        async with scripted(patient) as service, AsyncClient(service.address, retries=0) as client:
            for seed in range(3):
                await draw(client, seed)
                await service.peers[0].sync()
                for _ in range(6):
                    await skip(20)
            await service.peers[0].sync()
        assert [peer.pings for peer in service.peers] == [0]

    run_skipping(test)
