"""Protobuf messages of `gumball.v1`."""

from typing import Any

import numpy as np
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from gumball import contract
from gumball.v1 import sampling_pb2 as pb

from gumball_server.domain import (
    Array,
    Mode,
    Parameters,
    SampleRequest,
    SampleResult,
    Source,
    TauSchedule,
    invalid,
    unknown_field,
)
from gumball_server.validation import sample_request
from gumball_server.wire.arrays import LOGITS_DTYPES, from_bytes

_DTYPE_OF_NUMBER: dict[int, np.dtype[Any]] = {
    pb.DataType.Value(f"DATA_TYPE_{name.upper()}"): dtype for name, dtype in LOGITS_DTYPES.items()
}
_NUMBER_OF_DTYPE = {np.dtype(np.int32): pb.DATA_TYPE_INT32, np.dtype(np.float32): pb.DATA_TYPE_FLOAT32}
_REAL = ("tau", "temperature", "top_p", "min_p")
_OPTIONAL = ("seed", "draws", "first_row", "without_replacement", "top_log_probs")
_MODES = {pb.MODE_UNSPECIFIED: None} | {pb.Mode.Value(f"MODE_{mode.name}"): mode.value for mode in Mode}


def decode(message: pb.SampleRequest) -> SampleRequest:
    """The request in a message. Raises SamplingError naming the field at fault."""
    _refuse_unknown(message, "")
    source, tensor = _numbers(message)
    given: dict[str, Any] = {name: getattr(message, name) for name in _OPTIONAL if message.HasField(name)}
    given |= {name: np.array(values, np.float64) for name in _REAL if (values := getattr(message, name))}
    return sample_request(
        _array(source, tensor),
        Parameters(
            mode=_mode(message.mode),
            outputs=[_output(number) for number in message.outputs] or None,
            seeds=np.array(message.seeds, np.uint64) if message.seeds else None,
            first_draw=np.array(message.first_draw, np.uint32) if message.first_draw else None,
            tau_schedule=_schedule(message.tau_schedule) if message.HasField("tau_schedule") else None,
            top_k=np.array(message.top_k, np.uint32) if message.top_k else None,
            logit_bias=_bias(message) if message.logit_bias else None,
            **given,
        ),
        source,
    )


def encode(result: SampleResult, request_id: int) -> pb.SampleResponse:
    """The response of a result, to the request with this id."""
    request = result.request
    return pb.SampleResponse(
        id=request_id,
        contract=contract.VERSION,
        seed=request.seed,
        seeds=None if request.seeds is None else request.seeds.tolist(),
        tau=request.taus,
        shape=pb.Shape(rows=request.rows, draws=request.draws, categories=request.categories),
        timings=pb.Timings(queue_ns=result.queue_ns, compute_ns=result.compute_ns),
        **{output.value: _tensor(array) for output, array in result.outputs.items()},
    )


def _refuse_unknown(message: Message, inside: str) -> None:
    for field in UnknownFieldSet(message):  # type: ignore[attr-defined]  # its stub lacks iteration
        raise unknown_field(f"{inside}{field.field_number}")


def _numbers(message: pb.SampleRequest) -> tuple[Source, pb.Tensor]:
    """logits or probs, whichever was given."""
    if not message.HasField("probs"):
        if not message.HasField("logits"):
            raise invalid("logits", "is required, or probs")
        return Source.LOGITS, message.logits
    if message.HasField("logits"):
        raise invalid("probs", "give logits or probs, not both")
    return Source.PROBS, message.probs


def _array(source: Source, tensor: pb.Tensor) -> Array:
    _refuse_unknown(tensor, f"{source}.")
    if tensor.dtype not in _DTYPE_OF_NUMBER:
        raise invalid(f"{source}.dtype", f"must be one of {', '.join(LOGITS_DTYPES)}, is number {tensor.dtype}")
    if min(tensor.shape, default=0) < 0:
        raise invalid(f"{source}.shape", f"has a negative length: {list(tensor.shape)}")
    return from_bytes(source, tensor.data, tuple(tensor.shape), _DTYPE_OF_NUMBER[tensor.dtype])


def _schedule(message: pb.TauSchedule) -> TauSchedule:
    _refuse_unknown(message, "tau_schedule.")
    try:
        kind = pb.TauSchedule.Kind.Name(message.kind).removeprefix("KIND_").lower()
    except ValueError:
        raise invalid("tau_schedule.kind", f"{message.kind} is no kind") from None
    floor = message.floor if message.HasField("floor") else contract.PARAMETER_RANGE[0]
    return TauSchedule(kind, message.initial, message.rate, floor, message.step)


def _bias(message: pb.SampleRequest) -> dict[int, float | None]:
    bias: dict[int, float | None] = {}
    for i, item in enumerate(message.logit_bias):
        _refuse_unknown(item, f"logit_bias[{i}].")
        if item.category in bias:
            raise invalid(f"logit_bias[{i}]", f"names category {item.category} again")
        bias[item.category] = item.bias if item.HasField("bias") else None
    return bias


def _mode(number: int) -> str | None:
    if number not in _MODES:
        raise invalid("mode", f"{number} is no mode")
    return _MODES[number]


def _output(number: int) -> str:
    try:
        return pb.Output.Name(number).removeprefix("OUTPUT_").lower()
    except ValueError:
        raise invalid("outputs", f"{number} is no output") from None


def _tensor(array: Array) -> Any:
    return pb.Tensor(dtype=_NUMBER_OF_DTYPE[array.dtype], shape=array.shape, data=array.tobytes())
