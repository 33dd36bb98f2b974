"""Every kind of bad input gets its reason, its field and its status, on both transports, and harms nothing else."""

import io
import json
import math
import pickle
import struct
import zipfile
from collections.abc import Iterator
from typing import NamedTuple

import grpc
import httpx
import numpy as np
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from gumball import contract
from gumball.v1 import sampling_pb2 as pb
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

JSON, RAW, NPY = "application/json", "application/octet-stream", "application/x-npy"
DTYPES = {"float32": pb.DATA_TYPE_FLOAT32, "float16": pb.DATA_TYPE_FLOAT16, "bfloat16": pb.DATA_TYPE_BFLOAT16}
METHOD = "/gumball.v1.SamplingService/Sample"
MEBIBYTE = 1 << 20

LOGITS = np.array([[0.5, -1.0, 2.0], [1.0, 0.0, -2.0]], np.float32)


class Refusal(NamedTuple):
    """What a refused caller is told, without the words."""

    status: int | str
    reason: str
    field: str


INVALID = {"json": 422, "query": 422, "npy": 422, "grpc": "INVALID_ARGUMENT"}


def invalid(way: str, field: str) -> Refusal:
    return Refusal(INVALID[way], "INVALID_ARGUMENT", field)


@pytest.fixture(scope="module")
def http(server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.http, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def call(grpc_server):
    """The method Sample, from bytes to bytes."""
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(grpc_server.addresses["grpc"], options) as channel:
        yield channel.unary_unary(METHOD)


def refusal_of(response: httpx.Response) -> Refusal:
    """The refusal in an HTTP answer, which must have the one form that all refusals have."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    problem = response.json()
    assert problem.keys() - {"field"} == {"type", "title", "status", "detail", "reason"}
    assert problem["status"] == response.status_code
    assert problem["type"] == f"urn:gumball:error:{problem['reason'].lower()}"
    assert problem["detail"]
    assert problem["detail"].startswith(problem.get("field", ""))
    return Refusal(problem["status"], problem["reason"], problem.get("field", ""))


def refusal_by(call, body: bytes) -> Refusal:
    """The refusal of a gRPC call, which must carry its details for programs."""
    with pytest.raises(grpc.RpcError) as raised:
        call(body, timeout=60)
    return refusal_in(raised.value)


def refusal_in(error: grpc.RpcError) -> Refusal:
    status = Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "gumball"
    assert error.details().startswith(info.metadata["field"])
    return Refusal(error.code().name, info.reason, info.metadata["field"])


def post(http: httpx.Client, body: bytes, content_type: str, query: str = "", **headers: str) -> httpx.Response:
    headers = {name.replace("_", "-"): value for name, value in headers.items()} | {"content-type": content_type}
    return http.post("/sample" + (query and f"?{query}"), content=body, headers=headers)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy_with_header(header: str, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    text = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(text)) + text + data


def described(descr: str, shape: str) -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"


def query_of(parameters: dict) -> str:
    def text(name: str, value) -> str:
        if name == "logit_bias":
            return ",".join(f"{category}:{bias}" for category, bias in value.items())
        if isinstance(value, dict):
            return json.dumps(value)
        return ",".join(map(str, value)) if isinstance(value, list) else str(value)

    return str(httpx.QueryParams({name: text(name, value) for name, value in parameters.items()}))


def message_of(parameters: dict, logits: np.ndarray = LOGITS) -> pb.SampleRequest:
    """A message with these parameters under their names in the interface."""
    message = pb.SampleRequest(logits=pb.Tensor(dtype="DATA_TYPE_FLOAT32", shape=logits.shape, data=logits.tobytes()))
    for name, value in parameters.items():
        if name == "mode":
            message.mode = pb.Mode.Value(f"MODE_{value.upper()}")
        elif name == "outputs":
            message.outputs.extend(pb.Output.Value(f"OUTPUT_{output.upper()}") for output in value)
        elif name == "logit_bias":
            message.logit_bias.extend(pb.LogitBias(category=int(k), bias=bias) for k, bias in value.items())
        elif name == "tau_schedule":
            kind = f"KIND_{value['kind'].upper()}"
            message.tau_schedule.CopyFrom(pb.TauSchedule(**value | {"kind": kind}))
        elif name in ("seeds", "first_draw", "tau", "temperature", "top_k", "top_p", "min_p"):
            getattr(message, name).extend(value if isinstance(value, list) else [value])
        else:
            setattr(message, name, value)
    return message


def refuse(way: str, http: httpx.Client, call, parameters: dict) -> Refusal:
    """The refusal of good logits with these parameters, sent in one of the ways there are."""
    if way == "json":
        return refusal_of(http.post("/sample", json={"logits": LOGITS.tolist()} | parameters))
    if way == "query":
        return refusal_of(post(http, LOGITS.tobytes(), RAW, f"shape=2,3&dtype=float32&{query_of(parameters)}"))
    if way == "npy":
        return refusal_of(post(http, npy(LOGITS), NPY, query_of(parameters)))
    return refusal_by(call, message_of(parameters).SerializeToString())


# Parameters.

EVERYWHERE = ("json", "query", "npy", "grpc")
NOT_IN_JSON = ("query", "npy", "grpc")  # JSON has no NaN and no infinity
ONLY_AS_TEXT = ("json", "query", "npy")  # protobuf's types cannot say it

WRONG_PARAMETERS = [
    *(({name: value}, name, EVERYWHERE) for name in ("tau", "temperature") for value in (-1.0, 2.0**41, 2.0**-41)),
    *(({name: v}, name, NOT_IN_JSON) for name in ("tau", "temperature") for v in (math.nan, math.inf, -math.inf)),
    ({"tau": 0.0}, "tau", EVERYWHERE),
    ({"tau": [1.0, 0.0]}, "tau[1]", EVERYWHERE),
    ({"temperature": [1.0, -1.0]}, "temperature[1]", EVERYWHERE),
    ({"tau": [1.0, 1.0, 1.0]}, "tau", EVERYWHERE),
    ({"temperature": [1.0, 1.0, 1.0]}, "temperature", EVERYWHERE),
    ({"temperature": 0.0, "mode": "soft"}, "temperature", EVERYWHERE),
    ({"temperature": 0.0, "mode": "straight_through"}, "temperature", EVERYWHERE),
    ({"temperature": [1.0, 0.0], "outputs": ["index", "soft"]}, "temperature", EVERYWHERE),
    ({"draws": 0}, "draws", EVERYWHERE),
    ({"draws": 2**32 + 1}, "draws", EVERYWHERE),
    ({"draws": 2**63}, "draws", EVERYWHERE),
    ({"draws": -1}, "draws", ONLY_AS_TEXT),
    ({"draws": 1.5}, "draws", ONLY_AS_TEXT),
    ({"draws": 2, "first_draw": 2**32 - 1}, "first_draw", EVERYWHERE),
    ({"draws": 2, "first_draw": [0, 2**32 - 1]}, "first_draw", EVERYWHERE),
    ({"draws": 2**32, "first_draw": 1}, "first_draw", EVERYWHERE),
    ({"first_draw": 2**32}, "first_draw", ONLY_AS_TEXT),
    ({"first_draw": -1}, "first_draw", ONLY_AS_TEXT),
    ({"first_draw": [0, 0, 0]}, "first_draw", EVERYWHERE),
    ({"first_row": 2**32 - 1}, "first_row", EVERYWHERE),
    ({"first_row": 2**32}, "first_row", ONLY_AS_TEXT),
    ({"first_row": -1}, "first_row", ONLY_AS_TEXT),
    ({"seed": 2**64}, "seed", ONLY_AS_TEXT),
    ({"seed": -1}, "seed", ONLY_AS_TEXT),
    ({"seed": 1.5}, "seed", ONLY_AS_TEXT),
    ({"seed": 1.0}, "seed", ONLY_AS_TEXT),
    ({"seed": "7" * 10_000}, "seed", ONLY_AS_TEXT),
    ({"seed": "0x7"}, "seed", ONLY_AS_TEXT),
    ({"seed": "\u0667"}, "seed", ONLY_AS_TEXT),
    ({"seed": ""}, "seed", ONLY_AS_TEXT),
    ({"seeds": [0, 2**64]}, "seeds", ONLY_AS_TEXT),
    ({"seed": 1, "seeds": [1, 2]}, "seeds", EVERYWHERE),
    ({"seeds": [1, 2], "first_row": 1}, "first_row", EVERYWHERE),
    ({"seeds": [1]}, "seeds", EVERYWHERE),
    ({"seeds": [1, 2, 3]}, "seeds", EVERYWHERE),
    ({"mode": "gumbel"}, "mode", ONLY_AS_TEXT),
    ({"mode": ""}, "mode", ONLY_AS_TEXT),
    ({"outputs": ["index", "nonsense"]}, "outputs", ONLY_AS_TEXT),
    ({"outputs": ["index", "index"]}, "outputs", EVERYWHERE),
    ({"outputs": ["top_index"]}, "outputs", ONLY_AS_TEXT),
    *(({"temperature": 0.0, "outputs": [name]}, "temperature", EVERYWHERE) for name in ("log_soft", "score")),
    *(({"top_k": value}, "top_k", EVERYWHERE) for value in (0, [1, 1, 1])),
    *(({"top_k": value}, "top_k", ONLY_AS_TEXT) for value in (-1, 2**32, 1.5)),
    ({"top_k": [1, 0]}, "top_k[1]", EVERYWHERE),
    *(({"top_p": value}, "top_p", EVERYWHERE) for value in (0.0, -0.1, 1.1, [0.5, 0.5, 0.5])),
    ({"top_p": [0.5, 0.0]}, "top_p[1]", EVERYWHERE),
    *(({"min_p": value}, "min_p", EVERYWHERE) for value in (-0.1, 1.1, [0.5, 0.5, 0.5])),
    ({"min_p": math.nan}, "min_p", NOT_IN_JSON),
    ({"without_replacement": 0}, "without_replacement", EVERYWHERE),
    ({"without_replacement": 4}, "without_replacement", EVERYWHERE),
    ({"without_replacement": 2, "outputs": ["one_hot"]}, "without_replacement", EVERYWHERE),
    ({"without_replacement": -1}, "without_replacement", ONLY_AS_TEXT),
    ({"top_log_probs": 0}, "top_log_probs", EVERYWHERE),
    ({"top_log_probs": 4}, "top_log_probs", EVERYWHERE),
    ({"logit_bias": {"3": 1.0}}, "logit_bias[3]", EVERYWHERE),
    ({"logit_bias": {"0": 1e39}}, "logit_bias[0]", EVERYWHERE),
    ({"logit_bias": {"0": math.inf}}, "logit_bias[0]", ("grpc",)),
    ({"logit_bias": {"x": 1.0}}, "logit_bias", ONLY_AS_TEXT),
    ({"tau_schedule": {"kind": "sudden", "initial": 1.0}}, "tau_schedule", ONLY_AS_TEXT),
    ({"tau_schedule": {"kind": "constant", "initial": 0.0}}, "tau_schedule", EVERYWHERE),
    ({"tau_schedule": {"kind": "linear", "initial": 1.0, "rate": -1.0}}, "tau_schedule", EVERYWHERE),
    ({"tau_schedule": {"kind": "constant", "initial": 1.0}, "tau": 1.0}, "tau_schedule", EVERYWHERE),
    ({"nonsense": 1}, "nonsense", ONLY_AS_TEXT),
    ({"Seed": 1}, "Seed", ONLY_AS_TEXT),
    ({"tau": "1_0"}, "tau", ("query", "npy")),
    ({"tau": ""}, "tau", ("query", "npy")),
    ({"tau": "1,"}, "tau", ("query", "npy")),
]


@pytest.mark.parametrize(
    ("way", "parameters", "field"),
    [
        pytest.param(way, parameters, field, id=f"{way}-{json.dumps(parameters)[:60]}")
        for parameters, field, ways in WRONG_PARAMETERS
        for way in ways
    ],
)
def test_a_wrong_parameter_is_refused_by_name(http, call, way, parameters, field):
    """Every parameter has a range, and whoever leaves it is told which parameter it was."""
    assert refuse(way, http, call, parameters) == invalid(way, field)


def test_logits_and_probs_are_not_given_together(http, call):
    """One of them, and exactly one."""
    both = {"logits": LOGITS.tolist(), "probs": LOGITS.tolist()}
    assert refusal_of(http.post("/sample", json=both)) == invalid("json", "probs")
    assert refusal_of(http.post("/sample", json={})) == invalid("json", "logits")
    assert refusal_of(post(http, npz(logits=LOGITS, probs=LOGITS), NPY)) == invalid("npy", "logits")
    message = message_of({})
    message.probs.CopyFrom(message.logits)
    assert refusal_by(call, message.SerializeToString()) == invalid("grpc", "probs")


WRONG_PROBS = [(-0.5, "probs[0][1]"), (math.nan, "probs[0][1]"), (math.inf, "probs[0][1]"), (0.0, "probs[0]")]


@pytest.mark.parametrize(("value", "field"), WRONG_PROBS, ids=[str(value) for value, _ in WRONG_PROBS])
def test_weights_that_are_no_weights_are_refused(http, call, value, field):
    """Negative, NaN, infinite, or nothing but zeros."""
    probs = np.array([[0.0, value]], np.float32)
    raw = post(http, probs.tobytes(), RAW, "shape=1,2&dtype=float32&source=probs")
    assert refusal_of(raw) == invalid("query", field)
    message = pb.SampleRequest(probs=pb.Tensor(dtype="DATA_TYPE_FLOAT32", shape=[1, 2], data=probs.tobytes()))
    assert refusal_by(call, message.SerializeToString()) == invalid("grpc", field)
    if math.isfinite(value):
        assert refusal_of(http.post("/sample", json={"probs": probs.tolist()})) == invalid("json", field)


def test_a_bias_that_leaves_nothing_or_too_much_is_refused(http):
    """Every category masked, or a logit that overflows."""
    masked = {"logits": [[0.0, 1.0]], "logit_bias": {"0": None, "1": None}}
    assert refusal_of(http.post("/sample", json=masked)) == invalid("json", "logits[0]")
    infinite = {"logits": [[0.0, 3e38]], "logit_bias": {"1": 3e38}}
    assert refusal_of(http.post("/sample", json=infinite)) == invalid("json", "logit_bias")


def test_more_distinct_categories_than_are_left_are_refused(http):
    """Masked by the logits, by a filter, or by temperature 0."""
    for parameters in ({"top_k": 1}, {"temperature": 0, "outputs": ["index"]}, {"logit_bias": {"0": None, "1": None}}):
        body = {"logits": [[0.0, 1.0, 2.0]], "without_replacement": 2} | parameters
        assert refusal_of(http.post("/sample", json=body)) == invalid("json", "without_replacement")


# Logits.

TIES = np.zeros((4, 3))
WRONG_VALUES = [
    ("NaN", {(2, 1): math.nan}, "logits[2][1]"),
    ("negative NaN", {(2, 1): -math.nan}, "logits[2][1]"),
    ("+inf", {(2, 1): math.inf}, "logits[2][1]"),
    ("nothing but -inf", {2: -math.inf}, "logits[2]"),
    ("NaN in the first row", {(0, 0): math.nan}, "logits[0][0]"),
    ("two bad rows", {(1, 2): math.inf, (3, 0): math.nan}, "logits[1][2]"),
    ("NaN beside -inf", {2: -math.inf, (2, 2): math.nan}, "logits[2][2]"),
]


def as_bytes(values: np.ndarray, dtype: str) -> np.ndarray:
    """The values in a dtype of the wire; bfloat16 as the upper halves of float32."""
    if dtype == "bfloat16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype("<u2")
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("wrong", "field"), [pytest.param(*case[1:], id=case[0]) for case in WRONG_VALUES])
def test_a_bad_row_among_good_ones_is_named(http, call, wrong, field, dtype):
    """Logits that no sample can be drawn from are refused with the row, and the category where one is at fault."""
    values = TIES.copy()
    for place, value in wrong.items():
        values[place] = value
    logits = as_bytes(values, dtype)
    tensor = pb.Tensor(dtype=DTYPES[dtype], shape=logits.shape, data=logits.tobytes())
    assert refusal_of(post(http, logits.tobytes(), RAW, f"shape=4,3&dtype={dtype}")) == invalid("query", field)
    assert refusal_of(post(http, npy(logits.view("V2") if dtype == "bfloat16" else logits), NPY)).field == field
    assert refusal_by(call, pb.SampleRequest(logits=tensor).SerializeToString()) == invalid("grpc", field)


@pytest.mark.parametrize(
    ("value", "field"), [(math.nan, "logits[77][5]"), (math.inf, "logits[77][5]"), (-math.inf, "logits[77]")]
)
def test_a_bad_row_of_a_large_request_is_named(http, value, field):
    """The row is found as well where a batch is shared by several threads."""
    logits = np.zeros((200, 4096), np.float32)
    logits[77, 5:] = value
    if value == -math.inf:
        logits[77] = value
    assert refusal_of(post(http, npy(logits), NPY)) == invalid("npy", field)


def test_float64_beyond_float32_is_refused_rather_than_made_infinite(http):
    """A finite number never turns into a mask or an infinity."""
    assert refusal_of(post(http, npy(np.array([[0, -1e39]])), NPY)) == invalid("npy", "logits[0][1]")


SHAPES = [
    ("three dimensions", "1,1,3", 12, "logits"),
    ("65 dimensions", ",".join(["1"] * 65), 4, "logits"),
    ("no rows", "0,3", 0, "logits"),
    ("no categories", "3,0", 0, "logits"),
    ("neither", "0,0", 0, "logits"),
    ("one byte too few", "2,3", 23, "logits"),
    ("one byte too many", "2,3", 25, "logits"),
    ("no bytes", "2,3", 0, "logits"),
    ("a product past 64 bits", f"{2**62},{2**62}", 12, "logits"),
    ("a product that wraps to the size", f"{2**62},4", 0, "logits"),
    ("an absurd empty product", f"{2**62},4,0", 0, "logits"),
    ("absurdly many rows of nothing", f"{2**62},0", 0, "logits"),
    ("absurdly many categories of no row", f"0,{2**62}", 0, "logits"),
    ("too many categories", f"1,{2**22 + 1}", 4 * (2**22 + 1), "logits"),
]


@pytest.mark.parametrize(("shape", "size", "field"), [pytest.param(*case[1:], id=case[0]) for case in SHAPES])
def test_a_wrong_shape_is_refused(http, call, shape, size, field):
    """Whatever shape is claimed, it must be rows and categories within bounds, and have as many bytes as came."""
    lengths = [int(length) for length in shape.split(",")]
    tensor = pb.Tensor(dtype="DATA_TYPE_FLOAT32", shape=lengths, data=bytes(size))
    header = described("'<f4'", str(tuple(lengths)))
    assert refusal_of(post(http, bytes(size), RAW, f"shape={shape}&dtype=float32")) == invalid("query", field)
    assert refusal_by(call, pb.SampleRequest(logits=tensor).SerializeToString()) == invalid("grpc", field)
    assert refusal_of(post(http, npy_with_header(header, bytes(size)), NPY)) == invalid("npy", field)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        pytest.param(pb.SampleRequest(), "logits", id="nothing"),
        pytest.param(pb.SampleRequest(seed=1), "logits", id="no logits"),
        pytest.param(pb.SampleRequest(logits=pb.Tensor(shape=[1], data=bytes(4))), "logits.dtype", id="no dtype"),
        pytest.param(pb.SampleRequest(logits=pb.Tensor(dtype=4, shape=[1], data=bytes(4))), "logits.dtype", id="int32"),
        pytest.param(pb.SampleRequest(logits=pb.Tensor(dtype=99, shape=[1], data=bytes(4))), "logits.dtype", id="99"),
        pytest.param(pb.SampleRequest(logits=pb.Tensor(dtype=1, data=bytes(4))), "logits", id="no shape"),
        pytest.param(
            pb.SampleRequest(logits=pb.Tensor(dtype=1, shape=[-1, -3], data=bytes(12))), "logits.shape", id="negative"
        ),
        pytest.param(message_of({}), None, id="good"),
    ],
)
def test_a_message_without_usable_logits_is_refused(call, message, field):
    """The tensor's own members are named by their path."""
    if field is None:
        assert call(message.SerializeToString())
    else:
        assert refusal_by(call, message.SerializeToString()) == invalid("grpc", field)


@pytest.mark.parametrize(
    ("added", "field"),
    [
        pytest.param(pb.SampleRequest(mode=9), "mode", id="mode 9"),
        pytest.param(pb.SampleRequest(mode=-1), "mode", id="mode -1"),
        pytest.param(pb.SampleRequest(outputs=[0]), "outputs", id="output 0"),
        pytest.param(pb.SampleRequest(outputs=[1, 99]), "outputs", id="output 99"),
        pytest.param(b"\xa0\x06\x01", "100", id="field 100"),
        pytest.param(b"\x12\x03\xa0\x06\x01", "logits.100", id="field 100 of the tensor"),
    ],
)
def test_numbers_that_the_protobuf_schema_lacks_are_refused(call, added, field):
    """A field or enumerator of a newer schema is named by its number, not skipped."""
    more = added if isinstance(added, bytes) else added.SerializeToString()
    assert refusal_by(call, message_of({}).SerializeToString() + more) == invalid("grpc", field)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\xff" * 32, id="garbage"),
        pytest.param(message_of({}).SerializeToString()[:-1], id="cut off"),
        pytest.param(b"\xa3\x06" * 100_000, id="100,000 groups deep"),
        pytest.param(b'{"logits": [[0, 1]]}', id="JSON"),
    ],
)
def test_bytes_that_are_no_message_are_refused(call, body):
    """A client with other stubs, or none, is told so."""
    assert refusal_by(call, body) == Refusal("INVALID_ARGUMENT", "INVALID_ARGUMENT", "")


# JSON bodies.

DEEP = b"[" * 100_000 + b"]" * 100_000
BAD_JSON = [
    ("nothing", b"", 400, ""),
    ("white space", b" ", 400, ""),
    ("not JSON", b"logits", 400, ""),
    ("cut off", b'{"logits": [[0, 1', 400, None),
    ("something after it", b'{"logits": [[0, 1]]} 1', 400, ""),
    ("invalid UTF-8", b'{"logits": [[0, 1]], "mode": "\xff"}', 400, None),
    ("half a surrogate pair", b'{"logits": [[0, 1]], "mode": "\\ud800"}', 400, None),
    ("NaN", b'{"logits": [[0, NaN]]}', 400, None),
    ("Infinity", b'{"logits": [[0, Infinity]]}', 400, None),
    ("tau NaN", b'{"logits": [[0, 1]], "tau": NaN}', 400, None),
    ("a list", b"[[0, 1]]", 422, ""),
    ("null", b"null", 422, ""),
    ("a string", b'"logits"', 422, ""),
    ("only brackets", b"[" * 100_000, None, ""),
    ("deep logits", b'{"logits": ' + DEEP + b"}", None, None),
    ("deep tau", b'{"logits": [[0, 1]], "tau": ' + DEEP + b"}", None, None),
    ("deep unknown member", b'{"x": ' + DEEP + b"}", None, None),
    ("deep objects", b'{"logits":' * 100_000, None, None),
    ("no logits", b"{}", 422, "logits"),
    ("logits null", b'{"logits": null}', 422, "logits"),
    ("logits a number", b'{"logits": 1}', 422, "logits"),
    ("logits a string", b'{"logits": "0,1"}', 422, "logits"),
    ("no rows", b'{"logits": []}', 422, "logits"),
    ("no categories", b'{"logits": [[], []]}', 422, "logits"),
    ("three dimensions", b'{"logits": [[[0, 1]]]}', 422, "logits[0][0]"),
    ("ragged", b'{"logits": [[0, 1], [0, 1], [0]]}', 422, "logits[2]"),
    ("ragged, longer", b'{"logits": [[0, 1], [0, 1, 2]]}', 422, "logits[1]"),
    ("ragged, empty", b'{"logits": [[0, 1], []]}', 422, "logits[1]"),
    ("a row that is null", b'{"logits": [[0, 1], null]}', 422, "logits[1]"),
    ("a row that is a number", b'{"logits": [[0, 1], 2]}', 422, "logits[1]"),
    ("a number as text", b'{"logits": [[0, "1"]]}', 422, "logits[0][1]"),
    ("a boolean", b'{"logits": [[0, true]]}', 422, "logits[0][1]"),
    ("a row of null", b'{"logits": [[0, 1], [null, null]]}', 422, "logits[1]"),
    ("only null", b'{"logits": [null]}', 422, "logits[0]"),
    ("beyond float32", b'{"logits": [[0, 1e39]]}', 422, "logits[0][1]"),
    ("beyond float32, negative", b'{"logits": [[0, 1], [0, -1e39]]}', 422, "logits[1][1]"),
    ("beyond float32 in one row", b'{"logits": [0, 1e39]}', 422, None),
    ("beyond float64", b'{"logits": [[1e400, 0]]}', 422, "logits[0][0]"),
    ("beyond float64, negative", b'{"logits": [[-1e400, 0]]}', 422, "logits[0][0]"),
    ("10,000 digits", b'{"logits": [[0, ' + b"7" * 10_000 + b"]]}", 422, "logits[0][1]"),
    ("a seed of 10,000 digits", b'{"logits": [[0, 1]], "seed": ' + b"7" * 10_000 + b"}", 422, "seed"),
    ("draws of 10,000 digits", b'{"logits": [[0, 1]], "draws": ' + b"7" * 10_000 + b"}", 422, "draws"),
    ("tau of 10,000 digits", b'{"logits": [[0, 1]], "tau": ' + b"7" * 10_000 + b"}", 422, "tau"),
    ("tau beyond float64", b'{"logits": [[0, 1]], "tau": 1e400}', 422, "tau"),
    ("tau as text", b'{"logits": [[0, 1]], "tau": "1"}', 422, "tau"),
    ("no tau", b'{"logits": [[0, 1]], "tau": []}', 422, "tau"),
    ("seed true", b'{"logits": [[0, 1]], "seed": true}', 422, "seed"),
    ("an object for a seed", b'{"logits": [[0, 1]], "seed": {}}', 422, "seed"),
    ("a bad seed in a list", b'{"logits": [[0, 1]], "seeds": ["x"]}', 422, "seeds[0]"),
    ("no seeds", b'{"logits": [[0, 1]], "seeds": []}', 422, "seeds"),
    ("no outputs", b'{"logits": [[0, 1]], "outputs": []}', 422, "outputs"),
    ("outputs as text", b'{"logits": [[0, 1]], "outputs": "index"}', 422, "outputs"),
    ("an odd name", b'{"logits": [[0, 1]], "a\\nb": 1}', 422, "a\nb"),
    ("members of the binary form", b'{"logits": [[0, 1]], "dtype": "float32"}', 422, "dtype"),
    ("logits twice", b'{"logits": [0, 1], "seed": 1, "logits": [1, 0]}', 422, "logits"),
    ("a seed twice", b'{"seed": 1, "logits": [0, 1], "seed": 1}', 422, "seed"),
    ("any member twice", b'{"logits": [0, 1], "tau": 2, "mode": "soft", "tau": 3}', 422, "tau"),
]


@pytest.mark.parametrize(("body", "status", "field"), [pytest.param(*case[1:], id=case[0]) for case in BAD_JSON])
def test_a_bad_json_body_is_refused(http, body, status, field):
    """400 where it does not parse, 422 with the member's path where it does; None in the table leaves it open."""
    refused = refusal_of(post(http, body, JSON))
    assert refused.reason == "INVALID_ARGUMENT"
    assert refused.status in ((400, 422) if status is None else (status,))
    assert field in (None, refused.field)


@pytest.mark.parametrize("query", ["seed=1", "nonsense=1", "seed", "shape=1,2&dtype=float32"])
def test_parameters_beside_a_json_body_are_refused(http, query):
    """A query string that would be ignored is refused, for its sender believes in it."""
    refused = refusal_of(post(http, b'{"logits": [[0, 1]]}', JSON, query))
    assert refused == invalid("json", query.partition("=")[0])


# Query strings and NumPy files.


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        ("", 422, "shape"),
        ("shape=2,3", 422, "dtype"),
        ("dtype=float32", 422, "shape"),
        ("shape=2,3&dtype=float8", 422, "dtype"),
        ("shape=2,3&dtype=FLOAT32", 422, "dtype"),
        ("shape=2,3&dtype=", 422, "dtype"),
        ("shape=&dtype=float32", 422, "shape"),
        ("shape=2,&dtype=float32", 422, "shape"),
        ("shape=-2,-3&dtype=float32", 422, "shape"),
        ("shape=2x3&dtype=float32", 422, "shape"),
        (f"shape={2**70},0&dtype=float32", 422, None),
        (f"shape={'7' * 10_000},3&dtype=float32", 422, None),
        ("shape=2,3&dtype=float32&seed=1&seed=1", 422, "seed"),
        ("shape=2,3&dtype=float32&shape=2,3", 422, "shape"),
        ("shape=2,3&dtype=float32&seed", 400, ""),
        ("shape=2,3&dtype=float32&&", 400, ""),
        ("shape=2,3&dtype=float32&mode=%FF", 422, "mode"),
        ("shape=2,3&dtype=float32&%00=1", 422, "\0"),
        ("shape=2,3&dtype=float32&logits=1", 422, "logits"),
    ],
)
def test_a_bad_query_string_is_refused(http, query, status, field):
    """Beside raw bytes, every parameter is there at most once, is known, and can be read."""
    response = post(http, LOGITS.tobytes(), RAW, query)
    refused = refusal_of(response)
    assert (refused.status, refused.reason) == (status, "INVALID_ARGUMENT")
    assert field in (None, refused.field)


def test_the_words_of_a_refusal_are_the_service_s_own(http):
    """What a caller reads is about the request, not about the language that the server is written in."""
    for name in ("seed", "draws", "shape"):
        query = f"{name}={'7' * 10_000}" + ("" if name == "shape" else "&shape=2,3") + "&dtype=float32"
        assert "sys." not in post(http, LOGITS.tobytes(), RAW, query).json()["detail"]


def zipped(name: str, data: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, data)
    return file.getvalue()


def damaged(archive: bytes, start: int = 50, size: int = 20) -> bytes:
    return archive[:start] + bytes(byte ^ 0xFF for byte in archive[start : start + size]) + archive[start + size :]


PICKLE = pickle.dumps(print)
BAD_FILES = [
    ("nothing", b"", 400, None),
    ("only the magic", b"\x93NUMPY", 400, None),
    ("another magic", b"\x94" + npy(LOGITS)[1:], 400, None),
    ("a version of the future", npy_with_header(described("'<f4'", "(1,)"), bytes(4), (9, 9)), 400, None),
    ("a pickle", PICKLE, 400, None),
    ("cut off in the header", npy(LOGITS)[:60], 400, None),
    ("cut off in the data", npy(LOGITS)[:-1], 422, "logits"),
    ("something after it", npy(LOGITS) + b"\0", 422, "logits"),
    ("2^50 elements", npy_with_header(described("'<f4'", f"({2**50},)"), bytes(12)), 422, "logits"),
    ("2^70 elements of nothing", npy_with_header(described("'<f4'", f"({2**70}, 0)")), None, None),
    ("negative lengths", npy_with_header(described("'<f4'", "(-2, -3)"), bytes(24)), None, None),
    ("a boolean length", npy_with_header(described("'<f4'", "(True, 3)"), bytes(12)), None, None),
    ("objects", npy_with_header(described("'|O'", "(1,)"), PICKLE), 422, "logits"),
    ("a structure", npy(np.zeros(2, [("a", "<f4"), ("b", "<f4")])), 422, "logits"),
    ("a sub-array", npy_with_header(described("('<f4', (2,))", "(2,)"), bytes(16)), None, None),
    ("half a sub-array", npy_with_header(described("('<f4',)", "(2,)"), bytes(16)), None, None),
    ("an empty dtype", npy_with_header(described("()", "(2,)"), bytes(16)), None, None),
    ("a dtype of no bytes", npy_with_header(described("'|V0'", "(2, 3)")), None, None),
    ("integers", npy(LOGITS.astype(np.int32)), 422, "logits"),
    ("complex numbers", npy(LOGITS.astype(np.complex64)), 422, "logits"),
    ("text", npy(np.array([["a", "b"]])), 422, "logits"),
    ("extended precision", npy(LOGITS.astype(np.longdouble)), 422, "logits"),
    ("dates", npy(np.array(["2026-01-01"], "M8[D]")), 422, "logits"),
    ("no dimension", npy(np.float32(1)), 422, "logits"),
    ("an open quote", npy_with_header("{'descr': '''"), 400, None),
    ("open brackets", npy_with_header("(" * 200), 400, None),
    ("9,000 open brackets", npy_with_header("(" * 9_000), 400, None),
    ("9,000 minus signs", npy_with_header("-" * 9_000 + "1"), 400, None),
    ("60,000 bytes of header", npy_with_header(" " * 60_000), 400, None),
    ("a list as a key", npy_with_header("{[]: 1}"), 400, None),
    ("keys of two types", npy_with_header("{1: 1, 'a': 2}"), 400, None),
    ("code", npy_with_header("__import__('os')"), 400, None),
    ("a zero byte", npy_with_header("{'descr': '\0'}"), 400, None),
    ("archive: cut off", npz(logits=LOGITS)[:-40], 400, None),
    ("archive: only its start", npz(logits=LOGITS)[:40], 400, None),
    ("archive: empty", npz(), None, None),
    ("archive: no logits", npz(seeds=np.array([1, 2], np.uint64)), 422, "logits"),
    ("archive: unknown member", npz(logits=LOGITS, nonsense=LOGITS), 422, "nonsense"),
    ("archive: member of no use", npz(logits=LOGITS, draws=np.array([1, 1])), 422, "draws"),
    ("archive: a scalar's name", npz(logits=LOGITS, draws=np.array(2)), 422, "draws"),
    ("archive: objects", npz(logits=LOGITS, tau=np.array([None, 1])), 422, "tau"),
    ("archive: three seeds", npz(logits=LOGITS, seeds=np.arange(3, dtype=np.uint64)), 422, "seeds"),
    ("archive: a column of seeds", npz(logits=LOGITS, seeds=np.zeros((2, 1), np.uint64)), 422, "seeds"),
    (
        "archive: absurdly many seeds",
        zipped("seeds.npy", npy_with_header(described("'<u8'", f"({2**70}, 0)"))),
        422,
        None,
    ),
    (
        "archive: seeds in 65 dimensions",
        zipped("seeds.npy", npy_with_header(described("'<u8'", str((1,) * 65)), bytes(8))),
        422,
        None,
    ),
    ("archive: negative seeds", npz(logits=LOGITS, seeds=np.array([-1, 2])), 422, "seeds"),
    ("archive: fractions of seeds", npz(logits=LOGITS, seeds=np.array([1.5, 2])), 422, "seeds"),
    ("archive: boolean seeds", npz(logits=LOGITS, seeds=np.array([True, False])), 422, "seeds"),
    ("archive: complex tau", npz(logits=LOGITS, tau=np.array([1 + 1j, 1])), 422, "tau"),
    ("archive: tau as text", npz(logits=LOGITS, tau=np.array(["1", "2"])), 422, "tau"),
    ("archive: a date for tau", npz(logits=LOGITS, tau=np.array([1, 2], "M8[s]")), 422, "tau"),
    ("archive: tau NaN", npz(logits=LOGITS, tau=np.array([1, math.nan])), 422, "tau[1]"),
    ("archive: first draw past the end", npz(logits=LOGITS, first_draw=np.array([0, 2**32])), 422, "first_draw"),
    ("archive: NaN", npz(logits=np.array([[0, math.nan]], ">f8")), 422, "logits[0][1]"),
    ("archive: not an array", zipped("logits.npy", b"logits"), 400, "logits"),
    ("archive: damaged", damaged(npz(logits=LOGITS), 200), 400, None),
    ("archive: damaged deflate", damaged(zipped("logits.npy", npy(LOGITS))), 400, None),
    ("archive: damaged bzip2", damaged(zipped("logits.npy", npy(LOGITS), zipfile.ZIP_BZIP2)), 400, None),
    ("archive: damaged LZMA", damaged(zipped("logits.npy", npy(LOGITS), zipfile.ZIP_LZMA)), 400, None),
    ("archive: a name that is no UTF-8", zipped("ü.npy", b"").replace("ü".encode(), b"\xff\xff"), 400, None),
]


@pytest.mark.parametrize(("body", "status", "field"), [pytest.param(*case[1:], id=case[0]) for case in BAD_FILES])
def test_a_broken_numpy_file_is_refused(http, body, status, field):
    """Neither a header nor an archive is believed in its sizes, dtypes or names, and nothing is unpickled."""
    refused = refusal_of(post(http, body, NPY))
    assert refused.reason == "INVALID_ARGUMENT"
    assert refused.status in ((400, 422) if status is None else (status,))
    assert field in (None, refused.field)


@pytest.mark.parametrize(
    ("query", "field"), [("shape=2,3", "shape"), ("dtype=float32", "dtype"), ("seeds=1,2", "seeds"), ("tau=1", "tau")]
)
def test_what_an_npz_says_cannot_be_said_again(http, query, field):
    """Two values of one thing are refused even where they agree."""
    body = npz(logits=LOGITS, seeds=np.array([1, 2], np.uint64), tau=np.ones(2))
    assert refusal_of(post(http, body, NPY, query)) == invalid("npy", field)


def test_a_zip_bomb_is_too_large_before_it_is_unpacked(http):
    """200 MB in 200 kB are refused by what the archive says of itself."""
    refused = refusal_of(post(http, zipped("logits.npy", bytes(200_000_000)), NPY))
    assert refused == Refusal(413, "TOO_LARGE", "logits")


# What surrounds a body.


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate", "nonsense"])
@pytest.mark.parametrize("content_type", [JSON, RAW])
def test_a_body_in_an_encoding_is_refused_rather_than_read_as_it_is(http, encoding, content_type):
    """Compressed bytes could pass for logits, so no content coding is taken."""
    query = "shape=5&dtype=float32" if content_type == RAW else ""
    refused = refusal_of(post(http, b'{"logits": [0, 1]} ' + b" ", content_type, query, content_encoding=encoding))
    assert refused == Refusal(415, "MEDIA_TYPE", "Content-Encoding")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/xml", "multipart/form-data; boundary=x", "nonsense"]
)
def test_a_form_that_is_not_offered_is_refused(http, content_type):
    """The answer says which forms there are."""
    response = post(http, b"{}", content_type)
    assert refusal_of(response) == Refusal(415, "MEDIA_TYPE", "Content-Type")
    assert all(form in response.json()["detail"] for form in (JSON, RAW, NPY))


@pytest.mark.parametrize(
    "accept", ["text/html", "image/*", "application/json;q=0", "*/*;q=0", "text/html, application/xml"]
)
def test_an_answer_in_a_form_that_is_not_offered_is_refused(http, accept):
    """Accept is obeyed; what it leaves out is not sent."""
    assert refusal_of(post(http, b"{}", JSON, accept=accept)) == Refusal(406, "MEDIA_TYPE", "Accept")


@pytest.mark.parametrize("text", ["abc", "0", "-1", "nan", "inf", "-inf", "", "1,2", "1_0", "1s"])
def test_a_bad_timeout_is_refused(http, text):
    """Request-Timeout is a positive number of seconds."""
    response = post(http, b'{"logits": [0, 1]}', JSON, request_timeout=text)
    assert refusal_of(response) == invalid("json", "Request-Timeout")


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_a_method_that_is_not_offered_is_refused_with_those_that_are(http, method):
    """405 always has Allow."""
    response = http.request(method, "/sample")
    assert refusal_of(response) == Refusal(405, "METHOD", "")
    assert response.headers["allow"] == "POST"
    head = http.head("/sample")
    assert (head.status_code, head.headers["allow"], head.content) == (405, "POST", b"")


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/info", "/metrics"])
def test_the_other_paths_are_for_reading(http, path):
    """They name GET when asked for anything else."""
    response = http.post(path)
    assert refusal_of(response) == Refusal(405, "METHOD", "")
    assert "GET" in response.headers["allow"]


@pytest.mark.parametrize("path", ["/nonsense", "/sample/", "/Sample", "/sample/1", "/%2e%2e/sample", "//sample"])
def test_a_path_that_is_not_there_is_not_found(http, path):
    """Paths are exact."""
    assert refusal_of(http.post(str(http.base_url).rstrip("/") + path)) == Refusal(404, "NOT_FOUND", "")


# Size.


@pytest.mark.parametrize("told", [True, False], ids=["with Content-Length", "in chunks"])
def test_100_megabytes_are_refused_and_the_connection_serves_on(http, told):
    """A body over the limit costs its sender, and nobody else."""
    chunk = b"[" + b"0," * (MEBIBYTE // 2)
    headers = {"content-type": JSON} | ({"content-length": str(100 * len(chunk))} if told else {})
    response = http.post("/sample", content=(chunk for _ in range(100)), headers=headers)
    assert refusal_of(response) == Refusal(413, "TOO_LARGE", "body")
    following = http.post("/sample", json={"logits": [0, 1]})
    assert following.status_code == 200
    assert local_address(following) == local_address(response)


def local_address(response: httpx.Response) -> tuple[str, int]:
    return response.extensions["network_stream"].get_extra_info("client_addr")


def test_a_message_over_the_limit_is_refused_and_the_channel_serves_on(call):
    """gRPC itself refuses it, before it is read."""
    large = message_of({}, np.zeros((17, MEBIBYTE), np.float32)).SerializeToString()
    with pytest.raises(grpc.RpcError) as raised:
        call(large)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert call(message_of({}).SerializeToString())


@pytest.mark.parametrize(
    ("parameters", "field"),
    [({"draws": 2**32}, "outputs"), ({"draws": 2**23, "mode": "soft"}, "outputs")],
)
def test_an_answer_over_the_limit_is_refused_before_it_is_made(http, call, parameters, field):
    """The size of an answer is known from the request alone."""
    assert refuse("json", http, call, parameters) == Refusal(413, "TOO_LARGE", field)
    assert refuse("query", http, call, parameters) == Refusal(413, "TOO_LARGE", field)
    assert refuse("grpc", http, call, parameters) == Refusal("RESOURCE_EXHAUSTED", "TOO_LARGE", field)


# Anything.

FUZZ = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
EDGES = st.sampled_from([-(2**63), -1, 0, 1, 2, 3, 2**31, 2**32 - 1, 2**32, 2**53, 2**63, 2**64 - 1, 2**64, 2**70])
SCALARS = st.none() | st.booleans() | EDGES | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
)
NAMES = st.sampled_from([*(field.name for field in pb.SampleRequest.DESCRIPTOR.fields), "shape", "dtype"])
LISTS = st.lists(st.lists(st.none() | st.floats() | EDGES, max_size=3), max_size=3)


@st.composite
def mutated(draw, original: bytes) -> bytes:
    """The original with a few bytes replaced, removed, repeated or put in."""
    body = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(body)))
        size = draw(st.integers(0, 4))
        body[start : start + size] = draw(st.binary(max_size=4) | st.just(bytes(body[start : start + 2 * size])))
    return bytes(body)


def check_answer(response: httpx.Response) -> None:
    """An answer, or a refusal that blames the request."""
    if response.status_code != 200:
        assert refusal_of(response).status in (400, 413, 422), response.text


@FUZZ
@given(members=st.dictionaries(NAMES | st.text(max_size=6), VALUES, max_size=3), logits=VALUES | LISTS)
def test_no_json_value_is_a_defect_of_the_service(http, members, logits):
    """Any members with any values are drawn from or refused."""
    check_answer(post(http, json.dumps({"logits": logits} | members).encode(errors="replace"), JSON))


@FUZZ
@given(mutated(b'{"logits": [[0.5, null, -1e3], [1, 2, 3]], "mode": "soft", "tau": [1, 0.5], "seed": "7", "draws": 3}'))
def test_no_json_text_is_a_defect_of_the_service(http, body):
    """Text that was JSON before it was damaged is drawn from or refused."""
    check_answer(post(http, body, JSON))


@FUZZ
@given(st.lists(st.tuples(NAMES | st.text(max_size=4), EDGES.map(str) | st.text(max_size=8)), max_size=4))
@example([("seeds", ",,"), ("tau", "1e999"), ("outputs", ",")])
def test_no_query_string_is_a_defect_of_the_service(http, pairs):
    """Any parameters with any text are drawn with or refused."""
    query = str(httpx.QueryParams([("shape", "2,3"), ("dtype", "float32"), *pairs]))
    check_answer(post(http, LOGITS.tobytes(), RAW, query))
    check_answer(post(http, npy(LOGITS), NPY, str(httpx.QueryParams(pairs))))


@FUZZ
@given(
    mutated(npy(LOGITS))
    | mutated(npz(logits=LOGITS, seeds=np.array([1, 2], np.uint64)))
    | mutated(zipped("logits.npy", npy(LOGITS)))
    | st.text("(){}[]'\\:,<f40-x# \n", max_size=30).map(npy_with_header)
)
def test_no_numpy_file_is_a_defect_of_the_service(http, body):
    """Files that were good before they were damaged are drawn from or refused."""
    check_answer(post(http, body, NPY))


@FUZZ
@given(
    mutated(message_of({"mode": "soft", "tau": [1.0, 0.5], "seeds": [1, 2], "draws": 3}).SerializeToString())
    | st.binary(max_size=40)
    | st.binary(max_size=20).map(lambda more: message_of({}).SerializeToString() + more)
)
def test_no_message_is_a_defect_of_the_service(call, body):
    """Any bytes are drawn from or refused."""
    answer = call.future(body, timeout=60)
    if error := answer.exception():
        assert refusal_in(error).status in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED")
    else:
        assert pb.SampleResponse.FromString(answer.result()).contract == contract.VERSION


# After all of it.


def test_bad_requests_leave_the_bits_of_their_neighbours_alone(call):
    """Good and bad requests that share batches each get what they would get alone."""
    bad = LOGITS.copy()
    bad[1, 1] = np.nan
    bodies = [message_of({"seed": n}, bad if n % 3 else LOGITS).SerializeToString() for n in range(300)]
    answers = [call.future(body, timeout=60) for body in bodies]
    for n, answer in enumerate(answers):
        if n % 3:
            assert refusal_in(answer.exception()) == invalid("grpc", "logits[1][1]")
        else:
            index = pb.SampleResponse.FromString(answer.result()).index.data
            assert index == contract.hard(LOGITS, n, [0, 1]).tobytes()


def test_after_all_of_it_the_service_draws_the_right_bits(http):
    """Nothing that was sent here changed anything."""
    answer = http.post("/sample", json={"logits": LOGITS.tolist(), "seed": 7, "mode": "straight_through"}).json()
    expected = contract.straight_through(LOGITS, 7, [0, 1])
    assert answer["index"] == expected.index[:, None].tolist()
    assert np.array_equal(np.array(answer["soft"], np.float32)[:, 0], expected.soft)
    assert http.get("/readyz").status_code == 200
