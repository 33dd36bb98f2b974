"""Requests that come one by one, to a batcher with a worker that keeps what it draws."""

import asyncio
import time
from collections.abc import Callable

import numpy as np
from gumball_server.batcher import Batcher, Limits
from gumball_server.company import NOT_BUSY, WINDOW_SECONDS, Load
from gumball_server.domain import Output, Parameters, SampleRequest
from gumball_server.exchange import Call, Exchange
from gumball_server.metrics import Metrics
from gumball_server.validation import sample_request

ROOM = Limits(1 << 30, 1 << 40, 1 << 10, 1 << 20)
REQUEST = sample_request(np.zeros(10, np.float32), Parameters(seed=1))


class Worker:
    device = "cpu"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def run(self, requests):
        self.batches.append(len(requests))
        return [{Output.INDEX: np.zeros((1, 1), np.int32)} for _ in requests]

    def close(self) -> None: ...


class Lone(Call[bytes]):
    """As a transport makes it that brings one request a turn of the event loop."""

    comes_alone = True
    operation = "test"

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange, 1 << 20)
        self.ended = asyncio.Event()

    def headers(self):
        return ()

    def decode(self) -> tuple[SampleRequest, float | None]:
        return REQUEST, None

    def encode(self, result) -> bytes:
        return b""

    def reply(self, answer) -> None:
        self.ended.set()

    def refuse(self, error) -> None:
        raise error


def opened(load: Callable[[], float] = lambda: 1.0) -> tuple[Exchange, Batcher, Worker]:
    """In a process that is as busy as it can be, or as it is told."""
    metrics, worker = Metrics("test"), Worker()
    batcher = Batcher(ROOM, metrics, load)
    batcher.open(worker)
    return Exchange("grpc", batcher, metrics), batcher, worker


def begin(exchange: Exchange) -> Lone:
    call = Lone(exchange)
    exchange.open()
    exchange.begin(call)
    return call


async def callers(exchange: Exchange, number: int, calls: int) -> None:
    """So many, each of whom calls again when it is answered."""

    async def caller() -> None:
        for _ in range(calls):
            await asyncio.sleep(0)  # not in the turn in which the others were answered
            await begin(exchange).ended.wait()

    await asyncio.gather(*(caller() for _ in range(number)))


async def test_of_one_caller_hardly_a_request_waits():
    exchange, _, worker = opened()
    waited = 0
    for _ in range(4000):
        call = begin(exchange)
        waited += not call.ended.is_set()
        await call.ended.wait()
    assert waited <= 6
    assert worker.batches == [1] * 4000


async def test_requests_of_many_callers_are_drawn_together():
    exchange, _, worker = opened()
    await callers(exchange, 40, calls=50)
    assert sum(worker.batches) == 2000
    assert np.mean(worker.batches[len(worker.batches) // 2 :]) > 10


async def test_a_few_callers_soon_wait_no_more():
    exchange, _, worker = opened()
    await callers(exchange, 4, calls=2000)
    assert sum(size == 1 for size in worker.batches) > 7500


async def test_once_the_many_are_gone_one_waits_no_more():
    exchange, _, worker = opened()
    await callers(exchange, 40, calls=20)
    worker.batches.clear()
    await callers(exchange, 1, calls=1000)
    assert begin(exchange).ended.is_set(), "it waits after 1000 were alone"


async def test_who_does_not_come_alone_is_not_kept_waiting_by_those_who_do():
    exchange, batcher, worker = opened()
    for _ in range(8):
        call = begin(exchange)
    assert not call.ended.is_set(), "this one waits for company"
    worker.batches.clear()
    sampling = asyncio.ensure_future(batcher.sample(REQUEST))
    for _ in range(5):
        await asyncio.sleep(0)
    assert sampling.done()
    assert worker.batches == [2]


async def test_nobody_waits_where_there_is_time_to_spare():
    exchange, _, worker = opened(lambda: 0.8)
    await callers(exchange, 40, calls=50)
    assert worker.batches == [1] * 2000


async def test_once_there_is_time_again_nobody_waits():
    load = [1.0]
    exchange, _, worker = opened(lambda: load[0])
    await callers(exchange, 40, calls=20)
    load[0] = NOT_BUSY
    await callers(exchange, 40, calls=1)
    worker.batches.clear()
    await callers(exchange, 40, calls=20)
    assert worker.batches == [1] * 800


def test_the_load_is_that_of_late():
    """Near nothing of a process that sleeps; more of one that computes, and less of more cores."""
    one, four = Load(1), Load(4)
    time.sleep(WINDOW_SECONDS)
    idle = one.share()
    assert idle < NOT_BUSY
    end = time.perf_counter() + 2 * WINDOW_SECONDS
    while time.perf_counter() < end:
        pass
    assert one.share() > idle
    assert one.share() == one.share(), "it was measured just now"
    assert four.share() <= one.share()
