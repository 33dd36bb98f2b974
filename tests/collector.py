"""A collector of traces: an HTTP server that reads OTLP, in this process."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

WAIT_SECONDS = 30


@dataclass(frozen=True)
class Span:
    """A span as it was received."""

    resource: dict[str, Any]
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    is_error: bool

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns


class Collector:
    """Listens until it is stopped, and keeps every span that it was sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._arrived = threading.Condition()
        receive = self._receive

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = 200 if self.path == "/v1/traces" else 404
                if status == 200:
                    receive(ExportTraceServiceRequest.FromString(body))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def trace(self, trace_id: str, spans: int) -> list[Span]:
        """The spans of a trace, once there are so many, as `wait` orders them."""
        return self.wait(lambda span: span.trace_id == trace_id, spans)

    def wait(self, wanted: Callable[[Span], bool], count: int) -> list[Span]:
        """Those that are wanted, once there are so many, by their start, a request before its stages."""

        def found() -> list[Span]:
            return sorted(
                filter(wanted, self.spans), key=lambda span: (span.start_ns, span.kind != "SERVER", span.end_ns)
            )

        with self._arrived:
            assert self._arrived.wait_for(lambda: len(found()) >= count, WAIT_SECONDS), found()
            return found()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _receive(self, request: ExportTraceServiceRequest) -> None:
        with self._arrived:
            for of_resource in request.resource_spans:
                resource = _values(of_resource.resource.attributes)
                for of_scope in of_resource.scope_spans:
                    self.spans += [_span(span, resource) for span in of_scope.spans]
            self._arrived.notify_all()


def _span(span: Any, resource: dict[str, Any]) -> Span:
    return Span(
        resource,
        span.name,
        span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _values(span.attributes),
        span.status.code == span.status.STATUS_CODE_ERROR,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
