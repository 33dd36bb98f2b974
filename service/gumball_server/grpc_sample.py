"""A call of `gumball.v1.SamplingService/Sample`, and errors as gRPC tells them: what both engines have in common."""

from typing import Any, NoReturn

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from gumball.v1 import sampling_pb2 as pb

from gumball_server.domain import MalformedError, Reason, SampleRequest, SampleResult, SamplingError
from gumball_server.exchange import LARGE_BYTES, LARGE_RAW_BYTES, Call, Exchange
from gumball_server.grpc_protocol import Metadata, StatusError
from gumball_server.wire import message

SERVICE = pb.DESCRIPTOR.services_by_name["SamplingService"].full_name
SAMPLE = f"{SERVICE}/Sample"

STATUS = {
    Reason.INVALID_ARGUMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.MEDIA_TYPE: grpc.StatusCode.UNIMPLEMENTED,
    Reason.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.DEADLINE: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.CANCELLED: grpc.StatusCode.CANCELLED,
    Reason.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
}
# Errors travel in metadata, of which clients take 8 KiB; a name that is at fault may be longer.
MESSAGE_CHARACTERS = 256
# By how much a caller may see his deadline pass before we do: the time that his request took to get here.
EARLY_SECONDS = 0.05


class SampleCall(Call[bytes]):
    """A request whose message is `body`, to be done in so many `seconds` from its arrival."""

    __slots__ = ("_arrived", "_id", "body", "seconds")

    operation = SAMPLE

    def __init__(self, exchange: Exchange, body: bytes = b"", seconds: float | None = None) -> None:
        super().__init__(exchange, LARGE_RAW_BYTES)
        self.body = body
        self.seconds = seconds
        self._id = 0
        self._arrived = exchange.loop.time()

    def begin(self) -> None:
        """Go to the exchange with the whole body."""
        size = len(self.body)
        self.has_large_body = size > LARGE_BYTES and not (size <= LARGE_RAW_BYTES and self._is_copied())
        self.exchange.begin(self)

    def _is_copied(self) -> bool:
        """Whether the message is read sooner than a thread begins, for all but its logits is short."""
        return self.exchange.is_open() and message.is_short(self.body)

    def is_due(self) -> bool:
        """Whether a caller who leaves now may have seen his deadline pass."""
        return self.seconds is not None and self._arrived + self.seconds < self.exchange.loop.time() + EARLY_SECONDS

    def decode(self) -> tuple[SampleRequest, float | None]:
        if (seen := message.decode_seen(self.body)) is not None:
            request, self._id, seconds = seen
        else:
            parsed = parse(pb.SampleRequest, self.body)
            self._id, seconds = parsed.id, message.timeout(parsed)
            request = message.decode(parsed)
        if seconds is not None:
            self.seconds = seconds if self.seconds is None else min(seconds, self.seconds)
        return request, None if self.seconds is None else self._arrived + self.seconds

    def encode(self, result: SampleResult) -> bytes:
        return message.encode(result, self._id)

    def trace_metadata(self) -> Metadata:
        return () if self.traceresponse is None else (("traceresponse", self.traceresponse),)


def parse(kind: Any, body: bytes) -> Any:
    """A message of this class."""
    try:
        return kind.FromString(body)
    except DecodeError:
        raise MalformedError(f"the message does not parse as {kind.DESCRIPTOR.full_name}") from None


def status_of(error: SamplingError, metadata: Metadata = ()) -> StatusError:
    """An error as a call ends with it: a status for people, and google.rpc.Status for programs."""
    details = _details(error).SerializeToString()
    trailing = (("grpc-status-details-bin", details), *metadata)
    return StatusError(STATUS[error.reason], str(error)[:MESSAGE_CHARACTERS], trailing)


async def refuse(context: Any, error: SamplingError, metadata: Metadata = ()) -> NoReturn:
    """End the call of a context so."""
    status = status_of(error, metadata)
    await context.abort(status.code, status.details, status.trailing_metadata)
    raise error  # abort has raised already


def _details(error: SamplingError) -> Status:
    status = Status(code=STATUS[error.reason].value[0], message=str(error)[:MESSAGE_CHARACTERS])
    metadata = {"field": error.field[:MESSAGE_CHARACTERS]} if error.field else {}
    status.details.add().Pack(ErrorInfo(reason=error.reason.value, domain="gumball", metadata=metadata))
    if error.retry_seconds is not None:
        status.details.add().Pack(RetryInfo(retry_delay=Duration(seconds=error.retry_seconds)))
    return status
