"""Traces: a span of every request with its stages as children, for an OpenTelemetry collector.

Where tracing is on, these exchanges take the place of the plain ones, which know nothing of it; where it is off, this
module is not imported. The spans of a request's stages are made once it is answered.
"""

import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import OTEL_TRACES_SAMPLER
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gumball_server.batcher import Batcher, Outcome
from gumball_server.domain import Reason, SampleRequest, SampleResult, SamplingError
from gumball_server.exchange import Ask, Call, Count, Exchange, Headers
from gumball_server.grpc_server import STATUS
from gumball_server.http_sample import problem
from gumball_server.info import VERSION
from gumball_server.metrics import Metrics
from gumball_server.series import Series
from gumball_server.settings import Settings

T = TypeVar("T")
Attributes = dict[str, str | int]

TRACES_PATH = "/v1/traces"  # of OTLP over HTTP
# The service is at fault, not its caller: by OpenTelemetry's conventions, only then has the span of a server failed.
FAULTS = (Reason.DEADLINE, Reason.UNAVAILABLE, Reason.INTERNAL)

_W3C = TraceContextTextMapPropagator()
_TRACE_HEADERS: dict[str | bytes, str] = {
    name: header for header in ("traceparent", "tracestate") for name in (header, header.encode())
}


class Tracing:
    """Makes and sends the spans of a process; to be made in it, for a fork takes no threads along."""

    def __init__(self, settings: Settings) -> None:
        self._scheme = "https" if settings.tls_cert else "http"
        is_decided = OTEL_TRACES_SAMPLER in os.environ
        self._provider = TracerProvider(
            sampler=None if is_decided else ParentBased(TraceIdRatioBased(settings.trace_ratio)),
            resource=_resource(),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(settings.trace_endpoint.rstrip("/") + TRACES_PATH)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("gumball", VERSION)
        logging.getLogger(TraceContextTextMapPropagator.__module__).setLevel(
            logging.ERROR
        )  # callers' headers are no news

    def exchange(self, transport: str, batcher: Batcher, metrics: Metrics) -> Exchange:
        """The exchange of a transport."""
        describe = partial(_of_http, self._scheme) if transport.endswith("http") else _of_rpc
        return TracedExchange(transport, batcher, metrics, self._tracer, describe)

    def close(self) -> None:
        """Send what is not sent yet."""
        self._provider.shutdown()


class Trace:
    """What is known so far of a request that is traced; times are those of time.perf_counter_ns."""

    __slots__ = ("decoded_ns", "encoding_ns", "epoch_ns", "result", "span")

    def __init__(self, span: Span, epoch_ns: int) -> None:
        self.span = span
        self.epoch_ns = epoch_ns  # what makes them times of the day
        self.decoded_ns = 0
        self.result: SampleResult | None = None
        self.encoding_ns = 0

    def decode(self, decode: Callable[[], SampleRequest]) -> SampleRequest:
        request = decode()
        self.decoded_ns = time.perf_counter_ns()
        return request

    def encode(self, encode: Callable[[SampleResult], T], result: SampleResult) -> T:
        self.result, self.encoding_ns = result, time.perf_counter_ns()
        return encode(result)


# The attributes of an operation and of what it came to, as OpenTelemetry's conventions name them.
Describe = Callable[[str, SamplingError | None], Attributes]


class Stage(NamedTuple):
    """A part of a request, and the histogram that has its duration."""

    name: str
    start_ns: int
    end_ns: int
    series: Series
    attributes: Attributes | None = None


class TracedExchange(Exchange):
    """An exchange that traces the requests which are sampled; `describe` tells their operation and outcome."""

    def __init__(self, transport: str, batcher: Batcher, metrics: Metrics, tracer: Tracer, describe: Describe) -> None:
        super().__init__(transport, batcher, metrics)
        self._tracer = tracer
        self._describe = describe
        self._traces: dict[Count | Call[Any], Trace] = {}  # of the requests under way

    async def answer(self, receive: Callable[[], Awaitable[Ask[T]]], count: Count) -> T:
        trace = self._open_trace(count)
        return await super().answer(receive if trace is None else partial(_receive, receive, trace), count)

    def begin(self, call: Call[T]) -> None:
        trace = self._open_trace(call)
        super().begin(call)
        if trace is not None:
            trace.decoded_ns = call.admitted_ns

    def finish(self, call: Call[T], outcome: Outcome) -> None:
        if isinstance(outcome, SampleResult) and (trace := self._traces.get(call)) is not None:
            trace.result = outcome
        super().finish(call, outcome)

    def _reply(self, call: Call[T], answer: T, start: float) -> None:
        if (trace := self._traces.get(call)) is not None:
            trace.encoding_ns = _ns(start)
        super()._reply(call, answer, start)

    def _close(self, count: Count | Call[T], error: SamplingError | None = None) -> float:
        seconds = super()._close(count, error)
        if (trace := self._traces.pop(count, None)) is not None:
            self._close_trace(count, trace, error, seconds)
        return seconds

    def _open_trace(self, count: Count | Call[T]) -> Trace | None:
        """The trace of a request, if it is sampled: as its caller decided, or else the sampler."""
        epoch_ns = time.time_ns() - time.perf_counter_ns()
        span = self._tracer.start_span(
            count.operation,
            _caller(count.headers()),
            SpanKind.SERVER,
            start_time=epoch_ns + _ns(count.started),
        )
        if not span.is_recording():
            return None
        context = span.get_span_context()
        count.traceresponse = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        trace = self._traces[count] = Trace(span, epoch_ns)
        return trace

    def _close_trace(self, count: Count | Call[T], trace: Trace, error: SamplingError | None, seconds: float) -> None:
        """End the span of a request, make those of its stages, and remember it as an example of its durations."""
        started_ns = _ns(count.started)
        end_ns = started_ns + _ns(seconds)
        span, parent = trace.span, set_span_in_context(trace.span)
        trace_id = span.get_span_context().trace_id.to_bytes(16, "big")
        mode = count.mode.value if count.mode else "invalid"
        for stage in self._stages(trace, started_ns, end_ns):
            child = self._tracer.start_span(
                stage.name, parent, attributes=stage.attributes, start_time=trace.epoch_ns + stage.start_ns
            )
            child.end(trace.epoch_ns + stage.end_ns)
            stage.series.exemplify((stage.end_ns - stage.start_ns) / 1e9, trace_id)
        self._metrics.request_duration.labels(self._transport, mode).exemplify(seconds, trace_id)
        span.set_attributes(self._describe(count.operation, error) | {"gumball.mode": mode})
        if error is not None and error.reason in FAULTS:
            span.set_status(Status(StatusCode.ERROR, str(error)))
        span.end(trace.epoch_ns + end_ns)

    def _stages(self, trace: Trace, started_ns: int, end_ns: int) -> Iterator[Stage]:
        """Those that a request went through: a refused one ends in the stage that refused it."""
        metrics, result = self._metrics, trace.result
        yield Stage("decode", started_ns, trace.decoded_ns or end_ns, self._decode_duration)
        if result is not None and (run := result.run) is not None:
            computed_ns = run.start_ns + run.compute_ns
            yield Stage("queue", run.start_ns - result.queue_ns, run.start_ns, metrics.queue_duration.labels())
            of_batch = {"gumball.batch.requests": run.requests, "gumball.batch.rows": run.rows}
            device = {"gumball.device": run.device}
            series = metrics.compute_duration.labels(run.device)
            yield Stage("compute", run.start_ns, computed_ns, series, of_batch | device)
        if trace.encoding_ns:
            yield Stage("encode", trace.encoding_ns, end_ns, self._encode_duration)


async def _receive(receive: Callable[[], Awaitable[Ask[T]]], trace: Trace) -> Ask[T]:
    """What is received, with the times of decoding and encoding taken."""
    ask = await receive()
    return replace(ask, decode=partial(trace.decode, ask.decode), encode=partial(trace.encode, ask.encode))


def _caller(headers: Headers) -> Context:
    """The span that W3C's headers say the caller is in; an empty context where they say none."""
    carrier: dict[str, list[str]] = {}
    for name, value in headers:
        if (header := _TRACE_HEADERS.get(name)) is not None:
            carrier.setdefault(header, []).append(value if isinstance(value, str) else value.decode("latin-1"))
    return _W3C.extract(carrier, Context())


def _of_http(scheme: str, operation: str, error: SamplingError | None) -> Attributes:
    method, route = operation.split(" ")
    attributes: Attributes = {"http.request.method": method, "http.route": route, "url.scheme": scheme}
    if "{" not in route:
        attributes["url.path"] = route
    if error is None:
        return attributes | {"http.response.status_code": 200}
    attributes["error.type"] = error.reason.value
    if error.reason is not Reason.CANCELLED:  # there is nobody to answer
        attributes["http.response.status_code"] = int(problem(error).status)
    return attributes


def _of_rpc(operation: str, error: SamplingError | None) -> Attributes:
    attributes: Attributes = {"rpc.system.name": "grpc", "rpc.method": operation}
    if error is None:
        return attributes | {"rpc.response.status_code": "OK"}
    return attributes | {"rpc.response.status_code": STATUS[error.reason].name, "error.type": error.reason.value}


def _resource() -> Resource:
    """What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say of the service, and what they leave unsaid."""
    resource = Resource.create({SERVICE_VERSION: VERSION})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return resource.merge(Resource({SERVICE_NAME: "gumball"}))
    return resource


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
