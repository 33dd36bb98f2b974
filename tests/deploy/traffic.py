"""Mixed traffic that keeps to a schedule: a call is made when it is due, whatever has become of those before it."""

import asyncio
import io
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import aiohttp
import grpc
import numpy as np
from gumball import AsyncClient, Client, Sample
from gumball._balancer import Balancer
from gumball.v1 import sampling_pb2 as pb
from gumball.v1 import sampling_pb2_grpc
from load import MODES, logits
from named_services import request_of

SMALL = ((1, 10), (4, 1000))
LARGE = ((1, 32_000), (16, 32_000))  # 128 KB and 2 MB
SEED = 7
TIMEOUT = 20.0
KEPT = 0.75  # of a schedule, at least

# Asks once more each time, and gives what must be the same whoever answers; or raises.
Call = Callable[[], Awaitable[Any]]


def over_json(session: aiohttp.ClientSession, mode: str, shape: tuple[int, int]) -> Call:
    numbers = logits(shape).round(4).astype(float).tolist()
    body = json.dumps({"logits": numbers, "mode": mode, "seed": SEED}).encode()
    ask = posting(session, "/sample", body, "application/json")

    async def call() -> bytes:
        return (await ask()).partition(b',"timings"')[0]

    return call


def over_binary(session: aiohttp.ClientSession, mode: str, shape: tuple[int, int]) -> Call:
    path = f"/sample?shape={shape[0]},{shape[1]}&dtype=float32&mode={mode}&seed={SEED}"
    return posting(session, path, logits(shape).tobytes(), "application/octet-stream")


def posting(session: aiohttp.ClientSession, path: str, body: bytes, kind: str) -> Callable[[], Awaitable[bytes]]:
    """aiohttp, which costs a quarter of httpx: what asks must leave room for those who answer."""

    async def call() -> bytes:
        async with session.post(path, data=io.BytesIO(body), headers={"content-type": kind}) as answer:
            answer.raise_for_status()
            return await answer.read()

    return call


def over_grpc(channel: grpc.aio.Channel, mode: str, shape: tuple[int, int]) -> Call:
    sample = sampling_pb2_grpc.SamplingServiceStub(channel).Sample
    tensor = pb.Tensor(dtype="DATA_TYPE_FLOAT32", shape=shape, data=logits(shape).tobytes())
    request = pb.SampleRequest(logits=tensor, mode=f"MODE_{mode.upper()}", seed=SEED)

    async def call() -> tuple[bytes, bytes]:
        answer = await sample(request, timeout=TIMEOUT)
        return answer.index.data, answer.soft.data

    return call


def over_client(client: AsyncClient | Client, mode: str, shape: tuple[int, int]) -> Call:
    """By our own client, which waits in a thread where it does not await."""
    numbers = logits(shape)

    async def call() -> list[bytes]:
        if isinstance(client, AsyncClient):
            return drawn(await client.sample(numbers, mode=mode, seed=SEED, timeout=TIMEOUT))
        return drawn(await asyncio.to_thread(client.sample, numbers, mode=mode, seed=SEED, timeout=TIMEOUT))

    return call


def over_balancer(balancer: Balancer, mode: str, shape: tuple[int, int]) -> Call:
    """By the inside of our own client."""
    request = request_of(logits(shape), mode, SEED)

    async def call() -> list[bytes]:
        return drawn(await balancer.sample(request, TIMEOUT))

    return call


def drawn(sample: Sample) -> list[bytes]:
    return [output.tobytes() for output in (sample.index, sample.soft) if output is not None]


def mixed(way: Callable[[Any, str, tuple[int, int]], Call], to: Any, part: int) -> list[Call]:
    """Small requests of every mode, `part` of each, and two larger ones."""
    small = [way(to, mode, shape) for mode in MODES for shape in SMALL]
    return small * part + [way(to, "soft", LARGE[0]), way(to, "hard", LARGE[1])]


@dataclass
class Traffic:
    """What was made of a schedule, and what came of it: OK, or what went wrong. Complete when it is over."""

    rate: float
    outcomes: Counter[str] = field(default_factory=Counter)
    late: list[float] = field(default_factory=list)  # seconds, of each call
    seconds: float = 0.0

    def assert_no_call_failed(self) -> None:
        """Nor were many left out: where servers start on the cores of this process, it falls behind its schedule."""
        assert set(self.outcomes) == {"OK"}, self
        assert self.outcomes["OK"] == len(self.late) >= KEPT * self.rate * self.seconds, self

    def __str__(self) -> str:
        late = f"{np.median(self.late) * 1e3:.1f} ms, {max(self.late) * 1e3:.1f} ms"
        return f"{dict(self.outcomes)} of {len(self.late)} in {self.seconds:.1f} s; late, median and most: {late}"


@asynccontextmanager
async def traffic(calls: list[Call], rate: float) -> AsyncIterator[Traffic]:
    """Call each in turn, `rate` times a second in all, while the block runs."""
    told, over, running = Traffic(rate), asyncio.Event(), set()
    calls = random.Random(1).sample(calls, len(calls))
    firsts: dict[Call, Any] = {}

    async def ask(call: Call) -> None:
        try:
            answer = await call()
            outcome = "OK" if answer == firsts.setdefault(call, answer) else "other bits"
        except Exception as error:
            outcome = f"{type(error).__name__} {error}"
        told.outcomes[outcome] += 1

    async def keep_time() -> None:
        start = time.monotonic()
        for number in count():
            due = start + number / rate
            await asyncio.sleep(due - time.monotonic())
            if over.is_set():
                break
            told.late.append(time.monotonic() - due)
            task = asyncio.create_task(ask(calls[number % len(calls)]))
            running.add(task)
            task.add_done_callback(running.discard)
        told.seconds = time.monotonic() - start

    keeping = asyncio.create_task(keep_time())
    try:
        yield told
    finally:
        over.set()
        await keeping
        await asyncio.gather(*running)
