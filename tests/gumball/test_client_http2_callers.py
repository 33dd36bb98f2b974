"""Callers that go before they have an answer: their service is told, and nobody else notices."""

import asyncio

import pytest
from gumball import AsyncClient, errors
from http2_frames import END_STREAM, Code, Setting
from http2_peer import OK, ROOMY, SAMPLE, STREAM, Peer, framed, response
from http2_scripts import LARGE, LOGITS, draw, failure, in_time, scripted

pytestmark = pytest.mark.usefixtures("nothing_is_lost")

each_logits = pytest.mark.parametrize("logits", [LOGITS, LARGE], ids=["stream", "alone"])


async def test_a_call_by_itself_that_is_cancelled_is_reset():
    """The service is told at once, by CANCEL, and its neighbours go on."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        asked = [await peer.next() for _ in range(4)]
        await peer.until(lambda: [call for call in peer.calls.values() if call.code is not None])
        for each in asked:
            if peer.calls[each.stream].code is None:
                peer.send(peer.answer(each))

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        others = [asyncio.create_task(draw(client, seed, LARGE)) for seed in range(3)]
        others.append(asyncio.create_task(draw(client, 9)))
        peer = await service.connected(0)
        await peer.until(lambda: len(peer.asked) == 4)
        others.pop(1).cancel()
        await asyncio.gather(*others)
    codes = {asked.seeds[0]: peer.calls[asked.stream].code for asked in peer.asked if asked.path == SAMPLE}
    assert codes == {0: None, 1: Code.CANCEL, 2: None}


@pytest.mark.parametrize("when", ["headers", "half a message"])
async def test_a_call_that_is_cancelled_within_its_answer_is_reset(when):
    """What comes of it then is passed over."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        asked = await peer.next()
        message = framed(response(asked))
        peer.send(peer.begin(asked.stream) + (peer.data(asked.stream, message[:9]) if when != "headers" else b""))
        await peer.sync()
        begun.set()
        await peer.until(lambda: peer.calls[asked.stream].code is not None)
        peer.send(peer.data(asked.stream, message[9:]) + peer.headers(asked.stream, OK, END_STREAM))
        peer.send(peer.answer(await peer.next()))

    begun = asyncio.Event()
    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        left = asyncio.create_task(client.info())
        await in_time(begun.wait())
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        await draw(client, 1)
    assert service.peers[0].calls[1].code == Code.CANCEL
    assert len(service.peers) == 1


async def test_a_call_of_the_stream_that_is_cancelled_is_withdrawn():
    """The stream goes on, and an answer that comes all the same is passed over."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        first = await peer.next()
        await peer.until(lambda: peer.withdrawn)
        peer.send(peer.answer(first))
        while True:
            peer.send(peer.answer(await peer.next()))

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        calls = [asyncio.create_task(client.sample(LOGITS, seed=seed)) for seed in range(4)]
        peer = await service.connected(0)
        await peer.until(lambda: peer.asked)
        calls[2].cancel()
        done = await in_time(asyncio.gather(*calls, return_exceptions=True))
        await draw(client, 9)
    assert [isinstance(each, asyncio.CancelledError) for each in done] == [False, False, True, False]
    assert peer.withdrawn == [2]
    assert [call.code for call in peer.calls.values()].count(Code.CANCEL) <= 1  # of the stream, when the client closes


@each_logits
async def test_a_deadline_that_passes_ends_the_call(logits):
    """The service is told that it may stop; the connection stays."""

    async def script(peer: Peer) -> None:
        await peer.greet()
        asked = await peer.next()
        await peer.until(lambda: peer.withdrawn if asked.path == STREAM else peer.calls[asked.stream].code is not None)
        while True:
            peer.send(peer.answer(await peer.next()))

    async with scripted(script) as service, AsyncClient(service.address, retries=0) as client:
        await failure(client.sample(logits, timeout=0.02), errors.DeadlineExceeded)
        await draw(client, 1, logits)
    assert len(service.peers) == 1


@pytest.mark.parametrize("greeted", [False, True])
async def test_closing_ends_calls_at_every_stage(greeted):
    """Whoever waits is told: for a connection, for a turn, for an answer."""

    async def script(peer: Peer) -> None:
        if greeted:
            await peer.greet({Setting.MAX_CONCURRENT_STREAMS: 2} | ROOMY)

    async with scripted(script) as service:
        client = AsyncClient(service.address, retries=0)
        calls = [asyncio.create_task(client.sample(logits)) for logits in (LOGITS, LARGE, LARGE, LARGE)]
        peer = await service.connected(0)
        if greeted:
            await peer.until(lambda: len(peer.asked) == 2)
        await in_time(client.close())
        for call in calls:
            await failure(call, errors.Unavailable)
        await in_time(peer.gone())
