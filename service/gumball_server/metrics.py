"""Every metric the service exports: name, labels, buckets and help, in one place."""

from collections.abc import Sequence
from enum import StrEnum

from gumball import contract
from prometheus_client import CollectorRegistry, Gauge

from gumball_server.domain import Reason
from gumball_server.series import Counter, Histogram


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


class Metrics:
    """The metrics of one server, in a registry of its own. They belong to the thread of the event loop."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        # Of each request, by the transport that carried it.
        self.request_duration = self._histogram(
            "request_duration_seconds", "From the whole request to its answer", SECONDS, ("transport", "mode")
        )
        self.decode_duration = self._histogram(
            "decode_duration_seconds", "From bytes to a valid request", SECONDS, ("transport",)
        )
        self.encode_duration = self._histogram(
            "encode_duration_seconds", "From a result to bytes", SECONDS, ("transport",)
        )
        self.requests = self._counter(
            "requests", "Requests answered, by outcome (OK or the reason)", ("transport", "mode", "code")
        )
        self.inflight = 0
        inflight = self._gauge("inflight_requests", "Requests received and not yet answered")
        inflight.set_function(lambda: self.inflight)
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
        for reason in (Reason.TOO_LARGE, Reason.OVERLOADED, Reason.UNAVAILABLE):
            self.rejected.add(reason.value, count=0)
        for drop in Drop:
            self.dropped.add(drop.value, count=0)
        self.queue_elements = self._gauge("queue_elements", "Rows x draws x categories admitted and not yet finished")
        # Of the process.
        self.worker_up = self._gauge("worker_up", "1 while the worker can compute", ("device",))
        build_info = self._gauge("build_info", "Always 1; the labels tell the versions", ("version", "contract"))
        build_info.labels(version, contract.VERSION).set(1)

    def _histogram(self, name: str, text: str, bounds: Sequence[float], labels: Sequence[str] = ()) -> Histogram:
        return Histogram(self.registry, f"gumball_{name}", text, bounds, labels)

    def _counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(self.registry, f"gumball_{name}", text, labels)

    def _gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        return Gauge(f"gumball_{name}", text, labels, registry=self.registry)
