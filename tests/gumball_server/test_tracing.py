"""Traces, as a collector of our own receives them, and the exemplars that lead there."""

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from collector import Collector
from conftest import Server
from gumball import AsyncClient, Client
from gumball.v1 import sampling_pb2 as pb
from gumball.v1 import sampling_pb2_grpc
from gumball_server.series import Memory, Region, Series
from live_prometheus import Prometheus, until
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanContext, Tracer
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as plain_text_to_metric_families
from tritonclient import grpc as triton

STAGES = ["decode", "queue", "compute", "encode"]
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}  # ms from span to collector, instead of 5 s
SMALL, LARGE = (1, 3), (4, 40_000)  # rows, categories; the large are read and drawn in threads
OPENMETRICS = {"accept": "application/openmetrics-text; version=1.0.0"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.stop()


@pytest.fixture(scope="module")
def traced(collector) -> Iterator[Server]:
    """A server that traces every request."""
    server = Server("--trace-endpoint", collector.url, environment=SOON)
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="module")
def traced_if_asked(collector) -> Iterator[Server]:
    """One with the other engine for gRPC, that traces only what its callers do."""
    flags = ("--trace-endpoint", collector.url, "--trace-ratio", "0", "--grpc-engine", "aio")
    server = Server(*flags, environment=SOON)
    yield server
    assert server.stop() == 0


class Caller:
    """A span of whoever calls, in W3C's words."""

    def __init__(self, is_sampled: bool = True) -> None:
        self.trace_id, self.span_id = secrets.token_hex(16), secrets.token_hex(8)
        self.traceparent = f"00-{self.trace_id}-{self.span_id}-{int(is_sampled):02}"

    @property
    def headers(self) -> dict[str, str]:
        return {"traceparent": self.traceparent, "tracestate": "vendor=1"}


@dataclass(frozen=True)
class Told:
    """What an answer says of itself: the time in the queue and in the sampler, and its trace."""

    queue_ns: int
    compute_ns: int
    traceresponse: str | None


def over_http(server: Server, caller: Caller, size: tuple[int, int]) -> Told:
    logits = np.zeros(size, np.float32).tolist()
    answer = httpx.post(f"{server.http}/sample", json={"logits": logits}, headers=caller.headers).raise_for_status()
    return Told(**answer.json()["timings"], traceresponse=answer.headers.get("traceresponse"))


def tensor(size: tuple[int, int]) -> pb.Tensor:
    return pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=size, data=np.zeros(size, np.float32).tobytes())


def over_grpc(server: Server, caller: Caller, size: tuple[int, int]) -> Told:
    with grpc.insecure_channel(server.addresses["grpc"]) as channel:
        method = sampling_pb2_grpc.SamplingServiceStub(channel).Sample
        answer, call = method.with_call(pb.SampleRequest(logits=tensor(size)), metadata=tuple(caller.headers.items()))
        traceresponse = dict(call.trailing_metadata()).get("traceresponse")
    return Told(answer.timings.queue_ns, answer.timings.compute_ns, traceresponse)


def in_a_stream(server: Server, metadata: dict[str, str], *requests: pb.SampleRequest) -> list[pb.SampleResponse]:
    with grpc.insecure_channel(server.addresses["grpc"]) as channel:
        method = sampling_pb2_grpc.SamplingServiceStub(channel).SampleStream
        messages = iter([pb.SampleStreamRequest(requests=requests)])
        return [each for answer in method(messages, metadata=tuple(metadata.items())) for each in answer.responses]


def over_a_stream(server: Server, caller: Caller, size: tuple[int, int]) -> Told:
    """The caller of the request goes before that of the stream."""
    (answer,) = in_a_stream(server, Caller().headers, pb.SampleRequest(logits=tensor(size), trace=caller.headers))
    return Told(answer.timings.queue_ns, answer.timings.compute_ns, None)


def over_a_stream_of_its_own(server: Server, caller: Caller, size: tuple[int, int]) -> Told:
    (answer,) = in_a_stream(server, caller.headers, pb.SampleRequest(logits=tensor(size)))
    return Told(answer.timings.queue_ns, answer.timings.compute_ns, None)


def over_oip_http(server: Server, caller: Caller, size: tuple[int, int]) -> Told:
    data = np.zeros(size).ravel().tolist()
    body = {"inputs": [{"name": "logits", "datatype": "FP32", "shape": size, "data": data}]}
    answer = httpx.post(f"{server.http}/v2/models/gumball/infer", json=body, headers=caller.headers).raise_for_status()
    timings = {name: int(answer.json()["parameters"][name]) for name in ("queue_ns", "compute_ns")}
    return Told(**timings, traceresponse=answer.headers["traceresponse"])


def over_oip_grpc(server: Server, caller: Caller, size: tuple[int, int]) -> Told:
    logits = triton.InferInput("logits", size, "FP32").set_data_from_numpy(np.zeros(size, np.float32))
    with triton.InferenceServerClient(server.addresses["grpc"]) as client:
        parameters = client.infer("gumball", [logits], headers=caller.headers).get_response().parameters
    return Told(parameters["queue_ns"].int64_param, parameters["compute_ns"].int64_param, None)


HTTP = {
    "http.request.method": "POST",
    "http.route": "/sample",
    "url.path": "/sample",
    "url.scheme": "http",
    "http.response.status_code": 200,
}
RPC = {"rpc.system.name": "grpc", "rpc.response.status_code": "OK"}
SAMPLE, STREAM = (f"gumball.v1.SamplingService/{method}" for method in ("Sample", "SampleStream"))
V2 = "/v2/models/{name}/infer"
INFER = "inference.GRPCInferenceService/ModelInfer"
WAYS: dict[str, tuple[Callable[[Server, Caller, tuple[int, int]], Told], tuple[int, int], str, dict[str, Any]]] = {
    "http": (over_http, SMALL, "POST /sample", HTTP),
    "http, large": (over_http, LARGE, "POST /sample", HTTP),
    "grpc": (over_grpc, SMALL, SAMPLE, RPC | {"rpc.method": SAMPLE}),
    "grpc, large": (over_grpc, LARGE, SAMPLE, RPC | {"rpc.method": SAMPLE}),
    "stream": (over_a_stream, SMALL, STREAM, RPC | {"rpc.method": STREAM}),
    "stream of one caller": (over_a_stream_of_its_own, SMALL, STREAM, RPC | {"rpc.method": STREAM}),
    "oip http": (
        over_oip_http,
        SMALL,
        f"POST {V2}",
        {k: v for k, v in HTTP.items() if k != "url.path"} | {"http.route": V2},
    ),
    "oip grpc": (over_oip_grpc, SMALL, INFER, RPC | {"rpc.method": INFER}),
}


@pytest.mark.parametrize("server", ["traced", "traced_if_asked"])
@pytest.mark.parametrize("way", WAYS)
def test_a_call_is_a_span_of_its_caller_and_its_stages_are_spans_of_it(collector, request, server, way):
    """With the times of the answer, one after another within the call, and with the size of the batch."""
    call, size, name, attributes = WAYS[way]
    caller = Caller()
    before_ns = time.time_ns()
    told = call(request.getfixturevalue(server), caller, size)
    after_ns = time.time_ns()
    span, *stages = collector.trace(caller.trace_id, 5)
    assert (span.name, span.kind, span.parent_id) == (name, "SERVER", caller.span_id)
    assert span.attributes == attributes | {"gumball.mode": "hard"}
    assert span.resource["service.name"] == "gumball"
    assert not span.is_error
    assert told.traceresponse in (f"00-{span.trace_id}-{span.span_id}-01", None)
    assert (told.traceresponse is None) == ("stream" in way or way == "oip grpc")
    assert [stage.name for stage in stages] == STAGES
    assert {stage.parent_id for stage in stages} == {span.span_id}
    ends = [before_ns, span.start_ns, *(end for each in stages for end in (each.start_ns, each.end_ns)), span.end_ns]
    assert ends == sorted(ends)
    assert span.end_ns <= after_ns
    decode, queue, compute, encode = stages
    assert (queue.duration_ns, compute.duration_ns) == (told.queue_ns, told.compute_ns)
    assert min(decode.duration_ns, compute.duration_ns, encode.duration_ns) > 0
    assert compute.attributes == {"gumball.batch.requests": 1, "gumball.batch.rows": size[0], "gumball.device": "cpu"}


def test_requests_of_a_batch_share_its_span_in_time_and_tell_its_size(collector, traced):
    """Five requests of a message, of 1 to 5 rows, are drawn together."""
    callers = [Caller() for _ in range(5)]
    requests = [pb.SampleRequest(id=n, logits=tensor((n, 3)), trace=each.headers) for n, each in enumerate(callers, 1)]
    in_a_stream(traced, {}, *requests)
    computes = [collector.trace(each.trace_id, 5)[3] for each in callers]
    assert {each.name for each in computes} == {"compute"}
    assert len({each.duration_ns for each in computes}) == 1
    batch = {"gumball.batch.requests": 5, "gumball.batch.rows": 15, "gumball.device": "cpu"}
    assert [each.attributes for each in computes] == [batch] * 5


def refused(server: Server, caller: Caller, body: dict[str, Any], **headers: str) -> httpx.Response:
    return httpx.post(f"{server.http}/sample", json=body, headers=caller.headers | headers)


def test_a_refused_call_tells_why_and_ends_where_it_was_refused(collector, traced):
    """An error of the caller, which by the conventions is none of the server; its answer tells the trace, too."""
    caller = Caller()
    answer = refused(traced, caller, {"logits": [[0, 1]], "nonsense": 1})
    span, decode = collector.trace(caller.trace_id, 2)
    assert answer.headers["traceresponse"] == f"00-{span.trace_id}-{span.span_id}-01"
    assert span.attributes.items() >= {"error.type": "INVALID_ARGUMENT", "http.response.status_code": 422}.items()
    assert not span.is_error
    assert (decode.name, decode.parent_id, decode.end_ns) == ("decode", span.span_id, span.end_ns)


def test_a_refused_call_over_grpc_tells_its_trace(collector, traced_if_asked, traced):
    """In the trailers, beside the details of the error."""
    for server in (traced, traced_if_asked):
        caller = Caller()
        with pytest.raises(grpc.RpcError) as refusal:
            over_grpc(server, caller, (1, 0))
        span, _ = collector.trace(caller.trace_id, 2)
        assert (
            span.attributes.items()
            >= {"error.type": "INVALID_ARGUMENT", "rpc.response.status_code": "INVALID_ARGUMENT"}.items()
        )
        trailers = dict(refusal.value.trailing_metadata())
        assert trailers["traceresponse"] == f"00-{span.trace_id}-{span.span_id}-01"
        assert trailers["grpc-status-details-bin"]


def test_a_late_call_has_failed(collector, traced):
    """The service was not done in time: an error of the server."""
    caller = Caller()
    late = refused(traced, caller, {"logits": [[0] * 1000], "draws": 200_000}, **{"request-timeout": "0.001"})
    assert late.status_code == 504
    span = collector.trace(caller.trace_id, 2)[0]
    assert span.attributes.items() >= {"error.type": "DEADLINE", "http.response.status_code": 504}.items()
    assert span.is_error


def test_a_call_whose_caller_leaves_is_told_as_cancelled(collector, traced):
    """It came to no status, and nobody failed."""
    caller = Caller()
    body = json.dumps({"logits": [0] * 1000, "draws": 60_000})
    head = (
        f"POST /sample HTTP/1.1\r\nhost: x\r\ntraceparent: {caller.traceparent}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    host, port = traced.http.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall((head + body).encode())
    span = collector.trace(caller.trace_id, 2)[0]
    assert span.attributes["error.type"] == "CANCELLED"
    assert "http.response.status_code" not in span.attributes
    assert not span.is_error


@pytest.mark.parametrize("call", [over_http, over_grpc])
def test_what_the_caller_does_not_sample_is_not_traced(collector, traced, call):
    """Flag 00; the next request, which is sampled, comes to the collector alone."""
    unsampled, sampled = Caller(is_sampled=False), Caller()
    assert call(traced, unsampled, SMALL).traceresponse is None
    call(traced, sampled, SMALL)
    collector.trace(sampled.trace_id, 5)
    assert not [span for span in collector.spans if span.trace_id == unsampled.trace_id]


def test_without_a_caller_in_a_trace_the_ratio_decides(collector, traced, traced_if_asked):
    """1 begins a trace, 0 none; a header that is malformed is none."""
    for headers in ({}, {"traceparent": "00-nonsense"}):
        assert "traceresponse" not in httpx.post(f"{traced_if_asked.http}/sample", json={"logits": [0]}).headers
        answer = httpx.post(f"{traced.http}/sample", json={"logits": [0]}, headers=headers)
        _, trace_id, span_id, _ = answer.headers["traceresponse"].split("-")
        span = collector.trace(trace_id, 5)[0]
        assert (span.span_id, span.parent_id) == (span_id, "")


@pytest.fixture(scope="module")
def tracer() -> Iterator[Tracer]:
    """Of a program that calls the service."""
    provider = TracerProvider()
    yield provider.get_tracer("caller")
    provider.shutdown()


def dead_place() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def addresses(server: Server) -> list[str]:
    """Of the service, after one of none: a call that is made again stays in its trace."""
    return [
        f"http://{dead_place()},{server.http.removeprefix('http://')}",
        f"grpc://{dead_place()},{server.addresses['grpc']}",
    ]


def assert_called_from(collector: Collector, context: SpanContext, calls: int) -> None:
    spans = collector.trace(f"{context.trace_id:032x}", 5 * calls)
    servers = [span for span in spans if span.kind == "SERVER"]
    assert [span.parent_id for span in servers] == [f"{context.span_id:016x}"] * calls


@pytest.mark.parametrize("way", [0, 1], ids=["http", "grpc"])
def test_a_client_takes_the_current_span_along(collector, traced, tracer, way):
    """Small calls, which over gRPC share a stream, and large ones."""
    with Client(addresses(traced)[way], retries=1) as client:
        for size in (SMALL, LARGE):
            with tracer.start_as_current_span("caller") as span:
                client.sample(np.zeros(size, np.float32))
                client.sample(np.zeros(size, np.float32))
            assert_called_from(collector, span.get_span_context(), 2)


@pytest.mark.parametrize("way", [0, 1], ids=["http", "grpc"])
def test_threads_take_each_its_own_span_along(collector, traced, tracer, way):
    """Also those that call at once."""
    start = threading.Barrier(4)

    def call(client: Client) -> SpanContext:
        with tracer.start_as_current_span("caller") as span:
            start.wait()
            client.sample(np.zeros(SMALL, np.float32))
            return span.get_span_context()

    with Client(addresses(traced)[way], retries=1) as client, ThreadPoolExecutor(4) as threads:
        contexts = list(threads.map(call, [client] * 4))
    for context in contexts:
        assert_called_from(collector, context, 1)


@pytest.mark.parametrize("way", [0, 1], ids=["http", "grpc"])
async def test_coroutines_take_each_its_own_span_along(collector, traced, tracer, way):
    """Also those that are called at once."""

    async def call(client: AsyncClient, size: tuple[int, int]) -> SpanContext:
        with tracer.start_as_current_span("caller") as span:
            await client.sample(np.zeros(size, np.float32))
            return span.get_span_context()

    async with AsyncClient(addresses(traced)[way], retries=1, hedge=5) as client:
        contexts = await asyncio.gather(*(call(client, size) for size in (SMALL, SMALL, LARGE)))
    for context in contexts:
        assert_called_from(collector, context, 1)


def exemplars(url: str) -> dict[str, set[str]]:
    """The traces of the exemplars of each histogram; each exemplar belongs to the bucket that it is told with."""
    found: dict[str, set[str]] = {}
    bounds: dict[tuple[Any, ...], float] = {}
    answer = httpx.get(f"{url}/metrics", headers=OPENMETRICS)
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    for sample in (each for family in text_string_to_metric_families(answer.text) for each in family.samples):
        labels = dict(sample.labels)
        bound = float(labels.pop("le", "nan"))
        below, bounds[key] = bounds.get(key := (sample.name, *labels.items()), 0.0), bound
        if sample.exemplar is not None:
            assert below < sample.exemplar.value <= bound
            assert abs(float(sample.exemplar.timestamp) - time.time()) < 600
            found.setdefault(sample.name, set()).add(sample.exemplar.labels["trace_id"])
    return found


def test_the_histograms_have_exemplars_of_traced_requests(traced_if_asked):
    """Of every duration, and of none that is not traced; where OpenMetrics is asked for."""
    callers = [Caller() for _ in range(3)]
    for caller in callers:
        over_http(traced_if_asked, Caller(is_sampled=False), SMALL)
        over_http(traced_if_asked, caller, SMALL)
    found = exemplars(traced_if_asked.http)
    assert found.keys() == {f"gumball_{part}_duration_seconds_bucket" for part in ("request", *STAGES)}
    assert all(callers[-1].trace_id in traces for traces in found.values())
    plain = httpx.get(f"{traced_if_asked.http}/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    assert not [
        each for family in plain_text_to_metric_families(plain.text) for each in family.samples if each.exemplar
    ]


def test_an_exemplar_that_is_half_overwritten_is_not_told():
    """Nor one that was never written; the process that writes and the one that reads share no lock."""
    memories = Memory(), Memory()
    series = [Series(Region(memory), [1.0]) for memory in memories]
    assert series[0].exemplar(0) is None
    for each, trace_id in zip(series, (b"a" * 16, b"b" * 16), strict=True):
        each.exemplify(0.5, trace_id)
    assert series[0].exemplar(0).labels == {"trace_id": b"a".hex() * 16}
    old, new = (memory.regions[0].cast("B") for memory in memories)
    differing = [place for place in range(len(old)) if old[place] != new[place]]
    for place in differing[: len(differing) // 2]:
        old[place] = new[place]
    assert series[0].exemplar(0) is None
    assert series[1].exemplar(0).labels == {"trace_id": b"b".hex() * 16}


def test_prometheus_finds_the_trace_of_a_slow_request(collector, traced, tmp_path):
    """Asked as Grafana asks it, for the exemplars of the histogram."""
    caller = Caller()
    over_http(traced, caller, LARGE)
    target = {"one": traced.http.removeprefix("http://")}
    prometheus = Prometheus(tmp_path, target, "{}", "--enable-feature=exemplar-storage")
    query = "gumball_request_duration_seconds_bucket"

    def traces() -> set[str]:
        now = time.time()
        found = prometheus.ask("query_exemplars", query=query, start=str(now - 600), end=str(now + 60))
        return {each["labels"]["trace_id"] for series in found for each in series["exemplars"]}

    until(lambda: caller.trace_id in traces())
    prometheus.stop()


def test_front_ends_share_exemplars_and_send_what_they_have_when_they_stop(collector):
    """Each sends its spans by itself, the last of them on SIGTERM: the collector gets them long before they are due."""
    server = Server(
        "--frontends", "2", "--trace-endpoint", collector.url, environment={"OTEL_BSP_SCHEDULE_DELAY": "600000"}
    )
    trace_ids = set()
    for _ in range(20):  # connections, which the system deals out
        over_http(server, caller := Caller(), SMALL)
        trace_ids.add(caller.trace_id)
    told = set.union(*exemplars(server.http).values())
    assert told
    assert told <= trace_ids
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    spans = collector.wait(lambda span: span.trace_id in trace_ids, 0)
    assert len(spans) == 20 * 5
    assert len({span.resource["service.instance.id"] for span in spans}) == 2


def test_the_variables_of_opentelemetry_are_heeded(collector):
    """Here, those of the service's name and other attributes."""
    environment = SOON | {
        "OTEL_SERVICE_NAME": "sampler",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
    }
    server = Server("--trace-endpoint", collector.url, environment=environment)
    over_http(server, caller := Caller(), SMALL)
    resource = collector.trace(caller.trace_id, 5)[0].resource
    assert server.stop() == 0
    assert (resource["service.name"], resource["deployment.environment.name"]) == ("sampler", "test")


def test_a_collector_that_is_away_harms_nobody():
    """Requests are answered, and the end waits a few seconds for it at most."""
    server = Server("--trace-endpoint", f"http://{dead_place()}", environment=SOON)
    for call in (over_http, over_grpc):
        for _ in range(20):
            assert call(server, Caller(), SMALL).compute_ns
    started = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert time.monotonic() - started < 10
    assert any("opentelemetry" in line for line in server.log)


@pytest.mark.parametrize("is_on", [False, True])
def test_what_traces_is_imported_where_it_is_asked_for_alone(collector, is_on):
    """Python tells of every import."""
    flags = ("--trace-endpoint", collector.url) if is_on else ()
    server = Server(*flags, environment={"PYTHONPROFILEIMPORTTIME": "1"})
    over_http(server, Caller(), SMALL)
    assert server.stop() == 0
    imports = {line.rsplit("|", 1)[1].strip() for line in server.log if line.startswith("import time:")}
    assert "gumball_server.exchange" in imports
    assert {"gumball_server.tracing", "opentelemetry.sdk", "opentelemetry.exporter"} & imports == (
        {"gumball_server.tracing", "opentelemetry.sdk", "opentelemetry.exporter"} if is_on else set()
    )


def test_a_client_without_opentelemetry_does_not_import_it(server):
    """Whoever has no spans pays nothing for them."""
    program = (
        "import sys; from gumball import Client\n"
        "for address in sys.argv[1:]: Client(address).sample([[0.0, 1.0]])\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    command = [sys.executable, "-c", program, server.http, server.grpc]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_tracing_without_its_packages_does_not_start(tmp_path):
    """It says at once what is missing, rather than serve untraced."""
    hidden = tmp_path / "opentelemetry/sdk.py"  # before the real one, which shares its namespace
    hidden.parent.mkdir()
    hidden.write_text("raise ModuleNotFoundError('hidden')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with pytest.raises(RuntimeError, match=r"trace_endpoint needs pip install 'gumball\[tracing\]': hidden"):
        Server("--trace-endpoint", "http://localhost:4318", environment={"PYTHONPATH": path})


def test_a_collector_is_a_url():
    """As OTLP over HTTP wants it."""
    with pytest.raises(RuntimeError, match="trace_endpoint: must be http:// or https://, is 'localhost:4317'"):
        Server("--trace-endpoint", "localhost:4317")
