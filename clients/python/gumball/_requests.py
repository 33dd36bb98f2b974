"""The protobuf form of requests, alone and in the messages of a stream.

A message is its fields in a row, so parts that recur are kept encoded, and only the others are encoded anew.
"""

import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from gumball import errors
from gumball._codec import ONE, OUTPUTS_OF_MODE, ZERO, Parameters, SampleRequest, Source, TauSchedule
from gumball.framing import field_start
from gumball.v1 import sampling_pb2 as pb

_LITTLE_ENDIAN = sys.byteorder == "little"
_NUMBER_OF_MODE: dict[str, pb.Mode] = {name: getattr(pb, f"MODE_{name.upper()}") for name in OUTPUTS_OF_MODE}
_NUMBER_OF_DTYPE: dict[str, pb.DataType] = {
    name: getattr(pb, f"DATA_TYPE_{name.upper()}") for name in ("float32", "float16", "bfloat16")
}


def encode(request: SampleRequest) -> bytes:
    """The message of a request."""
    return pb.SampleRequest(seed=request.seed).SerializeToString() + fields_of(request)


# A request of a stream: its id, its seed, all its other fields, encoded, and its timeout and trace, which by itself it
# would have as the deadline and the metadata of its call.
Asked = tuple[int, int | None, bytes, float | None, dict[str, str]]


def encoded(requests: Iterable[Asked]) -> Iterator[bytes]:
    """The message of each request."""
    head = pb.SampleRequest()
    serialize, clear = head.SerializeToString, head.Clear  # protobuf takes long to find its methods
    for number, seed, fields, timeout, trace in requests:
        head.id = number
        if seed is not None:
            head.seed = seed
        if timeout is not None:
            head.timeout_seconds = timeout
        if "traceparent" in trace:
            head.trace.traceparent = trace["traceparent"]
            head.trace.tracestate = trace.get("tracestate", "")
        yield serialize() + fields
        clear()


def fields_of(request: SampleRequest) -> bytes:
    """The message of a request but for its seed."""
    logits, asked = request.logits, request.parameters
    start = asked.message
    if start is None:
        start = asked.message = _message(asked).SerializeToString() + _tensor_start(
            asked.source, asked.dtype, asked.logits_shape, logits.nbytes
        )
    data = logits.tobytes() if _LITTLE_ENDIAN else logits.astype(logits.dtype.newbyteorder("<")).tobytes()
    if request.seeds is None:
        return start + data
    return b"".join((pb.SampleRequest(seeds=request.seeds.tolist()).SerializeToString(), start, data))


@lru_cache(256)
def _tensor_start(source: Source, dtype: str, shape: tuple[int, int], nbytes: int) -> bytes:
    """A request's tensor up to its data, which come last."""
    start = pb.Tensor(dtype=_NUMBER_OF_DTYPE[dtype], shape=shape).SerializeToString()
    start += field_start(pb.Tensor, "data", nbytes)
    return field_start(pb.SampleRequest, source, len(start) + nbytes) + start


def _message(asked: Parameters) -> pb.SampleRequest:
    """The message of parameters alone; it says nothing that is so by default."""
    message = pb.SampleRequest(
        mode=_NUMBER_OF_MODE[asked.mode],
        without_replacement=asked.without_replacement,
        top_log_probs=asked.top_log_probs,
    )
    if asked.first_row:
        message.first_row = asked.first_row
    if asked.draws != 1:
        message.draws = asked.draws
    if asked.first_draw is not ZERO:
        message.first_draw.extend(asked.first_draw.tolist())
    if asked.temperature is not ONE:
        message.temperature.extend(asked.temperature.tolist())
    if asked.tau is None:
        message.tau_schedule.CopyFrom(_schedule(asked.tau_schedule))
    elif asked.tau is not ONE:
        message.tau.extend(asked.tau.tolist())
    if asked.top_k is not None:
        message.top_k.extend(asked.top_k.tolist())
    if asked.top_p is not None:
        message.top_p.extend(asked.top_p.tolist())
    if asked.min_p is not None:
        message.min_p.extend(asked.min_p.tolist())
    if asked.outputs is not None:
        message.outputs.extend([getattr(pb, f"OUTPUT_{name.upper()}") for name in asked.outputs])
    if asked.logit_bias is not None:
        items = asked.logit_bias.items()
        message.logit_bias.extend(pb.LogitBias(category=category, bias=amount) for category, amount in items)
    return message


def _schedule(schedule: TauSchedule | None) -> pb.TauSchedule:
    if schedule is None:
        raise errors.InvalidArgument("give tau or tau_schedule", "tau")
    kind = f"KIND_{schedule['kind']}".upper()
    if kind not in pb.TauSchedule.Kind.keys():  # noqa: SIM118 - it is no dict
        raise errors.InvalidArgument(f"has the kind {schedule['kind']!r}", "tau_schedule")
    numbers: dict[str, Any] = {name: value for name, value in schedule.items() if name != "kind"}
    return pb.TauSchedule(kind=kind, **numbers)
