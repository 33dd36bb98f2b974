"""The protobuf form of a request and its answer, and the few lines that send one and read the other."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from gumball import errors
from gumball._codec import (
    Array,
    Info,
    OutputArray,
    Sample,
    SampleRequest,
    TauSchedule,
    Timings,
    info_of,
    malformed_is_invalid,
    sample_of,
)
from gumball._credentials import Certificates
from gumball.v1 import sampling_pb2 as pb
from gumball.v1.sampling_pb2_grpc import SamplingServiceStub

_OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # the service bounds its answers
    ("grpc.max_send_message_length", -1),
    ("grpc.lb_policy_name", "round_robin"),  # over all replicas that the name resolves to; else one gets every call
)

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
_NAME_OF_DTYPE = {pb.DATA_TYPE_FLOAT32: "float32", pb.DATA_TYPE_INT32: "int32"}


def sample_message(request: SampleRequest) -> pb.SampleRequest:
    """The message of a request."""
    logits = request.logits.astype(request.logits.dtype.newbyteorder("<"), copy=False)
    tensor = pb.Tensor(dtype=f"DATA_TYPE_{request.dtype.upper()}", shape=request.logits.shape, data=logits.tobytes())
    bias = request.logit_bias or {}
    return pb.SampleRequest(
        logits=tensor if request.source == "logits" else None,
        probs=tensor if request.source == "probs" else None,
        mode=f"MODE_{request.mode.upper()}",
        outputs=[f"OUTPUT_{name.upper()}" for name in request.outputs or ()],
        seed=request.seed,
        seeds=None if request.seeds is None else request.seeds.tolist(),
        first_row=request.first_row,
        draws=request.draws,
        first_draw=request.first_draw.tolist(),
        tau=_list(request.tau),
        tau_schedule=None if request.tau_schedule is None else _schedule(request.tau_schedule),
        temperature=request.temperature.tolist(),
        top_k=_list(request.top_k),
        top_p=_list(request.top_p),
        min_p=_list(request.min_p),
        logit_bias=[pb.LogitBias(category=category, bias=amount) for category, amount in bias.items()],
        without_replacement=request.without_replacement,
        top_log_probs=request.top_log_probs,
    )


def _list(values: Array | None) -> list[Any] | None:
    return None if values is None else values.tolist()


def _schedule(schedule: TauSchedule) -> pb.TauSchedule:
    kind = f"KIND_{schedule['kind']}".upper()
    if kind not in pb.TauSchedule.Kind.keys():  # noqa: SIM118 - it is no dict
        raise errors.InvalidArgument(f"has the kind {schedule['kind']!r}", "tau_schedule")
    numbers: dict[str, Any] = {name: value for name, value in schedule.items() if name != "kind"}
    return pb.TauSchedule(kind=kind, **numbers)


def read_sample(request: SampleRequest, answer: pb.SampleResponse) -> Sample:
    """The sample of an answer. Raises InvalidAnswer."""
    with malformed_is_invalid():
        arrays = {output.name: _array(output.name, getattr(answer, output.name)) for output in request.expected}
        return sample_of(
            request,
            contract_name=answer.contract,
            seed=answer.seed if answer.HasField("seed") else None,
            tau=answer.tau or None,
            timings=Timings(answer.timings.queue_ns, answer.timings.compute_ns),
            arrays=arrays,
        )


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


def _array(name: str, tensor: pb.Tensor) -> Array:
    return OutputArray(name, _NAME_OF_DTYPE[tensor.dtype], tuple(tensor.shape)).of_bytes(tensor.data)


def _target(address: str) -> str:
    """The gRPC name of an address."""
    parts = urlsplit(address)
    return f"unix:{parts.path}" if parts.scheme == "grpc+unix" else parts.netloc


def _channel(library: Any, address: str, certificates: Certificates) -> Any:
    """A channel of grpc, or of grpc.aio."""
    if urlsplit(address).scheme == "grpcs":
        return library.secure_channel(_target(address), grpc.ssl_channel_credentials(*certificates.pem()), _OPTIONS)
    return library.insecure_channel(_target(address), _OPTIONS)


def _metadata(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((name.lower(), value) for name, value in headers.items())  # as HTTP/2 has it, and gRPC insists


@contextmanager
def _failures() -> Iterator[None]:
    """A failed call, in the words of `errors`."""
    try:
        yield
    except grpc.RpcError as error:
        raise read_error(error) from error


class GRPCTransport:
    """Calls over gRPC."""

    def __init__(self, address: str, headers: Mapping[str, str], certificates: Certificates) -> None:
        self._channel = _channel(grpc, address, certificates)
        self._stub = SamplingServiceStub(self._channel)
        self._metadata = _metadata(headers)

    def sample(self, request: SampleRequest, timeout: float | None) -> Sample:
        message = sample_message(request)
        with _failures():
            answer = self._stub.Sample(message, timeout=timeout, metadata=self._metadata)
        return read_sample(request, answer)

    def info(self) -> Info:
        with _failures():
            return read_info(self._stub.GetInfo(pb.GetInfoRequest(), metadata=self._metadata))

    def close(self) -> None:
        self._channel.close()


class AsyncGRPCTransport:
    """The same, awaited."""

    def __init__(self, address: str, headers: Mapping[str, str], certificates: Certificates) -> None:
        self._channel = _channel(grpc.aio, address, certificates)
        self._stub = SamplingServiceStub(self._channel)
        self._metadata = _metadata(headers)

    async def sample(
        self,
        request: SampleRequest,
        timeout: float | None,  # noqa: ASYNC109 - a deadline that the service is told, not one to wait here
    ) -> Sample:
        message = sample_message(request)
        with _failures():
            answer = await self._stub.Sample(message, timeout=timeout, metadata=self._metadata)
        return read_sample(request, answer)

    async def info(self) -> Info:
        with _failures():
            return read_info(await self._stub.GetInfo(pb.GetInfoRequest(), metadata=self._metadata))

    async def close(self) -> None:
        await self._channel.close()
