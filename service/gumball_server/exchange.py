"""One request, from its bytes to the bytes of its answer: the same for every transport, timed and counted."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from prometheus_client import Histogram

from gumball_server.batcher import Batcher
from gumball_server.domain import Reason, SampleRequest, SampleResult, SamplingError
from gumball_server.metrics import Count, Metrics

log = logging.getLogger("gumball")

T = TypeVar("T")
Attend = Callable[[Coroutine[None, None, SampleResult]], Awaitable[SampleResult]]


async def _await(sampling: Coroutine[None, None, SampleResult]) -> SampleResult:
    return await sampling


# Bodies and answers above this many bytes are parsed and written in a thread, so that the event loop stays free.
LARGE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Ask(Generic[T]):
    """What a transport received, and what to do with it."""

    body_bytes: int
    decode: Callable[[], SampleRequest]
    encode: Callable[[SampleResult], T]
    deadline: float | None = None  # in the loop's time
    attend: Attend = _await  # awaits a result that takes a while, and may give it up


class Exchange:
    """Answers the requests of one transport."""

    def __init__(self, transport: str, batcher: Batcher, metrics: Metrics) -> None:
        self._transport = transport
        self._batcher = batcher
        self._metrics = metrics
        self._decode_duration = metrics.decode_duration.labels(transport)
        self._encode_duration = metrics.encode_duration.labels(transport)
        self._answering = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Return once every request that was received is answered."""
        await self._idle.wait()

    async def answer(self, receive: Callable[[], Awaitable[Ask[T]]]) -> T:
        """Receive, decode, sample, encode.

        Raises SamplingError, and nothing else: a defect is logged with an id and becomes INTERNAL.
        """
        with self._under_way(), self._metrics.request(self._transport) as count:
            try:
                return await self._answer(count, receive)
            except SamplingError:
                raise
            except Exception as defect:
                request_id = secrets.token_hex(8)
                log.exception("request %s failed", request_id)
                detail = f"a defect of the service; its log has the cause under request id {request_id}"
                raise SamplingError(Reason.INTERNAL, detail) from defect

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        self._answering += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._answering -= 1
            if not self._answering:
                self._idle.set()

    async def _answer(self, count: Count, receive: Callable[[], Awaitable[Ask[T]]]) -> T:
        ask = await receive()
        count.start()
        request = await _timed(self._decode_duration, ask.body_bytes, ask.decode)
        count.mode = request.mode
        sampling = self._batcher.sample(request, ask.deadline)
        result = await (sampling if self._batcher.draws_at_once(request) else ask.attend(sampling))
        return await _timed(self._encode_duration, request.result_bytes, lambda: ask.encode(result))


async def _timed(duration: Histogram, size: int, call: Callable[[], T]) -> T:
    """Call in a thread if it is about many bytes, here if not, and observe how long it took."""
    start = time.perf_counter()
    outcome = await asyncio.to_thread(call) if size > LARGE_BYTES else call()
    duration.observe(time.perf_counter() - start)
    return outcome
