"""The Open Inference Protocol over HTTP: a JSON head, and after it the bytes of the tensors that are binary data."""

import json
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import numpy as np
import orjson

from gumball_server.domain import (
    MAX_COUNT,
    MAX_SEED,
    Array,
    MalformedError,
    SampleRequest,
    SampleResult,
    Source,
    invalid,
)
from gumball_server.wire import oip
from gumball_server.wire.json_form import PARSER_ERRORS, array_json, read_array, refusal


class JsonInput(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An input: its values are in `data`, or follow the head in `binary_data_size` bytes."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)  # empty: absent


class JsonOutput(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An output that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class JsonHead(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The members of a request. The path names the model; clients repeat it here."""

    inputs: list[JsonInput]
    outputs: list[JsonOutput] = []
    parameters: dict[str, Any] = {}
    id: str = ""
    model_name: str = oip.MODEL
    model_version: str | None = ""


_head = msgspec.json.Decoder(JsonHead)
# Of the inputs that have a value a row, by datatype.
_row_values: dict[str, msgspec.json.Decoder[Any]] = {
    "FP64": msgspec.json.Decoder(list[float]),
    "UINT64": msgspec.json.Decoder(list[Annotated[int, msgspec.Meta(ge=0)]]),
    "UINT32": msgspec.json.Decoder(list[Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT - 1)]]),
}


class Inference:
    """One request: `decode` it, then `encode` its answer in the form that it asks for."""

    def __init__(self, body: bytes, head_bytes: int | None) -> None:
        """`head_bytes` is the length of the head, None where it is the whole body."""
        self._body = body
        self._head_bytes = len(body) if head_bytes is None else head_bytes

    def decode(self) -> SampleRequest:
        """The request. Raises SamplingError naming the member at fault."""
        if self._head_bytes > len(self._body):
            raise MalformedError(f"the head has {self._head_bytes} bytes, the body {len(self._body)}")
        head = self._head = _read_head(self._body[: self._head_bytes])
        oip.check_model(head.model_name, head.model_version or "")
        parameters = dict(head.parameters)
        binary = _flag("binary_data_output", parameters.pop("binary_data_output", False))
        self._binary = {output.name: _is_binary(output, binary) for output in head.outputs}
        self._others_binary = binary
        names = [output.name for output in head.outputs]
        return oip.sample_request(self._inputs(), parameters, names)

    def encode(self, result: SampleResult) -> tuple[bytes, int | None]:
        """The body of the answer, and the length of its head where that is not all."""
        outputs, chunks = [], []
        for output, array in oip.answered(result, list(self._binary)).items():
            told: dict[str, Any] = {
                "name": output.value,
                "datatype": oip.datatype_of(output),
                "shape": array.shape,
            }
            if self._binary.get(output, self._others_binary):
                told["parameters"] = {"binary_data_size": array.nbytes}
                chunks.append(array.data)
            else:
                told["data"] = orjson.Fragment(bytes(array_json(array.reshape(-1))))
            outputs.append(told)
        answer: dict[str, Any] = {"model_name": oip.MODEL, "model_version": oip.VERSION}
        if self._head.id:
            answer["id"] = self._head.id
        answer |= {"parameters": oip.answer_parameters(result), "outputs": outputs}
        head = orjson.dumps(answer)
        return b"".join((head, *chunks)), len(head) if chunks else None

    def _inputs(self) -> Iterator[tuple[str, Array]]:
        data = memoryview(self._body)[self._head_bytes :]
        for given in self._head.inputs:
            oip.check_parameters(given.name, given.parameters, ("binary_data_size",))
            size = given.parameters.get("binary_data_size")
            if size is None:
                yield given.name, _from_json(given)
                continue
            if type(size) is not int or not 0 <= size <= len(data):
                raise invalid(given.name, f"binary_data_size is {size!r}, there are {len(data)} bytes left")
            if bytes(given.data):
                raise invalid(given.name, "has both data and binary_data_size")
            yield given.name, oip.from_raw(given.name, given.datatype, given.shape, data[:size])
            data = data[size:]
        if data:
            raise MalformedError(f"{len(data)} bytes are left after the last input")


def _read_head(head: bytes) -> JsonHead:
    try:
        return _head.decode(_standard(head) if b"-Infinity" in head else head)
    except PARSER_ERRORS as error:
        raise refusal(error) from None


def _standard(head: bytes) -> bytes:
    """JSON with null for -Infinity, which is how tritonclient writes what masks."""

    def refuse(name: str) -> None:
        if name != "-Infinity":
            raise MalformedError(f"{name} is no JSON")

    try:
        return json.dumps(json.loads(head, parse_constant=refuse), allow_nan=False).encode()
    except ValueError as error:
        raise MalformedError(str(error)) from None


def _from_json(given: JsonInput) -> Array:
    name = given.name
    dtype = oip.dtype_of(name, given.datatype)
    if not bytes(given.data):
        raise invalid(name, "has no data")
    if dtype.itemsize == 2:
        raise invalid(name, f"{given.datatype} has no form in JSON, must be binary data")
    if name in list(Source):
        return oip.from_values(name, given.shape, read_array(Source(name), given.data))
    try:
        values = np.array(_row_values[given.datatype].decode(given.data), dtype)
    except PARSER_ERRORS as error:
        raise refusal(error, inside=name) from None
    except OverflowError:
        raise invalid(name, f"must be integers from 0 to {MAX_SEED}") from None
    return oip.from_values(name, given.shape, values)


def _is_binary(output: JsonOutput, otherwise: bool) -> bool:
    oip.check_parameters(output.name, output.parameters, ("binary_data",))
    return _flag(f"{output.name}.parameters.binary_data", output.parameters.get("binary_data", otherwise))


def _flag(field: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise invalid(field, f"must be true or false, is {value!r}")
    return value
