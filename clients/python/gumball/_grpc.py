"""Calls to a service over gRPC, and what goes wrong with them."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from gumball import errors
from gumball._answers import read_sample
from gumball._channel import Channel
from gumball._codec import Info, Sample, SampleRequest, info_of
from gumball._connect import Target
from gumball._credentials import Certificates
from gumball._messages import metadata_of
from gumball._requests import encode
from gumball._status import Code, RpcError
from gumball._stream import SampleStream, StreamBroken
from gumball._tracing import trace_headers
from gumball.v1 import sampling_pb2 as pb

MessageT = TypeVar("MessageT", bound=Message)

_SERVICE = "/gumball.v1.SamplingService/"
# What a message saves is lost in the time that its bytes take, and while they do, the stream's other calls wait.
SMALL_BYTES = 1 << 16

# What a status says where there are no details: that of a gRPC library, or of a proxy.
_REASON_OF_CODE = {
    Code.INVALID_ARGUMENT: "INVALID_ARGUMENT",
    Code.RESOURCE_EXHAUSTED: "TOO_LARGE",  # so libraries refuse a long message; the service gives details
    Code.UNIMPLEMENTED: "NOT_FOUND",
    Code.DEADLINE_EXCEEDED: "DEADLINE",
    Code.UNAVAILABLE: "UNAVAILABLE",
    Code.CANCELLED: "UNAVAILABLE",
    Code.UNAUTHENTICATED: "UNAUTHENTICATED",
    Code.PERMISSION_DENIED: "UNAUTHENTICATED",
    Code.INTERNAL: "INTERNAL",
    Code.UNKNOWN: "INTERNAL",
}


def read_info(answer: pb.GetInfoResponse) -> Info:
    """The information of an answer."""
    limits = {field.name: getattr(answer.limits, field.name) for field in pb.Limits.DESCRIPTOR.fields}
    devices = [{"name": device.name, "threads": device.threads} for device in answer.devices]
    return info_of(
        {"version": answer.version, "contracts": list(answer.contracts), "devices": devices, "limits": limits}
    )


def read_error(error: RpcError) -> errors.GumballError:
    """The error of a failed call: its google.rpc details, or else its status."""
    reason = field = retry_after = None
    with suppress(DecodeError):  # a proxy may have cut them short; the status remains
        for detail in _details(error):
            info, retry = ErrorInfo(), RetryInfo()
            if detail.Unpack(info) and info.domain == "gumball":
                reason, field = info.reason, info.metadata.get("field")
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.ToNanoseconds() / 1e9  # of which not every number is a timedelta
    told = error.message or f"gRPC status {error.code.name}"
    return errors.of_reason(reason, told, field, retry_after, otherwise=_REASON_OF_CODE.get(error.code))


def _details(error: RpcError) -> Sequence[any_pb2.Any]:
    return tuple(Status.FromString(error.details).details)


def _parsed(kind: type[MessageT], answered: bytes) -> MessageT:
    try:
        return kind.FromString(answered)
    except DecodeError as error:
        raise errors.InvalidAnswer(f"not an answer of Gumball: {error!r}") from error


@contextmanager
def _failures() -> Iterator[None]:
    """A failed call, in the words of `errors`."""
    try:
        yield
    except RpcError as error:
        raise read_error(error) from error


class GRPCService:
    """Calls to a service over gRPC: small ones on a stream, which costs less, large ones each by itself."""

    def __init__(
        self, address: str, headers: Mapping[str, str], certificates: Certificates, authority: str = ""
    ) -> None:
        target, metadata = Target.of(address, authority), metadata_of(headers)
        self._channel = Channel(target, certificates.context() if target.is_tls else None)
        self._get_info, self._sample, on_stream = (
            self._channel.head(_SERVICE + method, metadata) for method in ("GetInfo", "Sample", "SampleStream")
        )
        self._open_stream = partial(self._channel.stream, on_stream)
        self._stream = SampleStream(self._open_stream)
        self._has_stream = True  # as far as is known

    async def sample(
        self,
        request: SampleRequest,
        timeout: float | None,  # noqa: ASYNC109 - a deadline that the service is told, not one to wait here
    ) -> Sample:
        if self._has_stream and request.logits.nbytes + request.parameters.form.nbytes <= SMALL_BYTES:
            if self._stream.has_left:
                self._stream = SampleStream(self._open_stream)
            stream = self._stream
            number, answer = stream.send(request, timeout)
            try:
                return await answer
            except StreamBroken as broken:
                self._judge(broken)
            except asyncio.CancelledError:
                stream.withdraw(number)
                raise
        with _failures():
            answered = await self._channel.unary(self._sample, encode(request), timeout, metadata_of(trace_headers()))
        return read_sample(request, _parsed(pb.SampleResponse, answered))

    async def info(self) -> Info:
        with _failures():
            answered = await self._channel.unary(self._get_info, b"")
        return read_info(_parsed(pb.GetInfoResponse, answered))

    async def close(self) -> None:
        await self._channel.close()

    def _judge(self, broken: StreamBroken) -> None:
        """Raise Unavailable where the service is gone; return where a call by itself may do better, or tell more.

        It may be that the service has no streams, or takes shorter messages than was thought, or did not look at the
        stream because it took no more of them.
        """
        error = broken.__cause__
        code = error.code if isinstance(error, RpcError) else None
        if code is Code.UNIMPLEMENTED:
            self._has_stream = False
        elif isinstance(error, RpcError) and code is Code.UNAVAILABLE and not error.is_unseen:
            raise read_error(error) from error
        elif code is None:
            raise errors.Unavailable("the stream ended before the answer") from error
