"""A service that goes by a script for each of its connections, and calls of it by our client, each in time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from gumball import AsyncClient, contract, errors
from http2_peer import SECONDS, Gone, Peer

LOGITS = np.random.default_rng(3).normal(0, 2, (1, 10)).astype(np.float32)
LARGE = np.random.default_rng(4).normal(0, 2, (1, 20_000)).astype(np.float32)  # by itself, not in a stream


async def in_time(call: Awaitable[Any]) -> Any:
    """What comes of a call, which must be soon."""
    return await asyncio.wait_for(call, SECONDS)


async def draw(client: AsyncClient, seed: int, logits: np.ndarray = LOGITS, **given: Any) -> None:
    """A call that must be answered rightly."""
    sample = await in_time(client.sample(logits, seed=seed, **given))
    assert sample.index.tolist() == [[int(contract.hard(logits, seed)[0])]]


async def failure(call: Awaitable[Any], kind: type[errors.GumballError] = errors.GumballError) -> errors.GumballError:
    """The error of a call that must fail with one of Gumball's."""
    with pytest.raises(kind) as raised:
        await in_time(call)
    return raised.value


Script = Callable[[Peer], Awaitable[None]]


async def answering(peer: Peer) -> None:
    """A script: all that is asked is answered rightly."""
    await peer.greet()
    while True:
        peer.send(peer.answer(await peer.next()))


class Scripted:
    """A service each of whose connections goes by the next script, and the last of them by all that follow."""

    def __init__(self, scripts: Sequence[Script]) -> None:
        self._scripts = scripts
        self.address = ""
        self.peers: list[Peer] = []
        self.failures: list[BaseException] = []  # of scripts and of rules
        self._arrived = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def seeds(self) -> list[int]:
        """Of all requests on all connections."""
        return [seed for peer in self.peers for asked in peer.asked for seed in asked.seeds]

    async def connected(self, number: int) -> Peer:
        """The connection of this number, counted from 0, once it is there."""
        async with asyncio.timeout(SECONDS):
            while len(self.peers) <= number:
                await self._arrived.wait()
        return self.peers[number]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        script = self._scripts[min(len(self.peers), len(self._scripts) - 1)]
        self.peers.append(peer)
        self._arrived.set()  # wakes all who wait now
        self._arrived.clear()
        for part in (script(peer), peer.read()):
            task = asyncio.create_task(self._run(part, writer))
            self._tasks.add(task)

    async def _run(self, part: Awaitable[None], writer: asyncio.StreamWriter) -> None:
        try:
            await part
        except Gone:
            pass
        except Exception as failure:  # it is told when the test is over; the client shall not wait for long
            self.failures.append(failure)
            writer.close()

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for peer in self.peers:
            await peer.close()


@contextlib.asynccontextmanager
async def scripted(*scripts: Script) -> AsyncIterator[Scripted]:
    """A service that goes by these scripts. What was wrong with a client, or in a script, is raised in the end."""
    service = Scripted(scripts)
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0)
    service.address = f"grpc://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield service
    finally:
        server.close()
        await service.end()
        if service.failures:
            raise service.failures[0]
