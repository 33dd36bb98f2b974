"""The Open Inference Protocol v2, as its two forms share it: tensors by name and type, and named parameters."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from gumball import contract

from gumball_server import validation
from gumball_server.domain import (
    BFLOAT16,
    INTEGERS,
    PER_DRAW_AND_CATEGORY,
    TOP,
    Array,
    Output,
    Parameters,
    Reason,
    SampleRequest,
    SampleResult,
    SamplingError,
    Source,
    invalid,
    unknown_field,
)
from gumball_server.wire.arrays import to_float32
from gumball_server.wire.binary_form import read_field

MODEL, VERSION = "gumball", "1"

Scalar = bool | int | float | str

_DTYPES: dict[str, np.dtype[Any]] = {
    "FP32": np.dtype("<f4"),
    "FP16": np.dtype("<f2"),
    "BF16": BFLOAT16,
    "FP64": np.dtype("<f8"),
    "UINT64": np.dtype("<u8"),
    "UINT32": np.dtype("<u4"),
}
_NUMBERS = ("FP32", "FP16", "BF16", "FP64")
# Every input with the types that it may have; the first is the one that the metadata tells.
INPUTS: dict[str, tuple[str, ...]] = {
    "logits": _NUMBERS,
    "probs": _NUMBERS,
    "seeds": ("UINT64",),
    "tau": ("FP64",),
    "temperature": ("FP64",),
    "first_draw": ("UINT32",),
    "top_k": ("UINT32",),
    "top_p": ("FP64",),
    "min_p": ("FP64",),
}
_NO_PARAMETERS = ("shape", "dtype", "source", "outputs")  # of the fields of a query string


def check_model(name: str, version: str = "") -> None:
    """Refuse what is not the one model in its one version."""
    if name != MODEL:
        raise SamplingError(Reason.NOT_FOUND, f"there is {MODEL}, and no {name!r}", "model_name")
    if version not in ("", VERSION):
        raise SamplingError(Reason.NOT_FOUND, f"there is {VERSION}, and no {version!r}", "model_version")


def check_parameters(owner: str, parameters: Iterable[str], known: Sequence[str]) -> None:
    """Refuse a parameter of an input or output that is not known."""
    for name in parameters:
        if name not in known:
            raise unknown_field(f"{owner}.parameters.{name}")


def dtype_of(name: str, datatype: str) -> np.dtype[Any]:
    """The type of the values of an input."""
    if name not in INPUTS:
        raise invalid(name, f"unknown input, must be one of {', '.join(INPUTS)}")
    if datatype not in INPUTS[name]:
        raise invalid(name, f"must have datatype {' or '.join(INPUTS[name])}, has {datatype!r}")
    return _DTYPES[datatype]


def from_raw(name: str, datatype: str, shape: Sequence[int], data: bytes | memoryview) -> Array:
    """The input in `data`, row-major little-endian; without a copy where its address allows."""
    dtype = dtype_of(name, datatype)
    needed = _size(name, shape) * dtype.itemsize
    if len(data) != needed:
        raise invalid(name, f"shape {list(shape)} of {datatype} needs {needed} bytes, there are {len(data)}")
    return np.require(np.frombuffer(data, dtype), requirements="A").reshape(shape)


def from_values(name: str, shape: Sequence[int], values: Array) -> Array:
    """The input of these values, which may be flat or shaped already."""
    if values.shape not in ((_size(name, shape),), tuple(shape)):
        raise invalid(name, f"must have shape {list(shape)}, or be flat, has shape {list(values.shape)}")
    return values.reshape(shape)


def sample_request(
    inputs: Iterable[tuple[str, Array]], parameters: Mapping[str, Scalar], outputs: Sequence[str]
) -> SampleRequest:
    """The request in inputs, parameters and the names of the outputs; without names, the mode decides."""
    given = {name: _parameter(name, value) for name, value in parameters.items()}
    for name, array in inputs:
        if name in given:
            raise invalid(name, "is given twice")
        given[name] = array
    sources = [source for source in Source if source in given]
    if len(sources) != 1:
        raise invalid("logits", "is required, or probs, and not both")
    numbers = given.pop(sources[0])
    if numbers.dtype == np.float64:
        numbers = to_float32(sources[0], numbers)
    if "top_log_probs" not in given and (top := [name for name in outputs if name in TOP]):
        raise invalid("outputs", f"{top[0]} goes with the parameter top_log_probs")
    named = [name for name in outputs if name not in TOP] or None
    return validation.sample_request(numbers, Parameters(outputs=named, **given), sources[0])


def answered(result: SampleResult, names: Sequence[str]) -> dict[Output, Array]:
    """The outputs of a result that were asked for, in that order."""
    return {Output(name): result.outputs[Output(name)] for name in names} if names else result.outputs


def answer_parameters(result: SampleResult) -> dict[str, Scalar]:
    """What an answer says beside its outputs. What was given one a row is not given back."""
    request = result.request
    told: dict[str, Scalar] = {"contract": contract.VERSION}
    if request.seed is not None:
        told["seed"] = str(request.seed)  # may pass the int64 of the protocol, and JSON's 2^53
    if isinstance(request.plan.tau, float):
        told["tau"] = request.plan.tau
    return told | {"queue_ns": result.queue_ns, "compute_ns": result.compute_ns}


def datatype_of(output: Output) -> str:
    return "INT32" if output in INTEGERS else "FP32"


def input_dimensions(name: str) -> int:
    return 2 if name in list(Source) else 1


def output_dimensions(output: Output) -> int:
    """Of an output's shape; drawing without replacement adds one to some."""
    if output is Output.ENTROPY:
        return 1
    return 3 if output in PER_DRAW_AND_CATEGORY else 2


def _size(name: str, shape: Sequence[int]) -> int:
    if len(shape) > 2:
        raise invalid(name, f"must have at most 2 dimensions, has {len(shape)}")
    if min(shape, default=1) < 1:
        raise invalid(name, f"has shape {list(shape)}, must have lengths of at least 1")
    return math.prod(shape)


def _parameter(name: str, value: Scalar) -> Any:
    """A parameter, read as in a query string: text is as good as a number, and carries lists and 64 bits."""
    if name in _NO_PARAMETERS:
        raise unknown_field(name)
    return read_field(name, value if isinstance(value, str) else repr(value))
