"""Protobuf messages of `gumball.v1`."""

from typing import Any

import numpy as np
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from gumball import contract
from gumball.v1 import sampling_pb2 as pb

from gumball_server.domain import (
    NOT_BUILT,
    Array,
    Mode,
    Parameters,
    SampleRequest,
    SampleResult,
    invalid,
    sample_request,
    unknown_field,
)
from gumball_server.wire.arrays import LOGITS_DTYPES, logits_from_bytes

_DTYPE_OF_NUMBER: dict[int, np.dtype[Any]] = {
    pb.DataType.Value(f"DATA_TYPE_{name.upper()}"): dtype for name, dtype in LOGITS_DTYPES.items()
}
_NUMBER_OF_DTYPE = {np.dtype(np.int32): pb.DATA_TYPE_INT32, np.dtype(np.float32): pb.DATA_TYPE_FLOAT32}
_MODES = {pb.MODE_UNSPECIFIED: None} | {pb.Mode.Value(f"MODE_{mode.name}"): mode.value for mode in Mode}


def decode(message: pb.SampleRequest) -> SampleRequest:
    """The request in a message. Raises SamplingError naming the field at fault."""
    _refuse_what_is_not_built(message)
    return sample_request(
        _logits(message),
        Parameters(
            mode=_mode(message.mode),
            outputs=[_output(number) for number in message.outputs] or None,
            seed=message.seed if message.HasField("seed") else None,
            seeds=np.array(message.seeds, np.uint64) if message.seeds else None,
            draws=message.draws if message.HasField("draws") else None,
            first_row=message.first_row if message.HasField("first_row") else None,
            first_draw=np.array(message.first_draw, np.uint32) if message.first_draw else None,
            tau=np.array(message.tau, np.float64) if message.tau else None,
            temperature=np.array(message.temperature, np.float64) if message.temperature else None,
        ),
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


def _refuse_what_is_not_built(message: pb.SampleRequest) -> None:
    for field, _ in message.ListFields():
        if field.name in NOT_BUILT:
            raise unknown_field(field.name)
    _refuse_unknown(message, "")
    _refuse_unknown(message.logits, "logits.")


def _refuse_unknown(message: Message, inside: str) -> None:
    for field in UnknownFieldSet(message):  # type: ignore[attr-defined]  # its stub lacks iteration
        raise unknown_field(f"{inside}{field.field_number}")


def _logits(message: pb.SampleRequest) -> Array:
    if not message.HasField("logits"):
        raise invalid("logits", "is required")
    tensor = message.logits
    if tensor.dtype not in _DTYPE_OF_NUMBER:
        raise invalid("logits.dtype", f"must be one of {', '.join(LOGITS_DTYPES)}, is number {tensor.dtype}")
    if min(tensor.shape, default=0) < 0:
        raise invalid("logits.shape", f"has a negative length: {list(tensor.shape)}")
    return logits_from_bytes(tensor.data, tuple(tensor.shape), _DTYPE_OF_NUMBER[tensor.dtype])


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
