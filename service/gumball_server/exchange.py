"""One request, from its bytes to the bytes of its answer: the same for every transport, timed and counted.

A transport that has a coroutine for each request awaits `Exchange.answer`. One that has none, because at ten thousand
requests a second the coroutines would cost more than the samples, gives `Exchange.begin` a `Call`.
"""

import asyncio
import logging
import secrets
import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

from gumball_server.batcher import Batcher, Outcome, Pending
from gumball_server.domain import Mode, Plan, Reason, SampleRequest, SampleResult, SamplingError
from gumball_server.metrics import Metrics

log = logging.getLogger("gumball")

T = TypeVar("T")
Attend = Callable[[Coroutine[None, None, SampleResult]], Awaitable[SampleResult]]
Headers = Iterable[tuple[str | bytes, str | bytes]]  # what came with a request, names in lower case


async def _await(sampling: Coroutine[None, None, SampleResult]) -> SampleResult:
    return await sampling


# Bodies and answers above this many bytes are parsed and written in a thread, so that the event loop stays free.
LARGE_BYTES = 1 << 16
LARGE_RAW_BYTES = 1 << 20  # of what is not parsed, only copied: a tenth of a millisecond


@dataclass(slots=True)
class Ask(Generic[T]):
    """What a transport received, and what to do with it."""

    body_bytes: int
    decode: Callable[[], SampleRequest]
    encode: Callable[[SampleResult], T]
    deadline: float | None = None  # in the loop's time
    attend: Attend = _await  # awaits a result that takes a while, and may give it up
    # Above as many bytes they get a thread:
    large_body: int = LARGE_BYTES
    large_answer: int = LARGE_BYTES


class Count:
    """What is known so far of a request that is being counted; its operation and headers are for traces."""

    def __init__(self, operation: str = "", headers: Callable[[], Headers] = tuple) -> None:
        self.operation = operation
        self.headers = headers
        self.mode: Mode | None = None
        self.started = time.perf_counter()  # set anew when the whole request is there
        self.traceresponse: str | None = None  # the trace that it belongs to, for its caller


class Call(Pending, Generic[T]):
    """A request that needs no coroutine."""

    comes_alone = False  # its transport brings one a turn of the loop; see `Company`

    __slots__ = ("abandoned", "exchange", "has_large_body", "large_answer", "mode", "started", "traceresponse")

    operation: str  # for traces, as `headers` and `traceresponse` are: see `Count`

    def __init__(self, exchange: "Exchange", large_answer: int, has_large_body: bool = False) -> None:
        super().__init__()
        self.exchange = exchange
        self.has_large_body = has_large_body  # then `decode` gets a thread
        self.large_answer = large_answer  # bytes; above as many, `encode` gets one
        self.mode: Mode | None = None
        self.started = time.perf_counter()
        self.abandoned = False
        self.traceresponse: str | None = None

    def done(self, outcome: Outcome) -> None:
        self.exchange.finish(self, outcome)

    @abstractmethod
    def headers(self) -> Headers:
        """What came with the request."""

    @abstractmethod
    def decode(self) -> tuple[SampleRequest, float | None]:
        """The request, and its deadline in the loop's time. Raises SamplingError."""

    @abstractmethod
    def encode(self, result: SampleResult) -> T:
        """The answer of a result."""

    @abstractmethod
    def reply(self, answer: T) -> None:
        """Send the answer."""

    @abstractmethod
    def refuse(self, error: SamplingError) -> None:
        """Send the error."""


_CANCELLED = SamplingError(Reason.CANCELLED, "the caller is gone")


class Exchange:
    """Answers the requests of one transport."""

    def __init__(self, transport: str, batcher: Batcher, metrics: Metrics) -> None:
        self._transport = transport
        self._batcher = batcher
        self._metrics = metrics
        self._decode_duration = metrics.decode_duration.labels(transport)
        self._encode_duration = metrics.encode_duration.labels(transport)
        self._inflight = metrics.inflight.labels()
        self._answering = 0
        self._idle = asyncio.Event()  # set, but for when somebody waits for it
        self._idle.set()
        self._in_threads: set[asyncio.Task[None]] = set()  # the loop keeps only weak references

    @cached_property
    def loop(self) -> asyncio.AbstractEventLoop:
        """That on which requests come; to be asked for there first."""
        return asyncio.get_running_loop()

    def is_open(self) -> bool:
        """Whether there is what draws."""
        return self._batcher.is_open

    async def idle(self) -> None:
        """Return once every request that was received is answered."""
        while self._answering:
            self._idle.clear()
            await self._idle.wait()

    async def answer(self, receive: Callable[[], Awaitable[Ask[T]]], count: Count) -> T:
        """Receive, decode, sample, encode.

        Raises SamplingError, and nothing else: a defect is logged with an id and becomes INTERNAL.
        """
        self.open()
        try:
            answer = await self._answer(count, receive)
        except SamplingError as error:
            self._close(count, error)
            raise
        except asyncio.CancelledError:
            self._close(count, _CANCELLED)
            raise
        except Exception as defect:
            self._close(count, refusal := _internal(defect))
            raise refusal from defect
        self._close(count)
        return answer

    async def _answer(self, count: Count, receive: Callable[[], Awaitable[Ask[T]]]) -> T:
        ask = await receive()
        count.started = start = time.perf_counter()
        self._batcher.check_open()
        request = await asyncio.to_thread(ask.decode) if ask.body_bytes > ask.large_body else ask.decode()
        self._decode_duration.observe(time.perf_counter() - start)
        count.mode = request.plan.mode
        if self._batcher.draws_at_once(request):
            result = self._batcher.draw(request)
        else:
            result = await ask.attend(self._batcher.sample(request, ask.deadline))
        start = time.perf_counter()
        is_large = request.plan.layout.result_bytes > ask.large_answer
        answer = await asyncio.to_thread(ask.encode, result) if is_large else ask.encode(result)
        self._encode_duration.observe(time.perf_counter() - start)
        return answer

    def open(self) -> None:
        """A call begins to arrive; `begin` or `abandon` follows."""
        self._answering += 1
        self._inflight.add()

    def count_refusal(self, error: SamplingError) -> None:
        """Count a request that was refused before it was read."""
        self.open()
        self._close(Count(), error)

    def begin(self, call: Call[T]) -> None:
        """Decode a call and admit it. Once, now or later, its `reply` or `refuse` is called, unless it is abandoned."""
        call.started = time.perf_counter()
        try:
            self._batcher.check_open()
            if call.has_large_body:
                self._spawn(self._decode_in_thread(call))
            else:
                self._submit(call, *call.decode())
        except Exception as error:
            self._refuse(call, error)

    def takes_together(self) -> bool:
        """Whether `answer_together` may answer anything now."""
        return self._batcher.is_open

    def most_together(self, plan: Plan) -> int:
        """How many requests with a plan `answer_together` takes."""
        return self._batcher.most_together(plan)

    def answer_together(self, request: SampleRequest, encode: Callable[[SampleResult], T], started: float) -> T | None:
        """The answer to requests that came as the rows of one, all of them small, from some time on.

        None where not all can be answered so: each is then to be begun by itself.
        """
        decoded = time.perf_counter()
        if (result := self._batcher.draw_together(request)) is None:
            return None
        start = time.perf_counter()
        answer = encode(result)
        end = time.perf_counter()
        mode, requests = request.plan.mode, request.plan.rows
        self._decode_duration.observe(decoded - started, requests)
        self._encode_duration.observe(end - start, requests)
        self._metrics.request_duration.labels(self._transport, mode).observe(end - started, requests)
        self._metrics.requests.labels(self._transport, mode, "OK").add(requests)
        return answer

    def abandon(self, call: Call[T]) -> None:
        """The caller is gone: withdraw what is not being computed yet, and answer nothing."""
        call.abandoned = True
        self._batcher.withdraw(call)
        self._close(call, _CANCELLED)

    def finish(self, call: Call[T], outcome: Outcome) -> None:
        """Encode and send what a call came to."""
        if isinstance(outcome, SamplingError):
            self._refuse(call, outcome)
        elif outcome.request.plan.layout.result_bytes > call.large_answer:
            self._spawn(self._encode_in_thread(call, outcome))
        else:
            start = time.perf_counter()
            try:
                answer = call.encode(outcome)
            except Exception as defect:
                self._refuse(call, defect)
            else:
                self._reply(call, answer, start)

    def _submit(self, call: Call[T], request: SampleRequest, deadline: float | None) -> None:
        self._decode_duration.observe(time.perf_counter() - call.started)
        call.mode = request.plan.mode
        if call.comes_alone and self._batcher.draws_alone(request):
            self.finish(call, self._batcher.draw(request))
        else:
            self._batcher.submit(call, request, deadline, comes_alone=call.comes_alone)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._in_threads.add(task)
        task.add_done_callback(self._in_threads.discard)

    async def _decode_in_thread(self, call: Call[T]) -> None:
        try:
            decoded = await asyncio.to_thread(call.decode)
            if not call.abandoned:
                self._submit(call, *decoded)
        except Exception as error:
            self._refuse(call, error)

    async def _encode_in_thread(self, call: Call[T], result: SampleResult) -> None:
        start = time.perf_counter()
        try:
            answer = await asyncio.to_thread(call.encode, result)
        except Exception as defect:
            self._refuse(call, defect)
        else:
            self._reply(call, answer, start)

    def _reply(self, call: Call[T], answer: T, start: float) -> None:
        if not call.abandoned:
            self._encode_duration.observe(time.perf_counter() - start)
            self._close(call)
            call.reply(answer)

    def _refuse(self, call: Call[T], error: Exception) -> None:
        if not call.abandoned:
            refusal = error if isinstance(error, SamplingError) else _internal(error)
            self._close(call, refusal)
            call.refuse(refusal)

    def _close(self, count: Count | Call[T], error: SamplingError | None = None) -> float:
        """Count a request under its outcome. Returns the seconds that it took."""
        mode = count.mode or "invalid"
        seconds = time.perf_counter() - count.started
        metrics = self._metrics
        self._inflight.add(-1)
        metrics.request_duration.labels(self._transport, mode).observe(seconds)
        metrics.requests.labels(self._transport, mode, "OK" if error is None else error.reason).add()
        self._answering -= 1
        if not self._answering:
            self._idle.set()
        return seconds


def _internal(defect: Exception) -> SamplingError:
    request_id = secrets.token_hex(8)
    log.error("request %s failed", request_id, exc_info=defect)
    return SamplingError(
        Reason.INTERNAL, f"a defect of the service; its log has the cause under request id {request_id}"
    )
