"""Calls to a service over gRPC, and what goes wrong with them."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from urllib.parse import urlsplit

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from gumball import errors
from gumball._answers import read_sample
from gumball._codec import Info, Sample, SampleRequest, info_of
from gumball._credentials import Certificates
from gumball._fork import grpc_is_used
from gumball._requests import encode
from gumball._stream import SampleStream, StreamBroken
from gumball._tracing import trace_headers
from gumball.v1 import sampling_pb2 as pb
from gumball.v1.sampling_pb2_grpc import SamplingServiceStub

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # the service bounds its answers
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),  # a service that restarts is found again soon
    ("grpc.min_reconnect_backoff_ms", 5000),  # how long a connection may take, by gRPC's odd name
    ("grpc.max_reconnect_backoff_ms", 5000),
    ("grpc.keepalive_time_ms", 30_000),  # a connection that died without a word is noticed while calls wait
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.lb_policy_name", "round_robin"),  # over all replicas that the name resolves to; else one gets every call
)

_SAMPLE = "/gumball.v1.SamplingService/Sample"
_SAMPLE_STREAM = "/gumball.v1.SamplingService/SampleStream"
# What a message saves is lost in the time that its bytes take, and while they do, the stream's other calls wait.
SMALL_BYTES = 1 << 16

# What a status says where there are no details: that of the gRPC library itself, or of a proxy.
_REASON_OF_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: "INVALID_ARGUMENT",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "TOO_LARGE",  # so the library refuses a long message; the service gives details
    grpc.StatusCode.UNIMPLEMENTED: "NOT_FOUND",
    grpc.StatusCode.DEADLINE_EXCEEDED: "DEADLINE",
    grpc.StatusCode.UNAVAILABLE: "UNAVAILABLE",
    grpc.StatusCode.CANCELLED: "UNAVAILABLE",
    grpc.StatusCode.UNAUTHENTICATED: "UNAUTHENTICATED",
    grpc.StatusCode.PERMISSION_DENIED: "UNAUTHENTICATED",
    grpc.StatusCode.INTERNAL: "INTERNAL",
    grpc.StatusCode.UNKNOWN: "INTERNAL",
}


def read_info(answer: pb.GetInfoResponse) -> Info:
    """The information of an answer."""
    limits = {field.name: getattr(answer.limits, field.name) for field in pb.Limits.DESCRIPTOR.fields}
    devices = [{"name": device.name, "threads": device.threads} for device in answer.devices]
    return info_of(
        {"version": answer.version, "contracts": list(answer.contracts), "devices": devices, "limits": limits}
    )


def read_error(error: grpc.RpcError) -> errors.GumballError:
    """The error of a failed call: its google.rpc details, or else its status."""
    reason = field = retry_after = None
    with suppress(DecodeError):  # a proxy may have cut them short; the status remains
        for detail in _details(error):
            info, retry = ErrorInfo(), RetryInfo()
            if detail.Unpack(info) and info.domain == "gumball":
                reason, field = info.reason, info.metadata.get("field")
            elif detail.Unpack(retry):
                retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    code = error.code()
    return errors.of_reason(
        reason, error.details() or f"gRPC status {code.name}", field, retry_after, otherwise=_REASON_OF_STATUS.get(code)
    )


def _details(error: grpc.RpcError) -> Sequence[any_pb2.Any]:
    """The google.rpc.Status that rides in the trailing metadata, opened."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return tuple(Status.FromString(value).details)
    return ()


def _target(address: str) -> str:
    """The gRPC name of an address."""
    parts = urlsplit(address)
    return f"unix:{parts.path}" if parts.scheme == "grpc+unix" else parts.netloc


def _channel(address: str, certificates: Certificates, authority: str) -> grpc.aio.Channel:
    """A channel to an address whose server or proxy was called by the name `authority`, where that is another."""
    options = [*_OPTIONS, *([("grpc.default_authority", authority)] if authority else [])]
    if urlsplit(address).scheme != "grpcs":
        return grpc.aio.insecure_channel(_target(address), options)
    return grpc.aio.secure_channel(_target(address), grpc.ssl_channel_credentials(*certificates.pem()), options)


def _metadata(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name.lower(), value) for name, value in headers.items())  # as HTTP/2 has it, and gRPC insists


@contextmanager
def _failures() -> Iterator[None]:
    """A failed call, in the words of `errors`."""
    try:
        yield
    except grpc.RpcError as error:
        raise read_error(error) from error
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) is None or task.cancelling():
            raise
        raise errors.Unavailable("the connection was closed") from None  # which gRPC tells like this


class GRPCService:
    """Calls to a service over gRPC: small ones on a stream, which costs less, large ones each by itself."""

    def __init__(
        self, address: str, headers: Mapping[str, str], certificates: Certificates, authority: str = ""
    ) -> None:
        grpc_is_used()
        self._channel = _channel(address, certificates, authority)
        self._stub = SamplingServiceStub(self._channel)
        self._metadata = _metadata(headers)
        self._sample = self._channel.unary_unary(_SAMPLE, response_deserializer=pb.SampleResponse.FromString)
        self._stream = SampleStream(partial(self._channel.stream_stream(_SAMPLE_STREAM), metadata=self._metadata))
        self._has_stream = True  # as far as is known

    async def sample(
        self,
        request: SampleRequest,
        timeout: float | None,  # noqa: ASYNC109 - a deadline that the service is told, not one to wait here
    ) -> Sample:
        if self._has_stream and request.logits.nbytes + request.parameters.form.nbytes <= SMALL_BYTES:
            number, answer = self._stream.send(request, timeout)
            try:
                return await answer
            except StreamBroken as broken:
                self._judge(broken)
            except asyncio.CancelledError:
                self._stream.withdraw(number)
                raise
        metadata = (*self._metadata, *_metadata(trace_headers()))
        with _failures():
            answer = await self._sample(encode(request), timeout=timeout, metadata=metadata)
        return read_sample(request, answer)

    async def info(self) -> Info:
        with _failures():
            return read_info(await self._stub.GetInfo(pb.GetInfoRequest(), metadata=self._metadata))

    async def close(self) -> None:
        await self._stream.close()
        await self._channel.close()

    def _judge(self, broken: StreamBroken) -> None:
        """Raise Unavailable where the service is gone; return where a call by itself may do better, or tell more.

        It may be that the service has no streams, or takes shorter messages than was thought; and gRPC forgets the
        status of a stream that ends while it is written to.
        """
        error = broken.__cause__
        code = error.code() if isinstance(error, grpc.RpcError) else None
        if code is grpc.StatusCode.UNIMPLEMENTED:
            self._has_stream = False
        elif code is grpc.StatusCode.UNAVAILABLE:
            raise read_error(error) from error
        elif code is None:
            raise errors.Unavailable("the stream ended before the answer") from error
