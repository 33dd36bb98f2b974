"""Binary bodies of `POST /sample`: raw bytes (`application/octet-stream`) and NumPy files (`application/x-npy`).

The parameters are in the query string; an .npz body may carry those that have one value a row as arrays.
"""

import io
import math
import re
import zipfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from gumball import contract
from gumball.seeds import draw_seed

from gumball_server.domain import (
    BFLOAT16,
    INTEGERS,
    MAX_COUNT,
    MAX_SEED,
    Array,
    MalformedError,
    Parameters,
    Plan,
    Reason,
    SampleRequest,
    SampleResult,
    SamplingError,
    Source,
    invalid,
    unknown_field,
)
from gumball_server.validation import check_shape, sample_request
from gumball_server.wire import text
from gumball_server.wire.arrays import LOGITS_DTYPES, from_bytes, to_float32
from gumball_server.wire.json_form import read_schedule

_PER_ROW = ("seeds", "first_draw", "tau", "temperature", "top_k", "top_p", "min_p")
_NPY_VERSIONS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_SEED = re.compile(rb"(?<![^&])seed=([0-9]{1,20})(?:&|$)")
_SHORT_BYTES = 256  # of a query string that is remembered
_NPY_MAGIC, _ZIP_MAGIC = b"\x93NUMPY", b"PK\x03\x04"


def decode_raw(body: bytes, query: bytes) -> SampleRequest:
    """The request in raw logits and a query string with `shape`, `dtype` and the parameters."""
    return _decode_raw_fast(body, query) or _decode_raw(body, query)


def _decode_raw_fast(body: bytes, query: bytes) -> SampleRequest | None:
    """The request of a query that was seen before, but for its seed; None where it has to be judged as a whole."""
    seed, rest = _SEED.search(query), query
    if seed is not None:
        rest = query[: seed.start()] + query[seed.end() :]
        if seed.end() == len(query) and not query.endswith(b"&"):
            rest = rest[:-1]  # what was between it and the one before
    try:
        plan = _known(rest, len(body)) if len(rest) <= _SHORT_BYTES else None
    except SamplingError:
        return None
    if plan is None:
        return None
    logits = np.frombuffer(body, plan.dtype).reshape(plan.rows, plan.categories)
    if seed is None:
        return SampleRequest(logits, draw_seed() if plan.seeds is None else None, plan)
    number = int(seed[1])
    return SampleRequest(logits, number, plan) if plan.seeds is None and number <= MAX_SEED else None


@lru_cache(1 << 10)
def _known(query: bytes, body_bytes: int) -> Plan | None:
    """The plan that a query string without a seed is for a body of so many bytes."""
    given = _read_query(query)
    if "seed" in given or "shape" not in given or "dtype" not in given:
        return None
    shape, dtype, source = given.pop("shape"), given.pop("dtype"), given.pop("source", Source.LOGITS)
    if math.prod(shape) * dtype.itemsize != body_bytes:
        return None
    return sample_request(from_bytes(source, bytes(body_bytes), shape, dtype), Parameters(**given), source).plan


def _decode_raw(body: bytes, query: bytes) -> SampleRequest:
    given = _read_query(query)
    try:
        shape, dtype = given.pop("shape"), given.pop("dtype")
    except KeyError as missing:
        raise invalid(missing.args[0], "is required with a body of application/octet-stream") from None
    source = given.pop("source", Source.LOGITS)
    return sample_request(from_bytes(source, body, shape, dtype), Parameters(**given), source)


def decode_npy(body: bytes, query: bytes, max_bytes: int) -> SampleRequest:
    """The request in an .npy or .npz file (of at most `max_bytes` unpacked) and a query string."""
    given = _read_query(query)
    for field in ("shape", "dtype"):
        if field in given:
            raise invalid(field, "the .npy body has its own")
    if not body.startswith(_ZIP_MAGIC):
        source = given.pop("source", Source.LOGITS)
        return sample_request(_floats(source, _read_npy(source, body)), Parameters(**given), source)
    arrays = _read_npz(body, max_bytes)
    for field in arrays.keys() & given.keys():
        raise invalid(field, "is both in the query string and in the .npz body")
    if "source" in given:
        raise invalid("source", "the .npz body names its logits or probs")
    sources = [source for source in Source if source in arrays]
    if len(sources) != 1:
        raise invalid("logits", "is required, or probs, and not both")
    logits = _floats(sources[0], arrays.pop(sources[0]))
    return sample_request(logits, Parameters(**given, **arrays), sources[0])


def encode_raw(result: SampleResult) -> tuple[bytes, dict[str, str]]:
    """The outputs' bytes one after another, and the headers that describe them."""
    memo = result.request.plan.memo
    described: str = memo.get("raw") or memo.setdefault("raw", _description(result.request.plan))
    headers = _headers(result) | {"gumball-outputs": described}
    return b"".join(result.outputs.values()), headers  # type: ignore[arg-type] # arrays are buffers


def _description(plan: Plan) -> str:
    described = [
        f'{{"name":"{output}","dtype":"{"int32" if output in INTEGERS else "float32"}","shape":{list(shape)}}}'
        for output, shape in plan.layout.shapes.items()
    ]
    return f"[{','.join(described)}]"


def encode_npy(result: SampleResult) -> tuple[bytes, dict[str, str]]:
    """One output as an .npy file, several as an .npz file, and the headers with the rest of the answer."""
    file = io.BytesIO()
    if len(result.outputs) == 1:
        (array,) = result.outputs.values()
        np.save(file, array)
    else:
        np.savez(file, allow_pickle=False, **{output.value: array for output, array in result.outputs.items()})
    return file.getvalue(), _headers(result)


def read_field(name: str, value: str) -> Any:
    """A field as a query string has it."""
    if name not in _READ:
        raise unknown_field(name)
    try:
        return _READ[name](value)
    except ValueError as error:
        raise invalid(name, str(error)) from None


def _headers(result: SampleResult) -> dict[str, str]:
    request = result.request
    headers = {
        "gumball-contract": contract.VERSION,
        "gumball-queue-ns": str(result.queue_ns),
        "gumball-compute-ns": str(result.compute_ns),
    }
    # What was given a row is not given back: it may be too much for headers.
    if request.seed is not None:
        headers["gumball-seed"] = str(request.seed)
    if isinstance(request.plan.tau, float):
        headers["gumball-tau"] = repr(request.plan.tau)
    return headers


def _list_of(read: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda items: [read(item) for item in items.split(",")]


def _shape(items: str) -> tuple[int, ...]:
    return tuple(text.integer(item) for item in items.split(","))


def _dtype(name: str) -> np.dtype[Any]:
    if name not in LOGITS_DTYPES:
        raise ValueError(f"must be one of {', '.join(LOGITS_DTYPES)}, is {name!r}")
    return LOGITS_DTYPES[name]


def _source(name: str) -> Source:
    if name not in list(Source):
        raise ValueError(f"must be logits or probs, is {name!r}")
    return Source(name)


def _bias(items: str) -> dict[int, float | None]:
    """5:1.5,7:null"""
    bias: dict[int, float | None] = {}
    for item in items.split(","):
        category, _, amount = item.partition(":")
        if (number := text.integer(category)) in bias:
            raise ValueError(f"names category {number} twice")
        bias[number] = None if amount == "null" else text.number(amount)
    return bias


_READ: Mapping[str, Callable[[str], Any]] = {
    "shape": _shape,
    "dtype": _dtype,
    "source": _source,
    "mode": str,
    "outputs": _list_of(str),
    "seed": text.integer,
    "seeds": _list_of(text.integer),
    "draws": text.integer,
    "first_row": text.integer,
    "first_draw": _list_of(text.integer),
    "tau": _list_of(text.number),
    "tau_schedule": read_schedule,
    "temperature": _list_of(text.number),
    "top_k": _list_of(text.integer),
    "top_p": _list_of(text.number),
    "min_p": _list_of(text.number),
    "logit_bias": _bias,
    "without_replacement": text.integer,
    "top_log_probs": text.integer,
}
QUERY_FIELDS = tuple(_READ)
if _READ.keys() - {"shape", "dtype", "source"} != set(Parameters._fields):
    raise AssertionError("every parameter must be readable from a query string")


def _read_query(query: bytes) -> dict[str, Any]:
    given: dict[str, Any] = {}
    try:
        pairs = _pairs(query.decode("ascii"))
    except ValueError:
        raise MalformedError("the query string does not parse") from None
    for name, value in pairs:
        if name in given:
            raise invalid(name, "is given twice")
        given[name] = read_field(name, value)
    return given


def _pairs(query: str) -> list[tuple[str, str]]:
    """The pairs of a query string, in order. Raises ValueError."""
    if not query or "%" in query or "+" in query or ";" in query:
        return parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    pairs = [pair.split("=", 1) for pair in query.split("&")]  # a third of the time that parse_qsl takes
    return [(name, value) for name, value in pairs]


def _read_npz(body: bytes, max_bytes: int) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            _check_unpacked_size(archive, max_bytes)
            members = [(member.filename.removesuffix(".npy"), archive.read(member)) for member in archive.infolist()]
    except SamplingError:
        raise
    except Exception as error:  # zipfile raises a dozen kinds on what is no .npz file
        raise MalformedError(f"the .npz file does not parse: {error}") from None
    for name, data in members:
        if name not in (*Source, *_PER_ROW):
            raise unknown_field(name)
        if name in arrays:
            raise invalid(name, "is given twice")
        arrays[name] = _read_npy(name, data)
    return arrays


def _check_unpacked_size(archive: zipfile.ZipFile, max_bytes: int) -> None:
    if sum(member.file_size for member in archive.infolist()) > max_bytes:
        raise SamplingError(Reason.TOO_LARGE, f"unpacks to more than {max_bytes} bytes", "logits")


def _read_npy(name: str, data: bytes) -> Array:
    """The array in an .npy file. Its size is checked before anything of that size is made."""
    shape, fortran_order, dtype, start = _read_npy_header(name, data)
    if name in list(Source):
        check_shape(name, shape)
    elif len(shape) > 1 or math.prod(shape) > MAX_COUNT:
        raise invalid(name, f"must have one value a row, has shape {list(shape)}")
    values, needed = memoryview(data)[start:], math.prod(shape) * dtype.itemsize
    if len(values) != needed:
        raise invalid(name, f"shape {list(shape)} of {dtype} needs {needed} bytes, there are {len(values)}")
    return np.frombuffer(values, dtype).reshape(shape, order="F" if fortran_order else "C")


def _read_npy_header(name: str, data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, order, dtype, and where the values start."""
    if not data.startswith(_NPY_MAGIC):
        raise MalformedError("is not an .npy file", name)
    version = (*data[6:8],)
    if version not in _NPY_VERSIONS:
        raise MalformedError(f"has version {version} of the .npy format, must have (1, 0) or (2, 0)", name)
    file = io.BytesIO(data)
    file.seek(len(_NPY_MAGIC) + len(version))
    try:
        shape, fortran_order, dtype = _NPY_VERSIONS[version](file)
    except Exception as error:  # NumPy evaluates the header, and raises whatever that raises
        raise MalformedError(f"the .npy header does not parse: {error}", name) from None
    if not all(type(length) is int and length >= 0 for length in shape):
        raise MalformedError(f"the .npy header has the shape {shape}", name)
    if dtype.hasobject or dtype.itemsize == 0 or dtype.subdtype is not None:
        raise invalid(name, f"has dtype {dtype}, must hold numbers")
    return shape, fortran_order, dtype, file.tell()


def _floats(field: str, values: Array) -> Array:
    if values.dtype.kind == "V" and values.dtype.itemsize == 2 and values.dtype.fields is None:
        return values.view(BFLOAT16)  # how a bfloat16 array is saved
    if values.dtype.kind != "f" or values.dtype.itemsize not in (2, 4, 8):
        raise invalid(field, f"has dtype {values.dtype}, must be float32, float16, bfloat16 or float64")
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    return to_float32(field, values) if values.dtype.itemsize == 8 else values
