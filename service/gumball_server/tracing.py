"""Traces: a span of every request with its stages as children, for an OpenTelemetry collector.

Where tracing is on, these exchanges take the place of the plain ones, which know nothing of it; where it is off, this
module is not imported. The spans of a request are made once it is answered.
"""

import asyncio
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gumball_server.batcher import Batcher, Outcome
from gumball_server.domain import Reason, SampleRequest, SampleResult, SamplingError
from gumball_server.exchange import Ask, Call, Count, Exchange, Headers
from gumball_server.grpc_sample import STATUS
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
_UNSAMPLED = re.compile("00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f][02468ace]")  # a traceparent
_HEADERS: dict[str | bytes, str] = {
    name: header for header in ("traceparent", "tracestate") for name in (header, header.encode())
}


class Tracing:
    """Makes and sends the spans of a process; to be made in it, for a fork takes no threads along."""

    def __init__(self, settings: Settings) -> None:
        # What callers send as their trace is no news.
        logging.getLogger(TraceContextTextMapPropagator.__module__).setLevel(logging.ERROR)
        exporter = OTLPSpanExporter(settings.trace_endpoint.rstrip("/") + TRACES_PATH)
        self._provider = TracerProvider(ParentBased(ALWAYS_ON), _resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("gumball", VERSION)
        self._ratio = settings.trace_ratio
        self._scheme = "https" if settings.tls_cert else "http"

    def exchange(self, transport: str, batcher: Batcher, metrics: Metrics) -> Exchange:
        """The exchange of a transport."""
        describe = partial(_of_http, self._scheme) if transport.endswith("http") else _of_rpc
        return TracedExchange(transport, batcher, metrics, self, describe)

    def begin(self, operation: str, headers: Headers, started: float) -> "Trace | None":
        """The trace of a request, if it is sampled."""
        if (caller := _sampled_caller(headers, self._ratio)) is None:
            return None
        epoch_ns = time.time_ns() - time.perf_counter_ns()
        span = self._tracer.start_span(operation, caller, SpanKind.SERVER, start_time=epoch_ns + _ns(started))
        return Trace(self._tracer, span, epoch_ns) if span.is_recording() else None

    def close(self) -> None:
        """Send what is not sent yet."""
        self._provider.shutdown()


class Trace:
    """The spans of a request, and what is known of it so far; times are those of time.perf_counter_ns."""

    __slots__ = ("_epoch_ns", "_span", "_tracer", "decoded_ns", "encoding_ns", "result")

    def __init__(self, tracer: Tracer, span: Span, epoch_ns: int) -> None:
        self._tracer = tracer
        self._span = span
        self._epoch_ns = epoch_ns  # what makes them times of the day
        self.decoded_ns = 0
        self.result: SampleResult | None = None
        self.encoding_ns = 0

    @property
    def traceresponse(self) -> str:
        """What the caller is told, in the form of a traceparent."""
        context = self._span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    @property
    def id(self) -> bytes:
        return self._span.get_span_context().trace_id.to_bytes(16, "big")

    def decode(self, decode: Callable[[], SampleRequest]) -> SampleRequest:
        request = decode()
        self.decoded_ns = time.perf_counter_ns()
        return request

    def encode(self, encode: Callable[[SampleResult], T], result: SampleResult) -> T:
        self.result, self.encoding_ns = result, time.perf_counter_ns()
        return encode(result)

    def stage(self, name: str, start_ns: int, end_ns: int, attributes: Attributes | None) -> None:
        """Make the span of a stage."""
        of_request = set_span_in_context(self._span)
        span = self._tracer.start_span(name, of_request, attributes=attributes, start_time=self._epoch_ns + start_ns)
        span.end(self._epoch_ns + end_ns)

    def end(self, end_ns: int, attributes: Attributes, error: SamplingError | None) -> None:
        """End the span of the request."""
        self._span.set_attributes(attributes)
        if error is not None and error.reason in FAULTS:
            self._span.set_status(Status(StatusCode.ERROR, str(error)))
        self._span.end(self._epoch_ns + end_ns)


class Stage(NamedTuple):
    """A part of a request, and the histogram that counts its duration."""

    name: str
    start_ns: int
    end_ns: int
    series: Series
    attributes: Attributes | None = None


class TracedExchange(Exchange):
    """An exchange that traces the requests which are sampled; `describe` tells their operation and outcome."""

    def __init__(
        self,
        transport: str,
        batcher: Batcher,
        metrics: Metrics,
        tracing: Tracing,
        describe: Callable[[str, SamplingError | None], Attributes],
    ) -> None:
        super().__init__(transport, batcher, metrics)
        self._tracing = tracing
        self._describe = describe
        self._traces: dict[Count | Call[Any], Trace] = {}  # of the requests under way

    def takes_together(self) -> bool:
        return False  # each has its span

    async def answer(self, receive: Callable[[], Awaitable[Ask[T]]], count: Count) -> T:
        if (trace := self._begin_trace(count)) is not None:
            receive = partial(_receive, receive, trace)
        return await super().answer(receive, count)

    def begin(self, call: Call[T]) -> None:
        self._begin_trace(call)
        super().begin(call)

    def finish(self, call: Call[T], outcome: Outcome) -> None:
        if isinstance(outcome, SampleResult) and (trace := self._traces.get(call)) is not None:
            trace.result = outcome
            if outcome.run is not None:
                trace.decoded_ns = outcome.run.start_ns - outcome.queue_ns
        super().finish(call, outcome)

    def _begin_trace(self, count: Count | Call[T]) -> Trace | None:
        trace = self._tracing.begin(count.operation, count.headers(), count.started)
        if trace is not None:
            self._traces[count] = trace
            count.traceresponse = trace.traceresponse
        return trace

    def _submit(self, call: Call[T], request: SampleRequest, deadline: float | None) -> None:
        super()._submit(call, request, deadline)
        if (trace := self._traces.get(call)) is not None:
            trace.decoded_ns = call.admitted_ns

    def _reply(self, call: Call[T], answer: T, start: float) -> None:
        if (trace := self._traces.get(call)) is not None:
            trace.encoding_ns = _ns(start)
        super()._reply(call, answer, start)

    def _close(self, count: Count | Call[T], error: SamplingError | None = None) -> float:
        seconds = super()._close(count, error)
        if (trace := self._traces.pop(count, None)) is not None:  # once the answer is on its way
            asyncio.get_running_loop().call_soon(self._end_trace, trace, count, error, seconds)
        return seconds

    def _end_trace(self, trace: Trace, count: Count | Call[T], error: SamplingError | None, seconds: float) -> None:
        """Make the spans, and the request an example of each of its durations."""
        started_ns = _ns(count.started)
        end_ns = started_ns + _ns(seconds)
        for stage in self._stages(trace, started_ns, end_ns):
            trace.stage(stage.name, stage.start_ns, stage.end_ns, stage.attributes)
            stage.series.exemplify((stage.end_ns - stage.start_ns) / 1e9, trace.id)
        mode = count.mode.value if count.mode else "invalid"
        self._metrics.request_duration.labels(self._transport, mode).exemplify(seconds, trace.id)
        trace.end(end_ns, self._describe(count.operation, error) | {"gumball.mode": mode}, error)

    def _stages(self, trace: Trace, started_ns: int, end_ns: int) -> Iterator[Stage]:
        """Those that a request went through; one that is refused ends in the first."""
        metrics, result = self._metrics, trace.result
        yield Stage("decode", started_ns, trace.decoded_ns or end_ns, self._decode_duration)
        if result is not None and (run := result.run) is not None:
            size: Attributes = {"gumball.batch.requests": run.requests, "gumball.batch.rows": run.rows}
            device: Attributes = {"gumball.device": run.device}
            run_end_ns, compute_duration = run.start_ns + run.compute_ns, metrics.compute_duration.labels(run.device)
            yield Stage("queue", run.start_ns - result.queue_ns, run.start_ns, metrics.queue_duration.labels())
            yield Stage("compute", run.start_ns, run_end_ns, compute_duration, size | device)
        if trace.encoding_ns:
            yield Stage("encode", trace.encoding_ns, end_ns, self._encode_duration)


async def _receive(receive: Callable[[], Awaitable[Ask[T]]], trace: Trace) -> Ask[T]:
    """What is received, with the times of decoding and encoding taken."""
    ask = await receive()
    return replace(ask, decode=partial(trace.decode, ask.decode), encode=partial(trace.encode, ask.encode))


def _sampled_caller(headers: Headers, ratio: float) -> Context | None:
    """The span that W3C's headers say the caller is in; without one, for this ratio of the requests, an empty context.

    None if the request is not to be traced. That is so for most of them, and the SDK would take long to say it.
    """
    given: dict[str, list[str]] = {}
    for name, value in headers:
        if (header := _HEADERS.get(name)) is not None:
            given.setdefault(header, []).append(value if isinstance(value, str) else value.decode("latin-1"))
    if "traceparent" in given:
        if _UNSAMPLED.fullmatch(given["traceparent"][0]):
            return None
        if caller := _W3C.extract(given, Context()):
            return caller
    return Context() if random.random() < ratio else None  # noqa: S311 - it is no secret


def _of_http(scheme: str, operation: str, error: SamplingError | None) -> Attributes:
    """The attributes of an operation and of what it came to, by OpenTelemetry's conventions for HTTP."""
    method, route = operation.split(" ")
    attributes: Attributes = {"http.request.method": method, "http.route": route, "url.scheme": scheme}
    if "{" not in route:
        attributes["url.path"] = route
    if error is None:
        return attributes | {"http.response.status_code": 200}
    attributes["error.type"] = error.reason.value
    if error.reason is not Reason.CANCELLED:  # then there is nobody to answer
        attributes["http.response.status_code"] = int(problem(error).status)
    return attributes


def _of_rpc(operation: str, error: SamplingError | None) -> Attributes:
    """The same by those for remote procedure calls."""
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
