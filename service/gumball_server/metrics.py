"""Every metric the service exports: name, labels, buckets and help, in one place."""

from collections.abc import Callable, Sequence
from enum import StrEnum

import prometheus_client
from gumball import contract
from prometheus_client import CollectorRegistry

from gumball_server.domain import Mode, Reason
from gumball_server.processes import Processes
from gumball_server.series import Counter, Gauge, Histogram, Labels, Memory, Region


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


TRANSPORTS = ("http", "grpc", "oip_http", "oip_grpc")
MODES = (*[mode.value for mode in Mode], "invalid")
CODES = ("OK", *[reason.value for reason in Reason])
DEVICES = ("cpu", *[f"cuda:{i}" for i in range(16)])
REFUSALS = (Reason.TOO_LARGE.value, Reason.OVERLOADED.value, Reason.UNAVAILABLE.value)
DROPS = tuple(drop.value for drop in Drop)


class Metrics:
    """The metrics of one server, in a registry of its own. They belong to the thread of the event loop.

    Several processes that are one server each have their own of a common memory, all made in the first of them.
    """

    def __init__(self, version: str, memory: Memory | None = None, process: int = 0) -> None:
        self.registry = CollectorRegistry()
        self._region = Region(memory or Memory(), process)
        # Of each request, by the transport that carried it.
        self.request_duration = self._histogram(
            "request_duration_seconds",
            "From the whole request to its answer",
            SECONDS,
            {"transport": TRANSPORTS, "mode": MODES},
        )
        self.decode_duration = self._histogram(
            "decode_duration_seconds", "From bytes to a valid request", SECONDS, {"transport": TRANSPORTS}
        )
        self.encode_duration = self._histogram(
            "encode_duration_seconds", "From a result to bytes", SECONDS, {"transport": TRANSPORTS}
        )
        self.requests = self._counter(
            "requests",
            "Requests answered, by outcome (OK or the reason)",
            {"transport": TRANSPORTS, "mode": MODES, "code": CODES},
        )
        self.inflight = self._gauge("inflight_requests", "Requests received and not yet answered")
        # Of the queue and the batches.
        self.queue_duration = self._histogram("queue_duration_seconds", "From admission to a batch", SECONDS)
        self.compute_duration = self._histogram("compute_duration_seconds", "Of a batch", SECONDS, {"device": DEVICES})
        self.batch_rows = self._histogram("batch_rows", "Rows of a batch", ROWS)
        self.batch_requests = self._histogram("batch_requests", "Requests of a batch", REQUESTS)
        self.batch_elements = self._histogram("batch_elements", "Rows x draws x categories of a batch", ELEMENTS)
        self.rows = self._counter("rows", "Rows drawn from")
        self.draws = self._counter("draws", "Samples drawn")
        self.rejected = self._counter("rejected", "Requests refused at admission", {"reason": REFUSALS}, REFUSALS)
        self.dropped = self._counter(
            "dropped", "Requests admitted and dropped before they were computed", {"reason": DROPS}, DROPS
        )
        self.queue_elements = self._gauge("queue_elements", "Rows x draws x categories admitted and not yet finished")
        self.queue_limit_elements = self._gauge("queue_limit_elements", "Of gumball_queue_elements: more is refused")
        self.queue_limit_requests = self._gauge("queue_limit_requests", "Requests admitted at once: more are refused")
        # Of the processes.
        self.processes = Processes(self.registry)
        self.worker_up = self._gauge("worker_up", "1 while every worker can compute", {"device": DEVICES}, min)
        build_info = prometheus_client.Gauge(
            "gumball_build_info",
            "Always 1; the labels tell the versions",
            ("version", "contract"),
            registry=self.registry,
        )
        build_info.labels(version, contract.VERSION).set(1)

    def forget_process(self) -> None:
        """The process of these metrics is no more: what it counted stays, what it was at does not."""
        for gauge in (
            self.inflight,
            self.queue_elements,
            self.queue_limit_elements,
            self.queue_limit_requests,
            self.worker_up,
        ):
            gauge.clear()

    def _histogram(self, name: str, text: str, bounds: Sequence[float], labels: Labels | None = None) -> Histogram:
        return Histogram(self.registry, self._region, f"gumball_{name}", text, bounds, labels or {})

    def _counter(self, name: str, text: str, labels: Labels | None = None, known: Sequence[str] = ()) -> Counter:
        return Counter(self.registry, self._region, f"gumball_{name}", text, labels or {}, known)

    def _gauge(
        self,
        name: str,
        text: str,
        labels: Labels | None = None,
        merge: Callable[[Sequence[float]], float] = sum,
    ) -> Gauge:
        return Gauge(self.registry, self._region, f"gumball_{name}", text, labels or {}, merge)
