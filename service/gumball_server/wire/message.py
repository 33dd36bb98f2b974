"""Protobuf messages of `gumball.v1`."""

import math
import struct
import threading
from collections.abc import Callable, Iterable
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from gumball import contract
from gumball.framing import field_start
from gumball.seeds import draw_seed
from gumball.v1 import sampling_pb2 as pb

from gumball_server.domain import (
    INTEGERS,
    Array,
    Mode,
    Output,
    Parameters,
    Plan,
    SampleRequest,
    SampleResult,
    SamplingError,
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
_SHORT_BYTES = 256  # of a message that is remembered, without its logits
_SMALL_BYTES = 1 << 16  # of one that is copied sooner than read
_DOUBLE = struct.Struct("<d")
_MODES = {pb.Mode.Value(f"MODE_{mode.name}"): mode.value for mode in Mode}


def decode_anew(message: pb.SampleRequest) -> SampleRequest:
    """The request in a message, read field by field. Raises SamplingError naming the field at fault."""
    _refuse_unknown(message)
    source, tensor = _numbers(message)
    given = {}
    for field, value in message.ListFields():  # those that are there: asking for each in turn takes longer
        if (read := _READERS.get(field.name)) is not None:
            given[field.name] = read(value)
    return sample_request(_array(source, tensor), Parameters(**given), source)


def decode(message: pb.SampleRequest) -> SampleRequest:
    """The same, sooner if one like it was seen before. Raises SamplingError naming the field at fault.

    What is of one request alone, how long it may take and its trace, is for the transport to read before: it goes.
    """
    message.ClearField("timeout_seconds")
    message.ClearField("trace")
    if message.ByteSize() <= _SMALL_BYTES and (seen := decode_seen(message.SerializeToString())) is not None:
        return seen.request
    return decode_anew(message)


class Seen(NamedTuple):
    """What a message asks for, its id, and in how many seconds it is to be answered."""

    request: SampleRequest
    id: int
    seconds: float | None


def decode_seen(body: bytes) -> Seen | None:
    """What is in a message like one that was seen before; None where a parser has to judge it as a whole."""
    own_end, start, end, seed_start, seed_end, has_seed, timeout_at, request_id, found = _find_fields()(body)
    plan = _plan_of(body, own_end, start, end, seed_start, seed_end)
    seed = found if has_seed else None
    seconds = _DOUBLE.unpack_from(body, timeout_at)[0] if timeout_at else None
    if plan is None or (seed is not None and plan.seeds is not None) or not (seconds is None or 0 < seconds < math.inf):
        return None
    logits: Array = np.ndarray((plan.rows, plan.categories), plan.dtype, body[start:end])
    request = SampleRequest(logits, draw_seed() if seed is None and plan.seeds is None else seed, plan)
    return Seen(request, request_id, seconds)


def planned(body: bytes) -> tuple[Plan, int] | None:
    """The plan in such a message, and how many bytes of logits it has."""
    own_end, start, end, seed_start, seed_end, *_ = _find_fields()(body)
    plan = _plan_of(body, own_end, start, end, seed_start, seed_end)
    return None if plan is None else (plan, end - start)


def is_short(body: bytes) -> bool:
    """Whether a message is plainly right and, but for the data of its logits, short."""
    _, start, end, *_ = _find_fields()(body)
    return 0 < len(body) - (end - start) <= _SHORT_BYTES


@cache
def _find_fields() -> Callable[[bytes], tuple[int, ...]]:
    """Compiled on import, and so not imported before `open_worker` has said where to keep it."""
    from gumball_server.kernels.request_fields import find_fields

    return find_fields  # type: ignore[no-any-return]


def _plan_of(body: bytes, own_end: int, start: int, end: int, seed_start: int, seed_end: int) -> Plan | None:
    """The plan in a message whose parts were found at these places."""
    rest = body[own_end:start] + body[end:seed_start] + body[seed_end:]
    return _planned(rest, start - own_end, end - start) if end and len(rest) <= _SHORT_BYTES else None


@lru_cache(1 << 10)
def _planned(rest: bytes, start: int, data_bytes: int) -> Plan | None:
    """The plan in a message but for its id, its seed, and so many bytes of logits that were at `start`."""
    try:
        return decode_anew(pb.SampleRequest.FromString(rest[:start] + bytes(data_bytes) + rest[start:])).plan
    except (DecodeError, SamplingError):
        return None


def timeout(message: pb.SampleRequest) -> float | None:
    """Seconds until its answer is of no use. Raises SamplingError."""
    if not message.HasField("timeout_seconds"):
        return None
    seconds: float = message.timeout_seconds
    if not 0 < seconds < float("inf"):
        raise invalid("timeout_seconds", f"must be a number of seconds above 0, is {seconds}")
    return seconds


class Frame(NamedTuple):
    """What the responses of a plan have in common, as bytes: a message is its fields in a row, whatever their order."""

    fields: bytes
    tensors: list[bytes]  # up to their data, in the order of the outputs


class _Own(threading.local):
    """What a response has of its own, in a message that is filled anew each time: making one takes as long."""

    def __init__(self) -> None:
        self.response = pb.SampleResponse()
        self.timings = self.response.timings


_OWN = _Own()


def encode(result: SampleResult, request_id: int) -> bytes:
    """The response of a result, to the request with this id."""
    request = result.request
    frame = frame_of(request.plan)
    own = _OWN.response
    own.id = request_id
    if request.seed is None:
        own.ClearField("seed")
    else:
        own.seed = request.seed
    _OWN.timings.queue_ns, _OWN.timings.compute_ns = result.queue_ns, result.compute_ns
    pieces: list[Any] = [frame.fields, own.SerializeToString()]
    for tensor, array in zip(frame.tensors, result.outputs.values(), strict=True):
        pieces += tensor, array
    return b"".join(pieces)


def frame_of(plan: Plan) -> Frame:
    """That of a plan, made once."""
    frame: Frame = plan.memo.get("message") or plan.memo.setdefault("message", _frame(plan))
    return frame


def _frame(plan: Plan) -> Frame:
    shape = pb.Shape(rows=plan.rows, draws=plan.draws, categories=plan.categories)
    common = pb.SampleResponse(contract=contract.VERSION, shape=shape, tau=plan.taus)
    if plan.seeds is not None:
        common.seeds.extend(plan.seeds.tolist())
    tensors = [_tensor_start(output, shape) for output, shape in plan.layout.shapes.items()]
    return Frame(common.SerializeToString(), tensors)


def _tensor_start(output: Output, shape: tuple[int, ...]) -> bytes:
    """An output's tensor, up to its data, which come last."""
    dtype = pb.DATA_TYPE_INT32 if output in INTEGERS else pb.DATA_TYPE_FLOAT32
    size = 4 * math.prod(shape)
    head = pb.Tensor(dtype=dtype, shape=shape).SerializeToString() + field_start(pb.Tensor, "data", size)
    return field_start(pb.SampleResponse, output, len(head) + size) + head


def encode_error(error: SamplingError, request_id: int, retry_after_seconds: float | None) -> bytes:
    """The response in a stream to a request that has no result."""
    told = pb.Error(
        reason=error.reason.value, field=error.field, detail=str(error), retry_after_seconds=retry_after_seconds
    )
    return bytes(pb.SampleResponse(id=request_id, error=told).SerializeToString())


def _refuse_unknown(message: Message, inside: str = "") -> None:
    for field in UnknownFieldSet(message):  # type: ignore[attr-defined]  # its stub lacks iteration
        raise unknown_field(f"{inside}.{field.field_number}" if inside else str(field.field_number))


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
    _refuse_unknown(tensor, source)
    dtype = _DTYPE_OF_NUMBER.get(tensor.dtype)
    if dtype is None:
        raise invalid(f"{source}.dtype", f"must be one of {', '.join(LOGITS_DTYPES)}, is number {tensor.dtype}")
    shape = tuple(tensor.shape[:])  # a slice is one call; an iterator is one a number
    if shape and min(shape) < 0:
        raise invalid(f"{source}.shape", f"has a negative length: {list(shape)}")
    return from_bytes(source, tensor.data, shape, dtype)


def _schedule(message: pb.TauSchedule) -> TauSchedule:
    _refuse_unknown(message, "tau_schedule")
    try:
        kind = pb.TauSchedule.Kind.Name(message.kind).removeprefix("KIND_").lower()
    except ValueError:
        raise invalid("tau_schedule.kind", f"{message.kind} is no kind") from None
    floor = message.floor if message.HasField("floor") else contract.PARAMETER_RANGE[0]
    return TauSchedule(kind, message.initial, message.rate, floor, message.step)


def _bias(items: Iterable[pb.LogitBias]) -> dict[int, float | None]:
    bias: dict[int, float | None] = {}
    for i, item in enumerate(items):
        _refuse_unknown(item, f"logit_bias[{i}]")
        if item.category in bias:
            raise invalid(f"logit_bias[{i}]", f"names category {item.category} again")
        bias[item.category] = item.bias if item.HasField("bias") else None
    return bias


def _mode(number: int) -> str:
    if number not in _MODES:
        raise invalid("mode", f"{number} is no mode")
    return _MODES[number]


def _outputs(numbers: Iterable[int]) -> list[str]:
    try:
        return [pb.Output.Name(number).removeprefix("OUTPUT_").lower() for number in numbers]
    except ValueError as error:
        raise invalid("outputs", str(error)) from None


def _plain(value: int) -> int:
    return value


def _real(values: Iterable[float]) -> Array:
    return np.array(values, np.float64)


def _whole(values: Iterable[int]) -> Array:
    return np.array(values, np.uint32)


# What a field of the message says, as `Parameters` has it under the same name.
_READERS: dict[str, Callable[[Any], Any]] = {
    "mode": _mode,
    "outputs": _outputs,
    "seed": _plain,
    "seeds": lambda values: np.array(values, np.uint64),
    "first_row": _plain,
    "draws": _plain,
    "first_draw": _whole,
    "tau": _real,
    "temperature": _real,
    "tau_schedule": _schedule,
    "top_k": _whole,
    "top_p": _real,
    "min_p": _real,
    "logit_bias": _bias,
    "without_replacement": _plain,
    "top_log_probs": _plain,
}
