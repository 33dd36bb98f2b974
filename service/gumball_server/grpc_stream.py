"""Many requests in flight on one gRPC stream: each is answered by itself, as soon as it is done.

Whatever was answered in the same turn of the event loop goes out as one message, as a client's requests come in as one:
a message costs a hundred times what a request in it does.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Set
from contextlib import suppress
from functools import partial
from typing import Any

import grpc
from google.protobuf.unknown_fields import UnknownFieldSet
from gumball.framing import items_of, stream_message
from gumball.v1 import sampling_pb2 as pb

from gumball_server.domain import MalformedError, Reason, SampleRequest, SampleResult, SamplingError
from gumball_server.exchange import LARGE_RAW_BYTES, Call, Exchange, Headers
from gumball_server.grpc_sample import parse
from gumball_server.security import Tokens
from gumball_server.wire import message, together

# A stream is not read on while it has so many requests unanswered, or so many bytes of answers that the client has not
# taken yet. What it sends meanwhile waits in its own buffers.
MAX_UNANSWERED = 1024
MAX_UNSENT_BYTES = 1 << 26
# Requests of one message that are started in a turn of the event loop, so that a long message does not hold it up.
STARTED_AT_ONCE = 64
# Answers go out together up to this size, far below the 4 MiB that gRPC's clients accept by default.
MESSAGE_BYTES = 1 << 20


class Streams:
    """The open streams of a server."""

    def __init__(self, exchange: Exchange, tokens: Tokens | None) -> None:
        self._exchange = exchange
        self._tokens = tokens
        self._open: set[Stream] = set()
        self._draining = False
        self._none = asyncio.Event()
        self._none.set()

    async def serve(self, context: Any) -> None:
        """Answer the requests of a stream until its end. Raises the SamplingError that is to end it."""
        stream = Stream(self._exchange, context, self._tokens)
        self._open.add(stream)
        self._none.clear()
        if self._draining:
            stream.drain()
        try:
            await stream.serve()
        finally:
            self._open.remove(stream)
            if not self._open:
                self._none.set()

    async def drain(self) -> None:
        """Read nothing more, and return once every request that was read is answered and every stream ended."""
        self._draining = True
        for stream in self._open:
            stream.drain()
        await self._none.wait()


class StreamCall(Call[bytes]):
    """A request of a stream, as its message: encoded, and parsed only if none like it was seen before."""

    __slots__ = ("body", "id", "parsed", "stream")

    operation = "gumball.v1.SamplingService/SampleStream"

    def __init__(self, exchange: Exchange, stream: "Stream", body: bytes) -> None:
        super().__init__(exchange, LARGE_RAW_BYTES)
        self.stream = stream
        self.body = body
        self.id = 0
        self.parsed: pb.SampleRequest | None = None

    def headers(self) -> Headers:
        with suppress(MalformedError):
            if (parsed := self._parse()).HasField("trace"):
                return ("traceparent", parsed.trace.traceparent), ("tracestate", parsed.trace.tracestate)
        return self.stream.headers()

    def decode(self) -> tuple[SampleRequest, float | None]:
        if (seen := message.decode_seen(self.body)) is not None:
            request, self.id, seconds = seen
        else:
            parsed = self._parse()
            seconds = message.timeout(parsed)
            request = message.decode(parsed)
        return request, None if seconds is None else self.exchange.loop.time() + seconds

    def _parse(self) -> pb.SampleRequest:
        if self.parsed is None:
            self.parsed = parse(pb.SampleRequest, self.body)
            self.id = self.parsed.id
        return self.parsed

    def encode(self, result: SampleResult) -> bytes:
        return message.encode(result, self.id)

    def reply(self, answer: bytes) -> None:
        self.stream.answer(self, answer)

    def refuse(self, error: SamplingError) -> None:
        try:
            number = self._parse().id  # it may have been refused before it was read
        except MalformedError:  # it cannot even be told which one it is
            self.stream.break_off(self, error)
        else:
            self.stream.answer(self, message.encode_error(error, number, error.retry_seconds))


class Stream:
    """One stream: a task that reads, a task that writes, and the calls between the two."""

    def __init__(self, exchange: Exchange, context: Any, tokens: Tokens | None) -> None:
        self._exchange = exchange
        self._context = context
        self._tokens = tokens
        self._serving: asyncio.Task[Any] | None = None
        self._reading: asyncio.Task[None] | None = None  # while it waits for a message
        self._end: SamplingError | None = None  # instead of OK
        self._read_all = False
        self._unanswered = 0
        self._calls: set[StreamCall] = set()  # under way
        self._answers: deque[tuple[bytes, int]] = deque()  # not sent: parts of messages, and how many are in each
        self._unsent_bytes = 0
        self._to_write = asyncio.Event()
        self._room = asyncio.Event()

    async def serve(self) -> None:
        """Return, or raise the SamplingError that the stream is to end with, once all is answered."""
        self._serving = asyncio.current_task()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read())
                tasks.create_task(self._write())
        finally:
            for call in self._calls:  # there are some if the client left
                self._exchange.abandon(call)
        if self._end is not None:
            raise self._end

    def headers(self) -> Headers:
        """What came with the call."""
        headers: Headers = self._context.invocation_metadata()
        return headers

    def drain(self) -> None:
        """Read nothing more."""
        self._end = SamplingError(Reason.UNAVAILABLE, "shutting down; open a stream to another server")
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self) -> None:
        try:
            while (body := await self._next()) is not None:
                await self._start(body)
        except SamplingError as error:
            self._exchange.count_refusal(error)
            self._end = error  # once what came before is answered
        finally:
            self._read_all = True
            self._to_write.set()

    async def _next(self) -> bytes | None:
        """The next message, or None where no more are to be read."""
        if self._end is not None:
            return None
        self._reading = asyncio.current_task()
        try:
            body = await self._context.read()
        finally:
            self._reading = None
        return None if body is grpc.aio.EOF else body

    async def _start(self, body: bytes) -> None:
        """Start every request of a message, in time."""
        if self._tokens is not None:  # the one that opened the stream may have been taken back since
            self._tokens.check(authorization_of(self._context.invocation_metadata()))
        at = await self._answer_together(body)
        if at == len(body) or self._end is not None:
            return
        requests, withdrawn = items_of(rest := body[at:]), frozenset[int]()
        if requests is None:
            requests, withdrawn = _parts_of(rest)
        for started, request in enumerate(requests, 1):
            await self._wait_for_room()
            self._unanswered += 1
            self._calls.add(call := StreamCall(self._exchange, self, request))
            self._exchange.open()
            self._exchange.begin(call)
            if self._end is not None:
                return
            if started % STARTED_AT_ONCE == 0:
                await asyncio.sleep(0)
        if withdrawn:
            self._withdraw(withdrawn)

    async def _wait_for_room(self) -> None:
        while self._unanswered >= MAX_UNANSWERED or self._unsent_bytes >= MAX_UNSENT_BYTES:
            self._room.clear()
            await self._room.wait()

    async def _answer_together(self, body: bytes) -> int:
        """Answer those requests of a message that ask alike, from its first on; returns where the others begin."""
        exchange, at = self._exchange, 0
        while at < len(body) and self._end is None and exchange.takes_together():
            await self._wait_for_room()
            started = time.perf_counter()
            if (asked := together.decode(body, at, exchange.most_together)) is None:
                break
            answers = exchange.answer_together(asked.request, partial(together.encode, asked=asked), started)
            if answers is None:
                break
            at = asked.end
            self._unanswered += len(asked.ids)
            self._put(answers, len(asked.ids))
            if at < len(body):
                await asyncio.sleep(0)
        return at

    def _put(self, answers: bytes, requests: int) -> None:
        """Send the answers to so many requests, soon."""
        self._answers.append((answers, requests))
        self._unsent_bytes += len(answers)
        self._to_write.set()

    def _withdraw(self, ids: Set[int]) -> None:
        for call in [call for call in self._calls if call.id in ids]:
            self._calls.remove(call)
            self._exchange.abandon(call)
            self._answered(1)
        self._to_write.set()

    def answer(self, call: StreamCall, response: bytes) -> None:
        """Send the response to a call, soon."""
        self._calls.remove(call)
        self._put(stream_message((response,)), 1)

    def break_off(self, call: StreamCall, error: SamplingError) -> None:
        """Read nothing after a call that is not to be understood."""
        self._calls.remove(call)
        self._end = error
        self._answered(1)

    async def _write(self) -> None:
        while self._unanswered or not self._read_all:
            await self._to_write.wait()
            self._to_write.clear()
            while self._answers:
                answers, requests = self._gather()
                await self._send(answers)
                self._unsent_bytes -= len(answers)
                self._answered(requests)

    async def _send(self, body: bytes) -> None:
        try:
            await self._context.write(body)
        except grpc.aio.InternalError:  # the client left, and gRPC has not said so yet
            if self._serving is not None:
                self._serving.cancel()
            raise asyncio.CancelledError from None

    def _gather(self) -> tuple[bytes, int]:
        """The next message, and to how many requests it has the answers."""
        answers, requests = self._answers.popleft()
        if not self._answers:
            return answers, requests
        gathered, size = [answers], len(answers)
        while self._answers and (size := size + len(self._answers[0][0])) <= MESSAGE_BYTES:
            answers, more = self._answers.popleft()
            gathered.append(answers)
            requests += more
        return b"".join(gathered), requests

    def _answered(self, requests: int) -> None:
        self._unanswered -= requests
        self._room.set()


def authorization_of(metadata: Iterable[tuple[str, Any]]) -> bytes:
    """The value of the header by which a caller shows a token."""
    return next((str(value).encode() for name, value in metadata if name == "authorization"), b"")


def _parts_of(body: bytes) -> tuple[list[bytes], frozenset[int]]:
    """The encoded requests of a message, and the ids that it withdraws. Raises SamplingError."""
    parsed = parse(pb.SampleStreamRequest, body)
    if len(UnknownFieldSet(parsed)):
        raise MalformedError("the message has a field that is unknown here")
    return [request.SerializeToString() for request in parsed.requests], frozenset(parsed.withdrawn)
