"""What /metrics says is exactly what was sent."""

import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
import httpx
import numpy as np
import pytest
from conftest import Server
from gumball import contract
from gumball.v1 import sampling_pb2 as pb
from gumball.v1 import sampling_pb2_grpc
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

MODES = ("hard", "soft", "straight_through")

# Type and labels of every metric; a counter's samples have the suffix _total.
METRICS = {
    "gumball_request_duration_seconds": ("histogram", {"transport", "mode"}),
    "gumball_queue_duration_seconds": ("histogram", set()),
    "gumball_compute_duration_seconds": ("histogram", {"device"}),
    "gumball_decode_duration_seconds": ("histogram", {"transport"}),
    "gumball_encode_duration_seconds": ("histogram", {"transport"}),
    "gumball_batch_rows": ("histogram", set()),
    "gumball_batch_requests": ("histogram", set()),
    "gumball_batch_elements": ("histogram", set()),
    "gumball_requests": ("counter", {"transport", "mode", "code"}),
    "gumball_rejected": ("counter", {"reason"}),
    "gumball_dropped": ("counter", {"reason"}),
    "gumball_rows": ("counter", set()),
    "gumball_draws": ("counter", set()),
    "gumball_queue_elements": ("gauge", set()),
    "gumball_queue_limit_elements": ("gauge", set()),
    "gumball_queue_limit_requests": ("gauge", set()),
    "gumball_inflight_requests": ("gauge", set()),
    "gumball_build_info": ("gauge", {"version", "contract"}),
    "gumball_worker_up": ("gauge", {"device"}),
    "process_cpu_seconds": ("counter", set()),
    "process_resident_memory_bytes": ("gauge", set()),
    "process_open_fds": ("gauge", set()),
    "process_max_fds": ("gauge", set()),
    "process_start_time_seconds": ("gauge", set()),
}


@dataclass(frozen=True)
class Shot:
    """A request of the load, and how it must be counted."""

    transport: str
    mode: str
    rows: int
    draws: int
    categories: int
    fault: str = ""

    @property
    def code(self) -> str:
        return {"": "OK", "too large": "TOO_LARGE", "media type": "MEDIA_TYPE"}.get(self.fault, "INVALID_ARGUMENT")

    @property
    def counted_mode(self) -> str:
        """Only a request that could be read has a mode."""
        return "invalid" if self.fault in ("field", "body", "media type") else self.mode

    @property
    def batched(self) -> bool:
        """Whether it reached the worker; values are judged there."""
        return self.fault in ("", "values")

    @property
    def logits(self) -> np.ndarray:
        logits = np.zeros((self.rows, self.categories), np.float32)
        if self.fault == "values":
            logits[-1, 0] = np.nan
        return logits

    @property
    def asked_draws(self) -> int:
        return 2**32 if self.fault == "too large" else self.draws


def load() -> list[Shot]:
    """Every mode and fault on both transports, and many of them."""
    sizes = [(1, 1, 3), (3, 2, 5), (4, 1, 1000), (2, 7, 20), (8, 4, 40_000)]
    good = [Shot(t, m, *size) for t in ("http", "grpc") for m in MODES for size in sizes] * 6
    faults = ("values", "field", "body", "too large")
    bad = [Shot(t, m, *sizes[1], fault) for t in ("http", "grpc") for m in MODES for fault in faults] * 4
    shots = [*good, *bad, *[Shot("http", "hard", *sizes[0], "media type")] * 3]
    random.Random(5).shuffle(shots)
    return shots


def shoot(shot: Shot, http: httpx.Client, channel: grpc.Channel) -> None:
    (shoot_http if shot.transport == "http" else shoot_grpc)(shot, http if shot.transport == "http" else channel)


def shoot_http(shot: Shot, http: httpx.Client) -> None:
    rows, categories = shot.logits.shape
    query = f"shape={rows},{categories}&dtype=float32&mode={shot.mode}&draws={shot.asked_draws}"
    query += "&nonsense=1" if shot.fault == "field" else ""
    body = b"{" if shot.fault == "body" else shot.logits.tobytes()
    kind = {"body": "application/json", "media type": "text/plain"}.get(shot.fault, "application/octet-stream")
    response = http.post(
        "/sample?" + ("" if shot.fault == "body" else query), content=body, headers={"content-type": kind}
    )
    assert shot.code == ("OK" if response.status_code == 200 else response.json()["reason"]), response.text


def shoot_grpc(shot: Shot, channel: grpc.Channel) -> None:
    logits = pb.Tensor(dtype="DATA_TYPE_FLOAT32", shape=shot.logits.shape, data=shot.logits.tobytes())
    request = pb.SampleRequest(logits=logits, mode=f"MODE_{shot.mode.upper()}", draws=shot.asked_draws)
    if shot.fault == "field":
        request.top_k.append(0)
    body = b"\xff" if shot.fault == "body" else request.SerializeToString()
    sample = channel.unary_unary("/gumball.v1.SamplingService/Sample")
    error = sample.future(body).exception()
    wanted = {"OK": None, "TOO_LARGE": grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert (error and error.code()) == wanted.get(shot.code, grpc.StatusCode.INVALID_ARGUMENT)


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    server = Server("--threads", "1", "--max-batch-elements", "1000000", "--max-queue-elements", str(1 << 33))
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def http(own_server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=own_server.http, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def loaded(own_server, http) -> list[Shot]:
    """The load, once it was sent from several threads and all of it was answered."""
    shots = load()
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(own_server.addresses["grpc"], options) as channel, ThreadPoolExecutor(8) as threads:
        assert len(list(threads.map(lambda shot: shoot(shot, http, channel), shots))) == len(shots)
    return shots


@pytest.fixture(scope="module")
def exposition(loaded, http) -> str:
    response = http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    return response.text


@pytest.fixture(scope="module")
def metrics(exposition) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(exposition)}


def values(metric: Metric, suffix: str = "") -> dict[tuple[str, ...], float]:
    """The samples with this suffix, by their labels' values in the labels' alphabetical order."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for sample in metric.samples
        if sample.name == metric.name + suffix
    }


def value(metric: Metric, suffix: str = "") -> float:
    (only,) = values(metric, suffix).values()
    return only


def test_every_metric_is_there_with_its_type_and_labels(metrics):
    """The names are an interface: dashboards and alerts are written against them."""
    assert metrics.keys() == METRICS.keys()
    for name, (kind, labels) in METRICS.items():
        assert metrics[name].type == kind
        assert metrics[name].documentation
        assert all(sample.labels.keys() - {"le"} == labels for sample in metrics[name].samples)


def test_requests_are_counted_by_transport_mode_and_outcome(metrics, loaded):
    """Neither one more nor one less, however they arrived."""
    sent = Counter((shot.code, shot.counted_mode, shot.transport) for shot in loaded)
    assert values(metrics["gumball_requests"], "_total") == sent


def test_every_request_has_a_duration(metrics, loaded):
    """Refused ones as well."""
    sent = Counter((shot.counted_mode, shot.transport) for shot in loaded)
    assert values(metrics["gumball_request_duration_seconds"], "_count") == sent
    assert all(seconds > 0 for seconds in values(metrics["gumball_request_duration_seconds"], "_sum").values())


def test_what_was_read_and_written_is_timed(metrics, loaded):
    """Reading counts where there was a request to read, writing where there was an answer."""
    read = Counter((shot.transport,) for shot in loaded if shot.counted_mode != "invalid")
    written = Counter((shot.transport,) for shot in loaded if shot.code == "OK")
    # Transports that carried nothing count 0, as what a Counter does not hold.
    assert Counter(values(metrics["gumball_decode_duration_seconds"], "_count")) == read
    assert Counter(values(metrics["gumball_encode_duration_seconds"], "_count")) == written


def test_rows_and_draws_are_those_that_were_answered(metrics, loaded):
    """Work that ended in a refusal is not counted as samples."""
    good = [shot for shot in loaded if shot.code == "OK"]
    assert value(metrics["gumball_rows"], "_total") == sum(shot.rows for shot in good)
    assert value(metrics["gumball_draws"], "_total") == sum(shot.rows * shot.draws for shot in good)


def test_batches_add_up_to_the_requests_in_them(metrics, loaded):
    """Every histogram of batches has one observation a batch, and their sums are what was sent."""
    batched = [shot for shot in loaded if shot.batched]
    sums = {
        "gumball_batch_requests": len(batched),
        "gumball_batch_rows": sum(shot.rows for shot in batched),
        "gumball_batch_elements": sum(shot.rows * shot.draws * shot.categories for shot in batched),
    }
    assert {name: value(metrics[name], "_sum") for name in sums} == sums
    batches = value(metrics["gumball_batch_requests"], "_count")
    assert 0 < batches <= len(batched)
    assert {value(metrics[name], "_count") for name in sums} == {batches}
    assert values(metrics["gumball_compute_duration_seconds"], "_count") == {("cpu",): batches}
    assert value(metrics["gumball_queue_duration_seconds"], "_count") == len(batched)


def test_buckets_are_cumulative_and_end_with_the_count(metrics):
    """Histograms are histograms."""
    for metric in metrics.values():
        series: dict[tuple, list[tuple[float, float]]] = {}
        for sample in metric.samples:
            if sample.name.endswith("_bucket"):
                labels = tuple(sorted(item for item in sample.labels.items() if item[0] != "le"))
                series.setdefault(labels, []).append((float(sample.labels["le"]), sample.value))
        counts = values(metric, "_count")
        for labels, buckets in series.items():
            assert buckets == sorted(buckets)
            assert [count for _, count in buckets] == sorted(count for _, count in buckets)
            assert buckets[-1] == (float("inf"), counts[tuple(value for _, value in labels)])


def test_durations_have_buckets_from_50_microseconds(metrics):
    """Fine enough for a lone request, wide enough for a bad day."""
    for name in (name for name in METRICS if name.endswith("_duration_seconds")):
        bounds = [float(sample.labels["le"]) for sample in metrics[name].samples if "le" in sample.labels]
        assert min(bounds) == 50e-6
        assert max(bound for bound in bounds if bound < float("inf")) >= 20


def test_what_was_refused_at_admission_is_counted_by_reason(metrics, loaded):
    """Only what could be read comes so far; reasons that have not occurred count 0, so that their first is seen."""
    too_large = sum(shot.fault == "too large" for shot in loaded)
    refused = {("TOO_LARGE",): too_large, ("OVERLOADED",): 0, ("UNAVAILABLE",): 0}
    assert values(metrics["gumball_rejected"], "_total") == refused
    assert values(metrics["gumball_dropped"], "_total") == {("cancelled",): 0, ("deadline",): 0}


def test_nothing_is_left_when_all_is_answered(metrics):
    """The gauges return to 0, and the worker is up."""
    assert value(metrics["gumball_inflight_requests"]) == 0
    assert value(metrics["gumball_queue_elements"]) == 0
    assert values(metrics["gumball_worker_up"]) == {("cpu",): 1}


def test_the_limits_of_the_queue_are_told(metrics):
    """So that a query can say how full it is."""
    assert value(metrics["gumball_queue_limit_elements"]) == 1 << 33
    assert value(metrics["gumball_queue_limit_requests"]) == 4096


def test_the_build_tells_its_versions(metrics, http):
    """As /info does."""
    (labels,) = values(metrics["gumball_build_info"])
    assert labels == (contract.VERSION, http.get("/info").json()["version"])


def test_promtool_has_no_complaint(exposition):
    """Prometheus's own linter reads what we expose; without it this test fails, unless WITHOUT_PROMTOOL is set."""
    if not (promtool := shutil.which("promtool")):
        if os.environ.get("WITHOUT_PROMTOOL"):
            pytest.skip("WITHOUT_PROMTOOL is set")
        pytest.fail("promtool is not installed (Debian: apt-get install prometheus); or set WITHOUT_PROMTOOL=1")
    done = subprocess.run([promtool, "check", "metrics"], input=exposition, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for what only a scrape can tell."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def now(http: httpx.Client, name: str, suffix: str = "") -> dict[tuple[str, ...], float]:
    families = {family.name: family for family in text_string_to_metric_families(http.get("/metrics").text)}
    return values(families[name], suffix)


def test_gauges_show_what_is_under_way_and_drops_are_counted(own_server, http, loaded):
    """Requests that wait are seen while they wait; one that is given up is dropped, counted, and not computed."""
    logits = pb.Tensor(dtype="DATA_TYPE_FLOAT16", shape=[1, 1 << 14], data=bytes(2 << 14))
    slow = pb.SampleRequest(logits=logits, draws=80_000, without_replacement=4)  # a second on two fast cores
    quick = pb.SampleRequest(logits=logits, draws=20)
    batches = now(http, "gumball_batch_requests", "_count")[()]
    with grpc.insecure_channel(own_server.addresses["grpc"]) as channel:
        sample = sampling_pb2_grpc.SamplingServiceStub(channel).Sample.future
        computed = [sample(slow) for _ in range(4)]
        until(lambda: now(http, "gumball_queue_elements")[()] == 320_000 << 14)
        assert now(http, "gumball_inflight_requests")[()] == 4
        left = sample(quick)
        until(lambda: now(http, "gumball_queue_elements")[()] == 320_020 << 14)
        assert now(http, "gumball_inflight_requests")[()] == 5
        left.cancel()
        late = sample(quick, timeout=0.5)  # time enough to be admitted on a machine that is busy
        assert late.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert not computed[2].done(), "the machine was too fast for this test"
        assert [call.exception() for call in computed] == [None] * 4
    until(lambda: now(http, "gumball_queue_elements")[()] == 0)
    assert now(http, "gumball_dropped", "_total") == {("cancelled",): 1, ("deadline",): 1}
    assert now(http, "gumball_inflight_requests")[()] == 0
    requests = now(http, "gumball_requests", "_total")
    assert (requests["CANCELLED", "hard", "grpc"], requests["DEADLINE", "hard", "grpc"]) == (1, 1)
    assert now(http, "gumball_batch_requests", "_count")[()] == batches + 4
