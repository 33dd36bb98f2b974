"""The hot path of HTTP: `POST /sample` requests from the parser to the batcher and back, past ASGI.

An ASGI server makes a scope, a task, two queues of messages and two writes of each request; that costs more than
sampling does. Here, a request whose headers say that it is a plain one and how long its body is becomes a `Call`, its
answer one write. Everything else (chunked bodies, Expect, pipelined requests, other paths) goes on to ASGI.
"""

from collections.abc import Sequence
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gumball_server.domain import SampleRequest, SampleResult, SamplingError
from gumball_server.exchange import Call, Exchange, Headers
from gumball_server.http_guard import authorization
from gumball_server.http_sample import OPERATION, PATH, Head, HeadReader, Reply, problem, traced
from gumball_server.security import Tokens

# What a client may take to read its last answer and to end TLS, when the service stops.
GOODBYE_SECONDS = 3.0

_URL = PATH.encode()
_URL_WITH_QUERY = _URL + b"?"


class _Nobody:
    """Whom uvicorn wakes when something happens to a request of which nobody awaits anything."""

    def set(self) -> None: ...


_NOBODY = _Nobody()


class SampleCall(Call[Reply]):
    """A request in the place that uvicorn has for the one at hand (its RequestResponseCycle)."""

    __slots__ = ("_arrived", "_head", "_protocol", "body", "disconnected", "keep_alive", "response_complete")

    operation = OPERATION
    message_event = _NOBODY

    def __init__(self, exchange: Exchange, protocol: "SampleProtocol", head: Head, keep_alive: bool) -> None:
        super().__init__(exchange, head.answer.large, (head.content_length or 0) > head.body.large)
        self._protocol = protocol
        self._head = head
        self._arrived = protocol.loop.time()
        self.body: list[bytes] = []
        self.keep_alive = keep_alive
        self.response_complete = self.disconnected = False

    def headers(self) -> Headers:
        headers: Headers = self._protocol.headers
        return headers

    def decode(self) -> tuple[SampleRequest, float | None]:
        head, chunks = self._head, self.body
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        deadline = None if head.timeout is None else self._arrived + head.timeout
        return head.body.decode(body, self._protocol.url[len(_URL_WITH_QUERY) :]), deadline

    def encode(self, result: SampleResult) -> Reply:
        return self._head.answer.encode(result)

    def reply(self, answer: Reply) -> None:
        self._protocol.respond(self, answer)

    def refuse(self, error: SamplingError) -> None:
        self._protocol.respond(self, problem(error))


class SampleProtocol(HttpToolsProtocol):
    """Uvicorn's HTTP/1.1 protocol, with the short cut for plain requests."""

    def __init__(
        self, exchange: Exchange, heads: HeadReader, has_cors: bool, tokens: Tokens | None, **of_uvicorn: Any
    ) -> None:
        super().__init__(**of_uvicorn)
        self.cycle: Any  # uvicorn's RequestResponseCycle, or our call in its place
        self._exchange = exchange
        self._heads = heads
        self._has_cors = has_cors
        self._tokens = tokens
        self._call: SampleCall | None = None  # the one under way, not necessarily uvicorn's latest
        self._defaults: Sequence[tuple[bytes, bytes]] = ()
        self._default_lines = b""
        self._quiet_since: float | None = None  # the loop's time of the last answer, if nothing came after it

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        head = self._head_of_call()
        if head is None:
            self._make_scope()
            super().on_headers_complete()
        else:
            self._exchange.open()
            self.cycle = self._call = SampleCall(self._exchange, self, head, self.parser.should_keep_alive())

    def _make_scope(self) -> None:
        """What uvicorn makes as a message begins, for ASGI alone."""
        url, headers, expect_100_continue = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.headers, self.expect_100_continue = url, headers, expect_100_continue
        self.scope["headers"] = headers

    def _head_of_call(self) -> Head | None:
        """The head of a request that can take the short cut."""
        url, cycle = self.url, self.cycle
        if (
            not (url == _URL or url.startswith(_URL_WITH_QUERY))
            or self.parser.get_method() != b"POST"
            or self.parser.get_http_version() != "1.1"
            or self.parser.should_upgrade()
            or self.expect_100_continue
            or not (cycle is None or cycle.response_complete)
            or (self._has_cors and any(name == b"origin" for name, _ in self.headers))
        ):
            return None
        try:
            if self._tokens is not None:
                self._tokens.check(authorization(self.headers))
            head = self._heads.read(self.headers)
        except SamplingError:
            return None  # to be refused where bodies of any length are discarded
        return head if head.content_length else None

    def on_body(self, body: bytes) -> None:
        if self._call is not None and self._call is self.cycle:
            self._call.body.append(body)
            if self._call.has_large_body and not self.flow.read_paused:  # it comes as fast as it is read: let others in
                self.flow.pause_reading()
                self.loop.call_soon(self._read_on)
        else:
            super().on_body(body)

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def on_message_complete(self) -> None:
        if self._call is not None and self._call is self.cycle:
            self._exchange.begin(self._call)
        else:
            super().on_message_complete()

    def respond(self, call: SampleCall, reply: Reply) -> None:
        """Answer a call, and go on with what the connection brings next."""
        if call.traceresponse is not None:
            reply = traced(reply, call.traceresponse)
        call.response_complete = True
        self._call = None
        self.transport.write(self._response(reply, call.keep_alive))
        if not call.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """As uvicorn does it, but that a timer is not made and cancelled for each request."""
        if self.pipeline:
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1
            if not self.transport.is_closing():
                self.flow.resume_reading()
                self._quiet_since = self.loop.time()
                if self.timeout_keep_alive_task is None:
                    self._look_again_in(self.timeout_keep_alive)

    def _unset_keepalive_if_required(self) -> None:
        self._quiet_since = None

    def _look_again_in(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection if it has been quiet for as long as it may."""
        self.timeout_keep_alive_task = None
        if self._quiet_since is not None:  # else the next answer sets the timer
            left = self._quiet_since + self.timeout_keep_alive - self.loop.time()
            if left > 0:
                self._look_again_in(left)
            else:
                super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """As uvicorn does it, but that over TLS it would wait half a minute for an idle client to say goodbye, too."""
        super().shutdown()
        if self.scheme == "https" and self.transport.is_closing():
            self.loop.call_later(GOODBYE_SECONDS, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._call is not None:
            self._exchange.abandon(self._call)
            self._call = None
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        super().connection_lost(exc)

    def _response(self, reply: Reply, keep_alive: bool) -> bytes:
        defaults = self.server_state.default_headers
        if defaults is not self._defaults:  # uvicorn makes a list of new ones every second, for their date
            self._defaults = defaults
            self._default_lines = b"".join([b"%b: %b\r\n" % header for header in defaults])
        lines = [f"{name}: {value}\r\n" for name, value in reply.headers.items()] if reply.headers else ()
        return b"%b%bcontent-type: %b\r\n%bcontent-length: %d\r\n%b\r\n%b" % (
            STATUS_LINE[reply.status],
            self._default_lines,
            reply.content_type.encode(),
            "".join(lines).encode("latin-1"),
            len(reply.body),
            b"" if keep_alive else b"connection: close\r\n",
            reply.body,
        )
