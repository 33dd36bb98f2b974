"""The batcher with a worker that the test controls."""

import asyncio
import threading

import numpy as np
import pytest
from gumball_server.batcher import SMALL_WORK, Batcher, Limits
from gumball_server.domain import Output, Parameters, Reason, SampleRequest, SamplingError
from gumball_server.metrics import Metrics
from gumball_server.validation import sample_request
from gumball_server.worker import DeviceLostError

SMALL, LARGE = 10, SMALL_WORK
ROOM = Limits(
    max_response_bytes=1 << 30, max_queue_elements=1 << 40, max_queue_requests=100, max_batch_elements=4 * LARGE
)


class ScriptedWorker:
    """Keeps the batches it gets; each of more than one thread's work waits until it is let go."""

    at_once = 1

    def __init__(self, fails: bool = False, device: str = "cpu", failure: type[Exception] = RuntimeError) -> None:
        self.device = device
        self.failure = failure
        self.batches: list[list[SampleRequest]] = []
        self.computing = threading.Semaphore(0)
        self.permits = threading.Semaphore(0)
        self.fails = fails

    def run(self, requests):
        self.batches.append(list(requests))
        if any(request.plan.categories == LARGE for request in requests):
            self.computing.release()
            self.permits.acquire()
        if self.fails:
            raise self.failure("scripted")
        return [{Output.INDEX: np.zeros((request.plan.rows, 1), np.int32)} for request in requests]

    def close(self) -> None: ...

    @property
    def seeds(self) -> list[list[int]]:
        return [[request.seed for request in batch] for batch in self.batches]


class ShortWorker(ScriptedWorker):
    """Loses the result of the last request."""

    def run(self, requests):
        return super().run(requests)[:-1]


def ask(categories: int, seed: int) -> SampleRequest:
    return sample_request(np.zeros(categories, np.float32), Parameters(seed=seed))


def opened(worker: ScriptedWorker, limits: Limits = ROOM) -> tuple[Batcher, Metrics]:
    metrics = Metrics("test")
    batcher = Batcher(limits, metrics)
    batcher.open(worker)
    return batcher, metrics


async def computing(worker: ScriptedWorker) -> None:
    """Return once the worker is in the middle of a batch with large requests."""
    await asyncio.to_thread(worker.computing.acquire)


async def settled() -> None:
    """Let everything run that can run on the loop."""
    for _ in range(10):
        await asyncio.sleep(0)


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"gumball_{name}", labels) or 0.0


async def test_small_requests_of_one_turn_share_a_batch_and_keep_their_order():
    """What arrives together is drawn together, and each caller gets its own result."""
    worker = ScriptedWorker()
    batcher, metrics = opened(worker)
    results = await asyncio.gather(*(batcher.sample(ask(SMALL, seed)) for seed in range(5)))
    assert worker.seeds == [[0, 1, 2, 3, 4]]
    assert [result.request.seed for result in results] == [0, 1, 2, 3, 4]
    assert value(metrics, "batch_requests_sum") == 5
    assert value(metrics, "rows_total") == value(metrics, "draws_total") == 5


async def test_an_idle_worker_takes_a_large_request_at_once_and_one_batch_is_kept_ready():
    """The first goes alone, the second waits ready, and the rest gather up to the budget."""
    worker = ScriptedWorker()
    batcher, _ = opened(worker)
    waiting = []
    for seed in range(8):
        waiting.append(asyncio.ensure_future(batcher.sample(ask(LARGE, seed))))
        await settled()
    for _ in range(4):
        worker.permits.release()
    await asyncio.gather(*waiting)
    assert worker.seeds == [[0], [1], [2, 3, 4, 5], [6, 7]]


async def test_a_small_request_does_not_wait_behind_a_large_one():
    """It is drawn on the loop while the thread computes."""
    worker = ScriptedWorker()
    batcher, _ = opened(worker)
    large = asyncio.ensure_future(batcher.sample(ask(LARGE, 1)))
    await computing(worker)
    assert (await batcher.sample(ask(SMALL, 2))).request.seed == 2
    assert not large.done()
    worker.permits.release()
    await large


@pytest.mark.parametrize("how", ["cancelled", "deadline"])
async def test_a_request_that_nobody_waits_for_is_dropped_before_it_is_computed(how: str):
    """Cancelled or past its deadline, it costs nothing and is counted."""
    worker = ScriptedWorker()
    batcher, metrics = opened(worker)
    wanted = []
    for seed in (1, 2):  # one computed, one ready
        wanted.append(asyncio.ensure_future(batcher.sample(ask(LARGE, seed))))
        await settled()
    await computing(worker)
    soon = asyncio.get_running_loop().time() + 0.01 if how == "deadline" else None
    unwanted = asyncio.ensure_future(batcher.sample(ask(LARGE, 3), soon))
    wanted.append(asyncio.ensure_future(batcher.sample(ask(LARGE, 4))))
    await settled()
    if how == "cancelled":
        unwanted.cancel()
        with pytest.raises(asyncio.CancelledError):
            await unwanted
    else:
        with pytest.raises(SamplingError) as raised:  # while the worker is still busy
            await unwanted
        assert raised.value.reason is Reason.DEADLINE
    for _ in range(3):
        worker.permits.release()
    await asyncio.gather(*wanted)
    assert all(3 not in seeds for seeds in worker.seeds)
    assert value(metrics, "dropped_total", reason=how) == 1
    assert value(metrics, "queue_elements") == 0


@pytest.mark.parametrize("worker", [ScriptedWorker(fails=True), ShortWorker()], ids=["raises", "loses a result"])
@pytest.mark.parametrize("categories", [SMALL, LARGE])
async def test_a_defect_of_the_worker_fails_its_batch_and_nothing_else(worker: ScriptedWorker, categories: int, caplog):
    """Every request of the batch is answered, and the next batch is drawn."""
    batcher, metrics = opened(worker)
    worker.permits.release(4)
    for _ in range(2):
        outcomes = await asyncio.gather(
            batcher.sample(ask(categories, 1)), batcher.sample(ask(categories, 2)), return_exceptions=True
        )
        assert [outcome.reason for outcome in outcomes] == [Reason.INTERNAL, Reason.INTERNAL]
    await asyncio.wait_for(batcher.drained(), 10)
    assert value(metrics, "queue_elements") == 0
    assert "failed" in caplog.text


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(1 << 30, 1 << 40, 1, 1 << 20), Reason.OVERLOADED),
        (Limits(1 << 30, LARGE + 9, 100, 1 << 20), Reason.OVERLOADED),
        (Limits(1 << 30, LARGE // 2, 100, 1 << 20), Reason.TOO_LARGE),
        (Limits(3, 1 << 40, 100, 1 << 20), Reason.TOO_LARGE),
    ],
)
async def test_what_the_queue_cannot_take_is_refused_at_once_and_counted(limits: Limits, reason: Reason):
    """By requests and by elements; a request larger than the whole queue, or with too large an answer, never fits."""
    worker = ScriptedWorker()
    batcher, metrics = opened(worker, limits)
    first = asyncio.ensure_future(batcher.sample(ask(LARGE, 1)))
    await settled()
    with pytest.raises(SamplingError) as raised:
        await batcher.sample(ask(SMALL if reason is Reason.OVERLOADED else LARGE, 2))
    assert raised.value.reason is reason
    worker.permits.release()
    await asyncio.gather(first, return_exceptions=True)
    assert value(metrics, "rejected_total", reason=reason.value) == (1 if reason is Reason.OVERLOADED else 2)
    assert value(metrics, "queue_elements") == 0


async def test_nothing_is_admitted_before_there_is_a_worker():
    """It is UNAVAILABLE, not queued."""
    with pytest.raises(SamplingError) as raised:
        await Batcher(ROOM, Metrics("test")).sample(ask(SMALL, 1))
    assert raised.value.reason is Reason.UNAVAILABLE


async def test_an_idle_worker_lingers_for_company_when_told_to():
    """Requests of different turns then share a batch."""
    worker = ScriptedWorker()
    batcher, _ = opened(worker, Limits(1 << 30, 1 << 40, 100, 1 << 20, linger_seconds=0.05))
    first = asyncio.ensure_future(batcher.sample(ask(SMALL, 1)))
    await settled()
    await asyncio.gather(first, batcher.sample(ask(SMALL, 2)))
    assert worker.seeds == [[1, 2]]


def with_devices(*devices: ScriptedWorker) -> tuple[Batcher, Metrics, ScriptedWorker, list[bool]]:
    """A batcher with devices, one request a batch; its CPU; and what it told of whether there are devices."""
    metrics, cpu, told = Metrics("test"), ScriptedWorker(), []
    batcher = Batcher(Limits(1 << 30, 1 << 40, 100, 1), metrics)
    batcher.open(cpu, told.append)
    for device in devices:
        batcher.attach(device)
    cpu.permits.release(100)
    return batcher, metrics, cpu, told


async def test_a_batch_goes_to_the_device_that_has_the_fewest_in_hand():
    """Each has one computed and one ready; who is done first gets the next. The CPU draws what is small, at once."""
    first, second = ScriptedWorker(device="cuda:0"), ScriptedWorker(device="cuda:1")
    batcher, metrics, cpu, _ = with_devices(first, second)
    waiting = [asyncio.ensure_future(batcher.sample(ask(LARGE, seed))) for seed in range(6)]
    await computing(first)
    await computing(second)
    await batcher.sample(ask(SMALL, 9))
    assert cpu.seeds == [[9]]
    second.permits.release(4)
    await asyncio.gather(waiting[1], waiting[3], waiting[4], waiting[5])
    assert second.seeds == [[1], [3], [4], [5]]
    first.permits.release(2)
    await asyncio.gather(*waiting)
    assert first.seeds == [[0], [2]]
    counts = [value(metrics, "compute_duration_seconds_count", device=name) for name in ("cpu", "cuda:0", "cuda:1")]
    assert counts == [1, 2, 4]


@pytest.mark.parametrize("failure", [RuntimeError, DeviceLostError])
async def test_the_cpu_draws_what_a_device_fails_at(failure: type[Exception], caplog):
    """Its callers notice nothing. One that is lost gets no more batches, and it is told that there is none left."""
    device = ScriptedWorker(fails=True, device="cuda:0", failure=failure)
    device.permits.release(100)
    batcher, metrics, cpu, told = with_devices(device)
    results = await asyncio.gather(*(batcher.sample(ask(LARGE, seed)) for seed in range(4)))
    assert [result.request.seed for result in results] == [0, 1, 2, 3]
    assert sorted(cpu.seeds) == [[0], [1], [2], [3]]
    is_lost = failure is DeviceLostError
    assert len(device.batches) == (2 if is_lost else 4)  # one computed, one ready
    assert value(metrics, "worker_up", device="cuda:0") == (not is_lost)
    assert told == ([True, False] if is_lost else [True])
    assert "failed on cuda:0" in caplog.text


async def test_a_device_draws_as_many_batches_at_once_as_it_can():
    """So that one is copied while another is computed; a third waits."""
    device = ScriptedWorker(device="cuda:0")
    device.at_once = 2
    batcher, *_ = with_devices(device)
    asked = [asyncio.ensure_future(batcher.sample(ask(LARGE, seed))) for seed in range(3)]
    for _ in range(2):
        assert await asyncio.to_thread(device.computing.acquire, timeout=10)
    await settled()
    assert sorted(device.seeds) == [[0], [1]]
    device.permits.release(3)
    await asyncio.gather(*asked)
    batcher.close()


async def test_devices_come_and_go():
    """What waits is drawn by the next that comes; what one has in hand when it goes, it draws."""
    first, second = ScriptedWorker(device="cuda:0"), ScriptedWorker(device="cuda:1")
    batcher, metrics, cpu, told = with_devices(first)
    waiting = [asyncio.ensure_future(batcher.sample(ask(LARGE, seed))) for seed in range(4)]
    await computing(first)
    batcher.detach(first)
    assert value(metrics, "worker_up", device="cuda:0") == 0
    batcher.attach(second)
    second.permits.release(2)
    await asyncio.gather(*waiting[2:])
    first.permits.release(2)
    await asyncio.gather(*waiting)
    assert (first.seeds, second.seeds, cpu.seeds) == ([[0], [1]], [[2], [3]], [])
    assert told == [True, False, True]
    batcher.detach(second)
    await batcher.sample(ask(LARGE, 5))
    assert cpu.seeds == [[5]]
