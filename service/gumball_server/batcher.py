"""The batcher: admits requests, gathers those that wait into batches, and hands each its result.

Two lanes. Small requests are drawn on the event loop, together with whatever else arrived in the same turn of it: a hop
to another thread would cost more than their work. Large ones go to a thread; while it computes one batch, the next is
kept ready and further arrivals gather. So a small request never waits behind a large one, and an idle worker never
waits for company.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

from gumball_server.domain import PER_DRAW_AND_CATEGORY, Reason, SampleRequest, SampleResult, SamplingError
from gumball_server.metrics import Drop, Metrics
from gumball_server.worker import AnyWorker, Drawn

log = logging.getLogger("gumball.batcher")

# Work that is done on the event loop: up to some 100 us of it. In units of a hard element, a soft one is four and
# every sample costs some more, however few its categories.
SMALL_WORK = 1 << 17
SOFT_WORK = 4
SAMPLE_WORK = 32
# One batch computed, one kept ready.
HANDED_BATCHES = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """What is admitted, and how much of it makes a batch; elements are rows x draws x categories."""

    max_response_bytes: int
    max_queue_elements: int
    max_queue_requests: int
    max_batch_elements: int
    linger_seconds: float = 0.0


@dataclass(slots=True, eq=False)
class Pending:
    """An admitted request on its way to its result."""

    request: SampleRequest
    future: asyncio.Future[SampleResult]
    admitted_ns: int = field(default_factory=time.perf_counter_ns)
    expired: bool = False


class Run(NamedTuple):
    """What came of drawing a batch."""

    drawn: list[Drawn]
    start_ns: int
    compute_ns: int


class Batcher:
    """Lives on one event loop; every method must be called there."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._worker: AnyWorker | None = None
        self._device = "none"
        self._thread = ThreadPoolExecutor(1, "gumball-worker")
        self._small: deque[Pending] = deque()
        self._large: deque[Pending] = deque()
        self._handed = 0  # batches in the thread
        self._scheduled = False
        self._requests = 0  # admitted and not finished
        self._elements = 0
        metrics.queue_elements.set_function(lambda: self._elements)
        self._idle = asyncio.Event()
        self._idle.set()

    def open(self, worker: AnyWorker) -> None:
        """Begin to admit requests, for this worker."""
        self._worker = worker
        self._device = worker.device
        self._metrics.worker_up.labels(worker.device).set(1)

    async def drained(self) -> None:
        """Return once nothing that was admitted is unfinished."""
        await self._idle.wait()

    def close(self) -> None:
        """Stop the thread. What is still admitted stays unanswered: drain first."""
        self._thread.shutdown(cancel_futures=True)
        if self._worker is not None:
            self._metrics.worker_up.labels(self._worker.device).set(0)
            self._worker.close()

    async def sample(self, request: SampleRequest, deadline: float | None = None) -> SampleResult:
        """The result of a request. `deadline` is in the loop's time.

        Raises SamplingError: UNAVAILABLE before there is a worker, TOO_LARGE or OVERLOADED at once where the queue
        cannot take it, DEADLINE when that passes first, INVALID_ARGUMENT for logits that cannot be drawn from.
        Cancelling the caller withdraws a request that is not being computed yet.
        """
        pending = self._admit(request)
        if deadline is None:
            return await pending.future
        try:
            async with asyncio.timeout_at(deadline):
                return await pending.future
        except TimeoutError:
            pending.expired = True
            raise SamplingError(Reason.DEADLINE, "not done by its deadline") from None

    @staticmethod
    def draws_at_once(request: SampleRequest) -> bool:
        """Whether a request is drawn on the event loop, so that its caller hardly waits."""
        return _work(request) <= SMALL_WORK

    def _admit(self, request: SampleRequest) -> Pending:
        try:
            self._check_room(request)
        except SamplingError as error:
            self._metrics.rejected.labels(error.reason).inc()
            raise
        pending = Pending(request, asyncio.get_running_loop().create_future())
        self._requests += 1
        self._elements += request.elements
        self._idle.clear()
        (self._small if self.draws_at_once(request) else self._large).append(pending)
        self._schedule(self._limits.linger_seconds if not self._handed else 0.0)
        return pending

    def _check_room(self, request: SampleRequest) -> None:
        limits = self._limits
        if self._worker is None:
            raise SamplingError(Reason.UNAVAILABLE, "the kernels are not ready yet")
        if request.result_bytes > limits.max_response_bytes:
            detail = f"the answer would have {request.result_bytes} bytes, the limit is {limits.max_response_bytes}"
            raise SamplingError(Reason.TOO_LARGE, detail, "outputs")
        if request.elements > limits.max_queue_elements:
            detail = f"rows x draws x categories is {request.elements}, the limit is {limits.max_queue_elements}"
            raise SamplingError(Reason.TOO_LARGE, detail, "draws" if request.draws > 1 else "logits")
        full = self._elements + request.elements > limits.max_queue_elements
        if full or self._requests >= limits.max_queue_requests:
            raise SamplingError(Reason.OVERLOADED, "the queue is full, try again later")

    def _schedule(self, delay: float = 0.0) -> None:
        if self._scheduled:
            return
        self._scheduled = True
        loop = asyncio.get_running_loop()
        if delay:
            loop.call_later(delay, self._dispatch)
        else:
            loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Hand over what the thread can take, then draw one batch of small requests here."""
        self._scheduled = False
        while self._handed < HANDED_BATCHES and (batch := self._gather(self._large, self._limits.max_batch_elements)):
            self._hand_over(batch)
        if batch := self._gather(self._small, SMALL_WORK):
            self._finish(batch, self._run(batch))
        if self._small:
            self._schedule()

    def _gather(self, lane: deque[Pending], max_elements: int) -> list[Pending]:
        """The next batch of a lane: the oldest requests that are still wanted, within the budget."""
        batch: list[Pending] = []
        elements = 0
        while lane:
            pending = lane[0]
            if not pending.future.cancelled():
                elements += pending.request.elements
                if batch and elements > max_elements:
                    break
                batch.append(pending)
            else:
                self._metrics.dropped.labels((Drop.DEADLINE if pending.expired else Drop.CANCELLED).value).inc()
                self._release(pending)
            lane.popleft()
        return batch

    def _hand_over(self, batch: list[Pending]) -> None:
        self._handed += 1
        running = asyncio.get_running_loop().run_in_executor(self._thread, self._run, batch)
        running.add_done_callback(lambda done: None if done.cancelled() else self._take_back(batch, done.result()))

    def _take_back(self, batch: list[Pending], run: Run) -> None:
        self._handed -= 1
        self._finish(batch, run)
        self._schedule()

    def _run(self, batch: Sequence[Pending]) -> Run:
        """Draw a batch, on whichever thread this is. A defect fails the batch, never the thread."""
        start_ns = time.perf_counter_ns()
        try:
            drawn = self._draw([pending.request for pending in batch])
        except Exception:
            log.exception("a batch of %d requests failed", len(batch))
            drawn = [SamplingError(Reason.INTERNAL, "the sampler failed; the server's log says why")] * len(batch)
        return Run(drawn, start_ns, time.perf_counter_ns() - start_ns)

    def _draw(self, requests: Sequence[SampleRequest]) -> list[Drawn]:
        if self._worker is None:
            raise RuntimeError("nothing is admitted before there is a worker")
        drawn = self._worker.run(requests)
        if len(drawn) != len(requests):
            raise RuntimeError(f"the worker gave {len(drawn)} results for {len(requests)} requests")
        return drawn

    def _finish(self, batch: Sequence[Pending], run: Run) -> None:
        """Give every request of a batch its result or its error."""
        self._count(batch, run)
        for pending, drawn in zip(batch, run.drawn, strict=True):
            self._release(pending)
            if pending.future.cancelled():
                continue
            if isinstance(drawn, SamplingError):
                pending.future.set_exception(drawn)
            else:
                queue_ns = run.start_ns - pending.admitted_ns
                pending.future.set_result(SampleResult(pending.request, drawn, queue_ns, run.compute_ns))

    def _count(self, batch: Sequence[Pending], run: Run) -> None:
        metrics = self._metrics
        metrics.batch_requests.observe(len(batch))
        metrics.batch_rows.observe(sum(pending.request.rows for pending in batch))
        metrics.batch_elements.observe(sum(pending.request.elements for pending in batch))
        metrics.compute_duration.labels(self._device).observe(run.compute_ns / 1e9)
        for pending in batch:
            metrics.queue_duration.observe((run.start_ns - pending.admitted_ns) / 1e9)
        drawn = [p.request for p, drawn in zip(batch, run.drawn, strict=True) if not isinstance(drawn, SamplingError)]
        metrics.rows.inc(sum(request.rows for request in drawn))
        metrics.draws.inc(sum(request.rows * request.draws for request in drawn))

    def _release(self, pending: Pending) -> None:
        self._requests -= 1
        self._elements -= pending.request.elements
        if not self._requests:
            self._idle.set()


def _work(request: SampleRequest) -> int:
    dense = any(output in PER_DRAW_AND_CATEGORY for output in request.outputs)
    return request.rows * request.draws * (SAMPLE_WORK + request.categories * (SOFT_WORK if dense else 1))
