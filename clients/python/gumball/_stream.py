"""One `SampleStream` to one server: calls of one turn of the event loop travel as one message, and so do answers."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

import grpc

from gumball._answers import read_sealed, responses_of
from gumball._codec import Sample, SampleRequest
from gumball._requests import Asked, encoded, fields_of
from gumball._tracing import trace_headers
from gumball.framing import stream_message
from gumball.v1 import sampling_pb2 as pb

# Far below every limit on a message, and far above where another request in one would make it cheaper.
MESSAGE_BYTES = 1 << 18
# So that of many callers some are being answered while others are still being asked.
MESSAGE_REQUESTS = 32


class StreamBroken(Exception):  # noqa: N818 - it is what happened
    """The stream ended with this call unanswered; its cause is the gRPC error, if there was one."""


class SampleStream:
    """Calls on one gRPC stream, which is opened by the first call and, once it broke, by the next one."""

    def __init__(self, open_stream: Callable[[], Any]) -> None:
        self._open_stream = open_stream
        self._ids = count(1)
        self._waiting: dict[int, tuple[asyncio.Future[Sample], SampleRequest]] = {}
        self._unsent: list[Asked] = []
        self._withdrawn: list[int] = []
        self._to_send = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    def send(self, request: SampleRequest, timeout: float | None) -> tuple[int, asyncio.Future[Sample]]:
        """The id of a request, and its sample to come, or its error, or StreamBroken."""
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        number = next(self._ids)
        self._unsent.append((number, request.seed, fields_of(request), timeout, trace_headers()))
        answer: asyncio.Future[Sample] = self._running.get_loop().create_future()
        self._waiting[number] = answer, request
        self._to_send.set()
        return number, answer

    def withdraw(self, number: int) -> None:
        """Tell the server that the answer to the request with this id is not wanted any more."""
        if self._waiting.pop(number, None) is not None:
            self._withdrawn.append(number)
            self._to_send.set()

    async def close(self) -> None:
        """End the stream; what is unanswered breaks."""
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running
            self._break(None)  # a task that is cancelled before its first step does nothing, not even in the end

    async def _run(self) -> None:
        """From the opening of the stream to its end, which all who wait are told."""
        broken: BaseException | None = None
        call = writing = None
        try:
            call = self._open_stream()
            writing = asyncio.create_task(self._write(call))
            while (body := await call.read()) is not grpc.aio.EOF:
                self._answer(body)
        except Exception as error:  # whatever ended it, those who wait must learn of it
            broken = error
        finally:
            if call is not None and writing is not None:
                writing.cancel()
                call.cancel()
            self._break(broken)

    def _answer(self, body: bytes) -> None:
        """Read a message here, and not where its responses are waited for: all in a row take half as long."""
        waiting = self._waiting
        for response in responses_of(body):
            if (waited := waiting.pop(response.id, None)) is None or waited[0].done():
                continue
            answer, request = waited
            try:
                answer.set_result(read_sealed(request, response))
            except Exception as error:  # it is that of one call, and no matter of the others
                answer.set_exception(error)

    def _break(self, cause: BaseException | None) -> None:
        waiting, self._waiting = self._waiting, {}
        self._unsent.clear()
        self._withdrawn.clear()
        self._running = None
        for answer, _ in waiting.values():
            if not answer.done():
                error = StreamBroken()
                error.__cause__ = cause
                answer.set_exception(error)

    async def _write(self, call: Any) -> None:
        with suppress(grpc.RpcError, asyncio.InvalidStateError):  # the stream has ended, and the reader is told why
            while await self._to_send.wait():
                self._to_send.clear()
                while self._unsent or self._withdrawn:
                    await call.write(self._next_message())

    def _next_message(self) -> bytes:
        """The requests of the next message, at least one where there is any, and who is not waiting any more."""
        requests: list[bytes] = []
        size = 0
        for request in encoded(self._unsent[:MESSAGE_REQUESTS]):
            size += len(request)
            if requests and size > MESSAGE_BYTES:
                break
            requests.append(request)
        del self._unsent[: len(requests)]
        withdrawn, self._withdrawn = self._withdrawn, []
        return stream_message(requests) + pb.SampleStreamRequest(withdrawn=withdrawn).SerializeToString()
