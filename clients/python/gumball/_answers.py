"""Protobuf answers read: at length, whoever wrote them and however; and those of a stream at the least cost.

To take a small answer apart field by field costs more than all else that its call does here. So in a stream an answer's
inner messages are left encoded, and what is the same in every answer of a form is compared as bytes. Those that are not
written in this way are read at length.
"""

from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from gumball import contract, errors
from gumball._codec import (
    LITTLE_ENDIAN,
    Array,
    Form,
    OutputArray,
    Parameters,
    Sample,
    SampleRequest,
    Timings,
    malformed_is_invalid,
    sample_of,
)
from gumball.framing import field_start
from gumball.v1 import sampling_pb2 as pb

_NATIVE = {"float32": np.dtype(np.float32), "int32": np.dtype(np.int32)}
_NAME_OF_DTYPE = {pb.DATA_TYPE_FLOAT32: "float32", pb.DATA_TYPE_INT32: "int32"}
_NUMBER_OF_DTYPE = {name: number for number, name in _NAME_OF_DTYPE.items()}


def read_sample(request: SampleRequest, answer: pb.SampleResponse) -> Sample:
    """The sample of an answer. Raises InvalidAnswer."""
    with malformed_is_invalid:
        timings = answer.timings
        return sample_of(
            request,
            contract_name=answer.contract,
            seed=answer.seed if answer.HasField("seed") else None,
            tau=answer.tau[:] or None,
            timings=Timings(timings.queue_ns, timings.compute_ns),
            arrays={array.name: _own(array, getattr(answer, array.name)) for array in request.form.arrays},
        )


def read_response(request: SampleRequest, response: pb.SampleResponse) -> Sample:
    """The sample of a response in a stream. Raises GumballError."""
    if not response.HasField("error"):
        return read_sample(request, response)
    error = response.error
    retry_after = error.retry_after_seconds if error.HasField("retry_after_seconds") else None
    raise errors.of_reason(error.reason, error.detail, error.field, retry_after)


def _own(expected: OutputArray, tensor: pb.Tensor) -> Array:
    """The array of a tensor, in memory of its own. Raises InvalidAnswer where another was asked for."""
    if (dtype := _NAME_OF_DTYPE[tensor.dtype]) != expected.dtype or tensor.shape != list(expected.shape):
        raise errors.InvalidAnswer(f"holds {expected.name} as {dtype} {tuple(tensor.shape)}, not {expected}")
    return expected.of_bytes(tensor.data).astype(_NATIVE[dtype])


def _sealed(*kinds: type[Message]) -> list[type[Any]]:
    """Message types like these, for which inner messages and lists of numbers are bytes, unless they are of `kinds`."""
    file = FileDescriptorProto(name="gumball/sealed.proto", package="gumball.sealed", syntax="proto3")
    names = {f".{kind.DESCRIPTOR.full_name}": f".{file.package}.{kind.DESCRIPTOR.name}" for kind in kinds}
    for kind in kinds:
        kind.DESCRIPTOR.CopyToProto(message := file.message_type.add())
        for field in message.field:
            if field.type_name in names:
                field.type_name = names[field.type_name]
            elif field.type_name or field.label == FieldDescriptorProto.LABEL_REPEATED:
                field.ClearField("type_name")
                field.label, field.type = FieldDescriptorProto.LABEL_OPTIONAL, FieldDescriptorProto.TYPE_BYTES
    (pool := DescriptorPool()).Add(file)
    return [GetMessageClass(pool.FindMessageTypeByName(name[1:])) for name in names.values()]


_, _STREAM_RESPONSE = _sealed(pb.SampleResponse, pb.SampleStreamResponse)


def responses_of(body: bytes) -> Any:
    """The responses of a message of a stream, each with its `id`, to be read by `read_sealed`. Raises DecodeError."""
    return _STREAM_RESPONSE.FromString(body).responses


class _Tensor(NamedTuple):
    """The message of an output's tensor."""

    name: str
    start: bytes  # up to the data, which come last
    nbytes: int  # of it all
    shape: tuple[int, ...]
    dtype: np.dtype[Any]  # of the data
    native: np.dtype[Any]  # of the array


class _Usual(NamedTuple):
    """What is the same in all answers to the same parameters."""

    tau: bytes | None  # None: by the schedule, so it is not known here
    tensors: list[_Tensor]

    @classmethod
    def of(cls, asked: Parameters) -> Self:
        return cls(None if asked.tau is None else asked.tau.astype("<f8").tobytes(), _tensors(asked.form))


@lru_cache(256)  # those of one message are often those of one batch, and the same
def _timings(encoded: bytes) -> Timings:
    told = pb.Timings.FromString(encoded)
    return Timings(told.queue_ns, told.compute_ns)


@lru_cache(256)
def _tensors(form: Form) -> list[_Tensor]:
    tensors = []
    for array in form.arrays:
        start = pb.Tensor(dtype=_NUMBER_OF_DTYPE[array.dtype], shape=array.shape).SerializeToString()
        start += field_start(pb.Tensor, "data", array.nbytes)
        nbytes, dtype = len(start) + array.nbytes, array.dtype
        tensors.append(_Tensor(array.name, start, nbytes, array.shape, LITTLE_ENDIAN[dtype], _NATIVE[dtype]))
    return tensors


def read_sealed(request: SampleRequest, response: Any) -> Sample:
    """The sample of such a response. Raises GumballError."""
    try:
        sample = _usual_sample(request, response)
        return sample or read_response(request, pb.SampleResponse.FromString(response.SerializeToString()))
    except DecodeError as error:
        raise errors.InvalidAnswer(f"not an answer of Gumball: {error!r}") from error


def _usual_sample(request: SampleRequest, response: Any) -> Sample | None:
    """The sample of a response that is as it usually is. Raises DecodeError."""
    asked = request.parameters
    if asked.answer is None:
        asked.answer = _Usual.of(asked)
    tau, tensors = asked.answer
    seed = response.seed or (0 if response.HasField("seed") else None)
    if (
        response.contract != contract.VERSION
        or seed != request.seed
        or asked.tau is None
        or response.tau != tau
        or response.error
    ):
        return None
    arrays: dict[str, Any] = {}
    for name, start, nbytes, shape, dtype, native in tensors:
        tensor = getattr(response, name)
        if len(tensor) != nbytes or not tensor.startswith(start):
            return None
        arrays[name] = np.ndarray(shape, dtype, tensor, len(start)).astype(native)
    timings = _timings(response.timings)
    return Sample(contract.VERSION, seed, request.seeds, asked.tau.copy(), asked.form.shape, timings, asked, **arrays)
