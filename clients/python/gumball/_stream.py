"""One `SampleStream` to one server: calls of one turn of the event loop travel as one message, and so do answers."""

import asyncio
from bisect import bisect_left
from collections.abc import Callable
from itertools import count
from operator import itemgetter

from gumball._answers import read_sealed, responses_of
from gumball._calls import StreamCall
from gumball._codec import Sample, SampleRequest
from gumball._requests import Asked, encoded, fields_of
from gumball._status import RpcError
from gumball._tracing import trace_headers
from gumball.framing import stream_message
from gumball.v1 import sampling_pb2 as pb

# Far below every limit on a message, and far above where another request in one would make it cheaper.
MESSAGE_BYTES = 1 << 18
# So that of many callers some are being answered while others are still being asked.
MESSAGE_REQUESTS = 32

_number_of = itemgetter(0)  # the id of an Asked


class StreamBroken(Exception):  # noqa: N818 - it is what happened
    """The stream ended with this call unanswered; its cause is the gRPC error, if there was one."""


class SampleStream:
    """Calls on one gRPC stream, from the first call until `has_left`; then the next calls are for another one.

    Answers are read in the turn of the event loop in which they come, and what is asked in one goes out together.
    """

    def __init__(self, open_stream: Callable[["SampleStream"], StreamCall]) -> None:
        self._open_stream = open_stream
        self.has_left = False  # it has ended, or ends once all is answered
        self._ids = count(1)
        self._waiting: dict[int, tuple[asyncio.Future[Sample], SampleRequest]] = {}
        self._unsent: list[Asked] = []
        self._withdrawn: list[int] = []
        self._loop = asyncio.get_running_loop()
        self._is_to_write = False
        self._call: StreamCall | None = None

    def send(self, request: SampleRequest, timeout: float | None) -> tuple[int, asyncio.Future[Sample]]:
        """The id of a request, and its sample to come, or its error, or StreamBroken."""
        number = next(self._ids)
        self._unsent.append((number, request.seed, fields_of(request), timeout, trace_headers()))
        answer: asyncio.Future[Sample] = self._loop.create_future()
        self._waiting[number] = answer, request
        self.room()
        return number, answer

    def withdraw(self, number: int) -> None:
        """The answer to the request with this id is not wanted any more; the server is told if it was asked."""
        if self._waiting.pop(number, None) is None:
            return
        at = bisect_left(self._unsent, number, key=_number_of)
        if at < len(self._unsent) and _number_of(self._unsent[at]) == number:
            del self._unsent[at]  # else those given up would pile up as long as the server takes nothing
        else:
            self._withdrawn.append(number)
            self.room()

    # As a partner of a call.

    def received(self, message: bytes) -> None:
        """Read answers here, and not where they are waited for: all in a row take half as long."""
        waiting = self._waiting
        for response in responses_of(message):
            if (waited := waiting.pop(response.id, None)) is None or waited[0].done():
                continue
            answer, request = waited
            try:
                answer.set_result(read_sealed(request, response))
            except Exception as error:  # it is that of one call, and no matter of the others
                answer.set_exception(error)

    def ended(self, error: RpcError | None) -> None:
        self.has_left = True
        for answer, _ in self._waiting.values():
            if not answer.done():
                broken = StreamBroken()
                broken.__cause__ = error
                answer.set_exception(broken)
        self._waiting.clear()

    def is_waiting(self) -> bool:
        return bool(self._waiting)

    def room(self) -> None:
        """Write soon, once for all who ask in this turn of the loop."""
        if not self._is_to_write:
            self._is_to_write = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._is_to_write = False
        if self.has_left:
            return
        call = self._call = self._call or self._open_stream(self)
        while call.can_write() and (self._unsent or self._withdrawn):
            call.write(self._next_message())
        if call.is_leaving() and not self._unsent:
            self.has_left = True
            call.finish()

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
        message = stream_message(requests)
        return message + pb.SampleStreamRequest(withdrawn=withdrawn).SerializeToString() if withdrawn else message
