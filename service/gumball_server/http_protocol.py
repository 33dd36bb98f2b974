"""The hot path of HTTP: `POST /sample` requests from the parser to the batcher and back, past ASGI.

An ASGI server makes a scope, a task, two queues of messages and two writes of each request; that costs more than
sampling does. Here, a request whose headers say that it is a plain one and how long its body is becomes a `Call`, its
answer one write. Everything else (chunked bodies, Expect, pipelined requests, other paths) goes on to ASGI.

Clients send the same head again and again. One that the parser has read before is not parsed anew.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gumball_server.domain import SampleRequest, SampleResult, SamplingError
from gumball_server.exchange import Call, Exchange, Headers
from gumball_server.http_guard import authorization
from gumball_server.http_sample import MOST_KNOWN, OPERATION, PATH, Head, HeadReader, Reply, problem, traced
from gumball_server.security import Tokens

# What a client may take to read its last answer and to end TLS, when the service stops.
GOODBYE_SECONDS = 3.0

SHORT_HEAD_BYTES = 1 << 10  # of one that is remembered
_HEAD_END = b"\r\n\r\n"
# An offer of HTTP/2, which Java's own client makes with every request: as a server may, we leave it. To the parser it
# would be the last that is HTTP, and the body lost. So it gets a name that says nothing.
_UPGRADE, _NO_UPGRADE = re.compile(rb"\r\nupgrade[ \t]*:", re.IGNORECASE), b"\r\nupgrade-ignored:"

_URL = PATH.encode()
_URL_WITH_QUERY = _URL + b"?"


class _Nobody:
    """Whom uvicorn wakes when something happens to a request of which nobody awaits anything."""

    def set(self) -> None: ...


_NOBODY = _Nobody()


class SampleCall(Call[Reply]):
    """A request in the place that uvicorn has for the one at hand (its RequestResponseCycle)."""

    __slots__ = ("_arrived", "_protocol", "body", "disconnected", "head", "keep_alive", "missing", "response_complete")

    operation = OPERATION
    message_event = _NOBODY

    def __init__(self, exchange: Exchange, protocol: "SampleProtocol", head: Head, keep_alive: bool) -> None:
        super().__init__(exchange, head.answer.large, (head.content_length or 0) > head.body.large)
        self._protocol = protocol
        self.head = head
        self._arrived = protocol.loop.time()
        self.body: list[bytes] = []
        self.missing = 0  # bytes of a body that is not given to the parser
        self.keep_alive = keep_alive
        self.response_complete = self.disconnected = False

    def headers(self) -> Headers:
        headers: Headers = self._protocol.headers
        return headers

    def decode(self) -> tuple[SampleRequest, float | None]:
        head, chunks = self.head, self.body
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        deadline = None if head.timeout is None else self._arrived + head.timeout
        return head.body.decode(body, self._protocol.url[len(_URL_WITH_QUERY) :]), deadline

    def encode(self, result: SampleResult) -> Reply:
        return self.head.answer.encode(result)

    def reply(self, answer: Reply) -> None:
        self._protocol.respond(self, answer)

    def refuse(self, error: SamplingError) -> None:
        self._protocol.respond(self, problem(error))


class SeenHead(NamedTuple):
    """What the parser made of a head."""

    head: Head
    url: bytes
    headers: list[tuple[bytes, bytes]]


# By their bytes, of requests that took the short cut and were nothing but this head and a body.
SeenHeads = dict[bytes, SeenHead]


class SampleProtocol(HttpToolsProtocol):
    """Uvicorn's HTTP/1.1 protocol, with the short cut for plain requests."""

    def __init__(
        self,
        exchange: Exchange,
        heads: HeadReader,
        seen: SeenHeads,
        has_cors: bool,
        tokens: Tokens | None,
        **of_uvicorn: Any,
    ) -> None:
        super().__init__(**of_uvicorn)
        self.cycle: Any  # uvicorn's RequestResponseCycle, or our call in its place
        self._exchange = exchange
        self._heads = heads
        self._seen = seen  # by all connections
        self._has_cors = has_cors
        self._tokens = tokens
        self._call: SampleCall | None = None  # the one under way, not necessarily uvicorn's latest
        self._is_between = True  # messages, as far as the parser knows
        self._defaults: Sequence[tuple[bytes, bytes]] = ()
        self._default_lines = b""
        self._quiet_since: float | None = None  # the loop's time of the last answer, if nothing came after it

    def data_received(self, data: bytes) -> None:
        while data:
            data = self._receive(data)

    def _receive(self, data: bytes) -> bytes:
        """Take a request, what there is of it, or all; returns what follows it."""
        call = self._call
        if call is not None and call.missing:
            return self._take(call, data)
        if self._is_between and (self.cycle is None or self.cycle.response_complete):
            end = data.find(_HEAD_END) + len(_HEAD_END)
            seen = self._seen.get(data[:end])
            if seen is not None and self._is_allowed(seen.headers):
                return self._take(self._begin(seen), data[end:])
            super().data_received(_UPGRADE.sub(_NO_UPGRADE, data[:end]) + data[end:])
            self._remember(data, end)
        else:
            super().data_received(data)
        return b""

    def _begin(self, seen: SeenHead) -> SampleCall:
        """Begin a request with a head that was seen before."""
        self.url, self.headers = seen.url, seen.headers
        self._quiet_since = None
        self._exchange.open()
        self.cycle = self._call = call = SampleCall(self._exchange, self, seen.head, True)
        call.missing = seen.head.content_length or 0
        return call

    def _take(self, call: SampleCall, data: bytes) -> bytes:
        """Take what belongs to a body; returns what follows it."""
        rest = data[call.missing :]
        if rest:
            data = data[: call.missing]
        if data:
            call.missing -= len(data)
            self._add(call, data)
            if not call.missing:
                self._exchange.begin(call)
        return rest

    def _remember(self, data: bytes, end: int) -> None:
        """Remember a head if the parser, too, found that it ends here, with nothing but its body behind it."""
        call, head = self._call, data[:end]
        if (
            call is not None
            and call.keep_alive
            and end <= SHORT_HEAD_BYTES
            and b"\n" not in head.replace(b"\r\n", b"")  # which could have ended it before
            and b"".join(call.body) == data[end:]
        ):
            if len(self._seen) >= MOST_KNOWN:
                self._seen.clear()
            self._seen[head] = SeenHead(call.head, self.url, self.headers)

    def on_message_begin(self) -> None:
        self._is_between = False
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
            or self.parser.should_upgrade()  # then it came in pieces
            or self.expect_100_continue
            or not (cycle is None or cycle.response_complete)
            or (self._has_cors and any(name == b"origin" for name, _ in self.headers))
        ):
            return None
        try:
            head = self._heads.read(self.headers)
        except SamplingError:
            return None  # to be refused where bodies of any length are discarded
        return head if head.content_length and self._is_allowed(self.headers) else None

    def _is_allowed(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        if self._tokens is not None:
            try:
                self._tokens.check(authorization(headers))
            except SamplingError:
                return False
        return True

    def on_body(self, body: bytes) -> None:
        if self._call is not None and self._call is self.cycle:
            self._add(self._call, body)
        else:
            super().on_body(body)

    def _add(self, call: SampleCall, body: bytes) -> None:
        call.body.append(body)
        if call.has_large_body and not self.flow.read_paused:  # it comes as fast as it is read: let others in
            self.flow.pause_reading()
            self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def on_message_complete(self) -> None:
        self._is_between = True
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
