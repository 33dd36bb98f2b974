"""The batcher: admits requests, gathers those that wait into batches, and hands each its result.

Two lanes. Small requests are drawn on the event loop by the CPU, together with whatever else arrived in the same turn
of it: a hop to another thread would cost more than their work, and so would a launch on a GPU. Large ones go to the
threads of a device; while it computes one batch, the next is kept ready and further arrivals gather. So a small request
never waits behind a large one, and an idle device never waits for company. Where a transport brings one small request a
turn, they wait for each other while the process is at its limit (see `Company`).

Devices come and go. A batch goes to the one that has the fewest in hand. What one of them fails at, and what comes
while there is none, the CPU draws: the bits are the same.
"""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from gumball_server.company import Company
from gumball_server.domain import Plan, Reason, Run, SampleRequest, SampleResult, SamplingError
from gumball_server.metrics import Drop, Metrics
from gumball_server.worker import AnyWorker, DeviceLostError, DeviceWorker, Drawn

log = logging.getLogger("gumball.batcher")

# Work that is done on the event loop: up to some 100 us of it. In units of a hard element, a soft one is four and
# every sample costs some more, however few its categories.
SMALL_WORK = 1 << 17
SOFT_WORK = 4
SAMPLE_WORK = 32
MOST_TOGETHER = 64  # requests that are drawn as one while others wait
# Of each worker: one batch computed, one kept ready or, by a device that can, copied meanwhile.
HANDED_BATCHES = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """What is admitted, and how much of it makes a batch; elements are rows x draws x categories."""

    max_response_bytes: int
    max_queue_elements: int
    max_queue_requests: int
    max_batch_elements: int
    linger_seconds: float = 0.0


# What a request comes to.
Outcome = SampleResult | SamplingError


class Pending(ABC):
    """A request on its way to its outcome."""

    __slots__ = ("admitted_ns", "elements", "request", "timer", "unwanted")

    def __init__(self) -> None:
        self.request: SampleRequest  # this and the next from `Batcher.submit` on
        self.elements: int
        self.admitted_ns = 0
        self.unwanted: Drop | None = None  # why nobody waits for it any more
        self.timer: asyncio.TimerHandle | None = None  # of its deadline

    @abstractmethod
    def done(self, outcome: Outcome) -> None:
        """Called once, from the loop, unless the request is withdrawn before."""


class _Awaited(Pending):
    """A request that a coroutine waits for."""

    __slots__ = ("future",)

    def __init__(self) -> None:
        super().__init__()
        self.future: asyncio.Future[SampleResult] = asyncio.get_running_loop().create_future()

    def done(self, outcome: Outcome) -> None:
        if self.future.done():  # cancelled, and its caller has not run yet
            return
        if isinstance(outcome, SamplingError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class _Drawing(NamedTuple):
    """What came of drawing a batch."""

    drawn: list[Drawn]
    run: Run
    is_lost: bool = False  # the device that it was meant for


class _Device:
    """A worker, the threads that it has for large batches, and how many of these it has in hand."""

    __slots__ = ("handed", "threads", "worker")

    def __init__(self, worker: AnyWorker, threads: int = 1) -> None:
        self.worker = worker
        self.threads = ThreadPoolExecutor(threads, f"gumball-{worker.device}")
        self.handed = 0

    def draw(self, requests: Sequence[SampleRequest]) -> list[Drawn]:
        drawn = self.worker.run(requests)
        if len(drawn) != len(requests):
            raise RuntimeError(f"the worker gave {len(drawn)} results for {len(requests)} requests")
        return drawn


class Batcher:
    """Lives on one event loop; every method must be called there."""

    def __init__(self, limits: Limits, metrics: Metrics, load: Callable[[], float] = lambda: 0.0) -> None:
        """`load` tells how busy the process is: see `Company`."""
        self._limits = limits
        self._metrics = metrics
        self.is_open = False
        self._cpu: _Device  # from `open` on, as the next
        self._on_devices: Callable[[bool], None]
        self._devices: list[_Device] = []
        self._small: deque[Pending] = deque()
        self._large: deque[Pending] = deque()
        self._handed = 0  # batches in threads
        self._scheduled = False
        self._company = Company(self._dispatch, load)
        self._requests = 0  # admitted and not finished
        self._elements = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._queue_duration = metrics.queue_duration.labels()
        self._batch_requests, self._batch_rows = metrics.batch_requests.labels(), metrics.batch_rows.labels()
        self._batch_elements = metrics.batch_elements.labels()
        self._rows, self._draws = metrics.rows.labels(), metrics.draws.labels()
        self._queue_elements = metrics.queue_elements.labels()
        metrics.queue_limit_elements.labels().set(limits.max_queue_elements)
        metrics.queue_limit_requests.labels().set(limits.max_queue_requests)

    def open(self, cpu: AnyWorker, on_devices: Callable[[bool], None] = lambda _: None) -> None:
        """Begin to admit requests. `on_devices` is told whether there is a device, whenever one comes or goes."""
        self._cpu = _Device(cpu)
        self._on_devices = on_devices
        self.is_open = True
        self._metrics.worker_up.labels(cpu.device).set(1)

    def attach(self, worker: DeviceWorker) -> None:
        """A device can compute: from now on it gets the large batches, or its share."""
        self._devices.append(_Device(worker, worker.at_once))
        self._metrics.worker_up.labels(worker.device).set(1)
        self._on_devices(True)
        if not self._scheduled:
            self._schedule()

    def detach(self, worker: AnyWorker) -> None:
        """A device cannot compute any more: it gets no further batches. What it has in hand, it draws or fails at."""
        for device in [device for device in self._devices if device.worker is worker]:
            self._drop(device)

    def _drop(self, device: _Device) -> None:
        if device in self._devices:
            self._devices.remove(device)
            device.threads.shutdown(wait=False)
            self._metrics.worker_up.labels(device.worker.device).set(0)
            self._on_devices(bool(self._devices))

    async def drained(self) -> None:
        """Return once nothing that was admitted is unfinished."""
        await self._idle.wait()

    def close(self) -> None:
        """Stop the threads. What is still admitted stays unanswered: drain first."""
        for device in (*self._devices, self._cpu) if self.is_open else ():
            device.threads.shutdown(cancel_futures=True)
            self._metrics.worker_up.labels(device.worker.device).set(0)
            device.worker.close()

    async def sample(self, request: SampleRequest, deadline: float | None = None) -> SampleResult:
        """The result of a request, or its error raised; see `submit`. Cancelling the caller withdraws the request."""
        awaited = _Awaited()
        self.submit(awaited, request, deadline)
        try:
            return await awaited.future
        except asyncio.CancelledError:
            self.withdraw(awaited)
            raise

    def check_open(self) -> None:
        """Raise SamplingError (UNAVAILABLE) before there is a worker: until then requests cannot be decoded, either."""
        if not self.is_open:
            self._metrics.rejected.labels(Reason.UNAVAILABLE.value).add()
            raise SamplingError(Reason.UNAVAILABLE, "the kernels are not ready yet")

    def draw(self, request: SampleRequest) -> SampleResult:
        """The result of a request that `draws_at_once`, here and now. For a caller who gets one request at a time.

        Raises SamplingError, as `sample` does.
        """
        self._admit(request, request.plan.layout.elements)
        drawing = self._run(self._cpu, [request])
        self._queue_duration.observe(0.0)
        self._count([request], drawing)
        (drawn,), run, _ = drawing
        if isinstance(drawn, SamplingError):
            raise drawn
        return SampleResult(request, drawn, 0, run.compute_ns, run)

    @classmethod
    def most_together(cls, plan: Plan) -> int:
        """How many requests with a plan `draw_together` takes."""
        return min(MOST_TOGETHER, SMALL_WORK // cls._work(plan))

    def draw_together(self, request: SampleRequest) -> SampleResult | None:
        """The result of a request whose rows are requests of their own, here and now.

        None where not all can be drawn: then each is to be submitted by itself, and gets its own result or error.
        """
        elements = request.plan.layout.elements
        try:
            self._check_room(request, elements)
        except SamplingError:
            return None
        drawing = self._run(self._cpu, [request])
        (drawn,), run, _ = drawing
        if isinstance(drawn, SamplingError):
            return None
        run = run._replace(requests=run.rows)
        self._queue_duration.observe(0.0, run.rows)
        self._count([request], drawing._replace(run=run))
        return SampleResult(request, drawn, 0, run.compute_ns, run)

    def submit(
        self, pending: Pending, request: SampleRequest, deadline: float | None = None, *, comes_alone: bool = False
    ) -> None:
        """Admit a request: `pending.done` is called with its outcome. One that `comes_alone` waits for company.

        Raises SamplingError: UNAVAILABLE before there is a worker, TOO_LARGE or OVERLOADED where the queue cannot take
        it. Its outcome is DEADLINE when that passes first (in the loop's time), INVALID_ARGUMENT for logits that
        cannot be drawn from.
        """
        elements = request.plan.layout.elements
        self._admit(request, elements)
        self._requests += 1
        self._elements += elements
        self._idle.clear()
        pending.request, pending.elements = request, elements
        pending.admitted_ns = time.perf_counter_ns()
        if deadline is not None:
            pending.timer = asyncio.get_running_loop().call_at(deadline, self._expire, pending)
        if self.draws_at_once(request):
            self._small.append(pending)  # and gone before anybody could see it in a gauge
            if comes_alone:
                self._company.wait()
                return
        else:
            self._large.append(pending)
            self._queue_elements.set(self._elements)
        if not self._scheduled:
            self._schedule(self._limits.linger_seconds if not self._handed else 0.0)

    def withdraw(self, pending: Pending, why: Drop = Drop.CANCELLED) -> None:
        """Nobody waits for a request any more: it is not computed, unless it is being, and gets no outcome."""
        pending.unwanted = why
        if pending.timer is not None:
            pending.timer.cancel()

    def _expire(self, pending: Pending) -> None:
        self.withdraw(pending, Drop.DEADLINE)
        pending.done(SamplingError(Reason.DEADLINE, "not done by its deadline"))

    def draws_alone(self, request: SampleRequest) -> bool:
        """Whether a request that comes alone is to be drawn at once, for it gains nothing by waiting for company."""
        return self.draws_at_once(request) and not self._company.pays()

    @classmethod
    def draws_at_once(cls, request: SampleRequest) -> bool:
        """Whether a request is drawn on the event loop, so that its caller hardly waits."""
        return cls._work(request.plan) <= SMALL_WORK

    @staticmethod
    def _work(plan: Plan) -> int:
        of_category = SOFT_WORK if plan.layout.is_dense else 1
        return plan.rows * plan.draws * (SAMPLE_WORK + plan.categories * of_category)

    def _admit(self, request: SampleRequest, elements: int) -> None:
        self.check_open()
        try:
            self._check_room(request, elements)
        except SamplingError as error:
            self._metrics.rejected.labels(error.reason.value).add()
            raise

    def _check_room(self, request: SampleRequest, elements: int) -> None:
        limits = self._limits
        if (size := request.plan.layout.result_bytes) > limits.max_response_bytes:
            detail = f"the answer would have {size} bytes, the limit is {limits.max_response_bytes}"
            raise SamplingError(Reason.TOO_LARGE, detail, "outputs")
        if elements > limits.max_queue_elements:
            detail = f"rows x draws x categories is {elements}, the limit is {limits.max_queue_elements}"
            raise SamplingError(Reason.TOO_LARGE, detail, "draws" if request.plan.draws > 1 else "logits")
        if self._elements + elements > limits.max_queue_elements or self._requests >= limits.max_queue_requests:
            raise SamplingError(Reason.OVERLOADED, "the queue is full, try again later")

    def _schedule(self, delay: float = 0.0) -> None:
        self._scheduled = True
        loop = asyncio.get_running_loop()
        if delay:
            loop.call_later(delay, self._dispatch)
        else:
            loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Hand over what the threads can take, then draw one batch of small requests here."""
        self._scheduled = False
        while self._large and (device := self._free_device()):
            if batch := self._gather(self._large, self._limits.max_batch_elements):
                self._hand_over(device, batch)
        if batch := self._gather(self._small, SMALL_WORK):
            self._finish(batch, self._run(self._cpu, [pending.request for pending in batch]))
        if self._small and not self._scheduled:
            self._schedule()

    def _free_device(self) -> _Device | None:
        """The one that has the fewest batches in hand, if it takes another."""
        device = min(self._devices or [self._cpu], key=lambda device: device.handed)
        return device if device.handed < HANDED_BATCHES else None

    def _gather(self, lane: deque[Pending], max_elements: int) -> list[Pending]:
        """The next batch of a lane: the oldest requests that are still wanted, within the budget."""
        batch: list[Pending] = []
        elements = 0
        while lane:
            pending = lane[0]
            if pending.unwanted is None:
                elements += pending.elements
                if batch and elements > max_elements:
                    break
                batch.append(pending)
            else:
                self._metrics.dropped.labels(pending.unwanted.value).add()
                self._release(pending)
            lane.popleft()
        self._queue_elements.set(self._elements)
        return batch

    def _hand_over(self, device: _Device, batch: list[Pending]) -> None:
        device.handed += 1
        self._handed += 1
        running = asyncio.get_running_loop().run_in_executor(
            device.threads, self._run, device, [pending.request for pending in batch]
        )
        running.add_done_callback(
            lambda done: None if done.cancelled() else self._take_back(device, batch, done.result())
        )

    def _take_back(self, device: _Device, batch: list[Pending], drawing: _Drawing) -> None:
        device.handed -= 1
        self._handed -= 1
        if drawing.is_lost:
            self._drop(device)
        self._finish(batch, drawing)
        if not self._scheduled:
            self._schedule()

    def _run(self, device: _Device, requests: Sequence[SampleRequest]) -> _Drawing:
        """Draw a batch, on whichever thread this is. A defect fails the batch, never the thread."""
        start_ns = time.perf_counter_ns()
        try:
            drawn = device.draw(requests)
        except Exception as error:
            log.exception("a batch of %d requests failed on %s", len(requests), device.worker.device)
            if device is not self._cpu:
                drawing = self._run(self._cpu, requests)
                return drawing._replace(is_lost=isinstance(error, DeviceLostError))
            drawn = [SamplingError(Reason.INTERNAL, "the sampler failed; the server's log says why")] * len(requests)
        compute_ns = time.perf_counter_ns() - start_ns
        rows = sum([request.plan.rows for request in requests])
        return _Drawing(drawn, Run(start_ns, compute_ns, device.worker.device, len(requests), rows))

    def _finish(self, batch: Sequence[Pending], drawing: _Drawing) -> None:
        """Give every request of a batch its outcome."""
        run = drawing.run
        self._queue_duration.observe_each([(run.start_ns - pending.admitted_ns) / 1e9 for pending in batch])
        self._count([pending.request for pending in batch], drawing)
        for pending, drawn in zip(batch, drawing.drawn, strict=True):
            self._release(pending)
            if pending.unwanted is None:
                if pending.timer is not None:
                    pending.timer.cancel()
                self._tell(pending, drawn, run)
        self._queue_elements.set(self._elements)

    @staticmethod
    def _tell(pending: Pending, drawn: Drawn, run: Run) -> None:
        outcome: Outcome
        if isinstance(drawn, SamplingError):
            outcome = drawn
        else:
            outcome = SampleResult(pending.request, drawn, run.start_ns - pending.admitted_ns, run.compute_ns, run)
        try:
            pending.done(outcome)
        except Exception:  # of whoever waited for it; its neighbours are waiting too
            log.exception("an outcome could not be delivered")

    def _count(self, requests: Sequence[SampleRequest], drawing: _Drawing) -> None:
        run = drawing.run
        self._batch_requests.observe(run.requests)
        self._batch_rows.observe(run.rows)
        self._metrics.compute_duration.labels(run.device).observe(run.compute_ns / 1e9)
        elements = rows = draws = 0
        for (_, _, plan), outcome in zip(requests, drawing.drawn, strict=True):
            elements += plan.layout.elements
            if not isinstance(outcome, SamplingError):
                rows += plan.rows
                draws += plan.rows * plan.draws
        self._batch_elements.observe(elements)
        self._rows.add(rows)
        self._draws.add(draws)

    def _release(self, pending: Pending) -> None:
        self._requests -= 1
        self._elements -= pending.elements
        if not self._requests:
            self._idle.set()
