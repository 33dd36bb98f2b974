"""Every metric the service exports: name, labels, buckets and help, in one place."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import cache

from gumball import contract
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gumball_server.domain import Mode, Reason, SamplingError


def geometric(first: float, factor: float, last: float) -> list[float]:
    """Bucket bounds first, first * factor, ... up to the first that reaches last."""
    bounds = [first]
    while bounds[-1] < last:
        bounds.append(bounds[-1] * factor)
    return bounds


SECONDS = geometric(50e-6, 2, 25)  # 50 us to 26 s in 20 buckets
ROWS = geometric(1, 4, 4**8)  # 1 to 65,536 rows
REQUESTS = geometric(1, 2, 2**10)  # 1 to 1,024 requests
ELEMENTS = geometric(16, 8, 16 * 8**7)  # 16 to 33,554,432 elements


class Drop(StrEnum):
    """Why an admitted request was not computed."""

    DEADLINE = "deadline"
    CANCELLED = "cancelled"


class Count:
    """What is known so far of a request that is being counted."""

    __slots__ = ("mode", "started")

    def __init__(self) -> None:
        self.mode: Mode | None = None
        self.start()

    def start(self) -> None:
        """The whole request is here: its duration counts from now."""
        self.started = time.perf_counter()


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        # Of each request, by the transport that carried it.
        request_duration = self._histogram(
            "request_duration_seconds", "From the whole request to its answer", SECONDS, ("transport", "mode")
        )
        self._request_duration = cache(request_duration.labels)
        self.decode_duration = self._histogram(
            "decode_duration_seconds", "From bytes to a valid request", SECONDS, ("transport",)
        )
        self.encode_duration = self._histogram(
            "encode_duration_seconds", "From a result to bytes", SECONDS, ("transport",)
        )
        requests = self._counter(
            "requests", "Requests answered, by outcome (OK or the reason)", ("transport", "mode", "code")
        )
        self._requests = cache(requests.labels)  # looking children up costs more than counting
        self._inflight = 0
        inflight = self._gauge("inflight_requests", "Requests received and not yet answered")
        inflight.set_function(lambda: self._inflight)
        # Of the queue and the batches.
        self.queue_duration = self._histogram("queue_duration_seconds", "From admission to a batch", SECONDS)
        self.compute_duration = self._histogram("compute_duration_seconds", "Of a batch", SECONDS, ("device",))
        self.batch_rows = self._histogram("batch_rows", "Rows of a batch", ROWS)
        self.batch_requests = self._histogram("batch_requests", "Requests of a batch", REQUESTS)
        self.batch_elements = self._histogram("batch_elements", "Rows x draws x categories of a batch", ELEMENTS)
        self.rows = self._counter("rows", "Rows drawn from")
        self.draws = self._counter("draws", "Samples drawn")
        self.rejected = self._counter("rejected", "Requests refused at admission", ("reason",))
        self.dropped = self._counter("dropped", "Requests admitted and dropped before they were computed", ("reason",))
        for reason in (
            Reason.TOO_LARGE,
            Reason.OVERLOADED,
            Reason.UNAVAILABLE,
        ):  # so that a rate sees the first of each
            self.rejected.labels(reason.value)
        for drop in Drop:
            self.dropped.labels(drop.value)
        self.queue_elements = self._gauge("queue_elements", "Rows x draws x categories admitted and not yet finished")
        self.queue_limit_elements = self._gauge("queue_limit_elements", "Of gumball_queue_elements: more is refused")
        self.queue_limit_requests = self._gauge("queue_limit_requests", "Requests admitted at once: more are refused")
        # Of the process.
        self.worker_up = self._gauge("worker_up", "1 while the worker can compute", ("device",))
        build_info = self._gauge("build_info", "Always 1; the labels tell the versions", ("version", "contract"))
        build_info.labels(version, contract.VERSION).set(1)

    @contextmanager
    def request(self, transport: str) -> Iterator[Count]:
        """Count a request, from here to the end of the block, under the outcome that the block has."""
        count, code = Count(), "OK"
        self._inflight += 1
        try:
            yield count
        except SamplingError as error:
            code = error.reason.value
            raise
        except asyncio.CancelledError:
            code = Reason.CANCELLED.value
            raise
        finally:
            mode = count.mode.value if count.mode else "invalid"
            self._inflight -= 1
            self._request_duration(transport, mode).observe(time.perf_counter() - count.started)
            self._requests(transport, mode, code).inc()

    def _histogram(self, name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
        return Histogram(f"gumball_{name}", text, labels, buckets=buckets, registry=self.registry)

    def _counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(f"gumball_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        return Gauge(f"gumball_{name}", text, labels, registry=self.registry)
