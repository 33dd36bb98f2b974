"""The Open Inference Protocol over gRPC: messages of the package `inference`."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from gumball_server.domain import Array, SampleRequest, SampleResult, invalid
from gumball_server.wire import oip
from gumball_server.wire.inference import InferParameter, ModelInferResponse

# Where a message has the values of a type that are not raw; the 16-bit types are always raw.
_CONTENTS = {"FP32": "fp32_contents", "FP64": "fp64_contents", "UINT64": "uint64_contents", "UINT32": "uint_contents"}
_PARAMETERS = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
# Parameters that change nothing here. The first asks a stream to mark the last response to a request: each of ours is
# the last, and marked. The others are of HTTP, and KServe's client sends them over gRPC too.
_OF_REQUEST = ("triton_enable_empty_final_response", "binary_data_output")
_OF_INPUT = ("binary_data_size",)
_OF_OUTPUT = ("binary_data",)


def decode(message: Any) -> SampleRequest:
    """The request in a ModelInferRequest. Raises SamplingError naming the input or parameter at fault."""
    oip.check_model(message.model_name, message.model_version)
    for output in message.outputs:
        oip.check_parameters(output.name, output.parameters, _OF_OUTPUT)
    parameters = {name: _scalar(value) for name, value in message.parameters.items() if name not in _OF_REQUEST}
    return oip.sample_request(_inputs(message), parameters, [output.name for output in message.outputs])


def encode(result: SampleResult, message: Any) -> Any:
    """The ModelInferResponse to a ModelInferRequest."""
    outputs = oip.answered(result, [output.name for output in message.outputs])
    return ModelInferResponse(
        model_name=oip.MODEL,
        model_version=oip.VERSION,
        id=message.id,
        parameters={name: _parameter(value) for name, value in oip.answer_parameters(result).items()},
        outputs=[
            {"name": output.value, "datatype": oip.datatype_of(output), "shape": array.shape}
            for output, array in outputs.items()
        ],
        raw_output_contents=[array.tobytes() for array in outputs.values()],
    )


def _inputs(message: Any) -> Iterator[tuple[str, Array]]:
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise invalid(
            "raw_input_contents", f"must have an item for each of {len(message.inputs)} inputs, has {len(raw)}"
        )
    for i, given in enumerate(message.inputs):
        oip.check_parameters(given.name, given.parameters, _OF_INPUT)
        if not raw:
            yield given.name, _from_contents(given)
            continue
        if given.HasField("contents"):
            raise invalid(given.name, "has contents, beside raw_input_contents")
        yield given.name, oip.from_raw(given.name, given.datatype, given.shape, raw[i])


def _from_contents(given: Any) -> Array:
    dtype = oip.dtype_of(given.name, given.datatype)
    if given.datatype not in _CONTENTS:
        raise invalid(given.name, f"{given.datatype} has no contents, must be in raw_input_contents")
    field = _CONTENTS[given.datatype]
    if any(other.name != field for other, _ in given.contents.ListFields()):
        raise invalid(given.name, f"{given.datatype} must be in {field}")
    return oip.from_values(given.name, given.shape, np.array(getattr(given.contents, field), dtype))


def _scalar(parameter: Any) -> oip.Scalar:
    kind = parameter.WhichOneof("parameter_choice")
    value: oip.Scalar = getattr(parameter, kind) if kind else ""
    return value


def _parameter(value: oip.Scalar) -> Any:
    return InferParameter(**{_PARAMETERS[type(value)]: value})
