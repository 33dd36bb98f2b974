"""Arguments to requests, and answers to samples, without a service."""

import copy
import dataclasses
import io
import weakref
from urllib.parse import parse_qs

import httpx
import ml_dtypes
import numpy as np
import pytest
from contract_service import encode
from google.protobuf.message import Message
from gumball import _answers, _codec, _grpc, _http, errors, framing
from gumball.v1 import sampling_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

DEFAULTS = {
    "mode": "hard",
    "tau": 1.0,
    "temperature": 1.0,
    "seed": None,
    "seeds": None,
    "draws": 1,
    "first_draw": 0,
    "first_row": 0,
    "outputs": None,
}
LOGITS = np.zeros((2, 3), np.float32)
UNSIGNED = {"float16": np.uint16, "float32": np.uint32, "bfloat16": np.uint16}


def request_of(logits=LOGITS, **parameters) -> _codec.SampleRequest:
    return _codec.SampleRequest.of(logits, **(DEFAULTS | parameters))


def message_of(request: _codec.SampleRequest) -> pb.SampleRequest:
    """A request's protobuf form."""
    return pb.SampleRequest.FromString(_grpc.encode(request))


def sent(**arguments):
    """Query, content type and body of a request's HTTP form."""
    call = _http.sample_call(request_of(**arguments), None)
    query = {name: value for name, [value] in parse_qs(call.target.partition("?")[2], strict_parsing=True).items()}
    return query, call.headers["content-type"], call.content


floats = st.sampled_from(["<f4", ">f4", "<f2", ">f2"])
matrices = floats.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5)))


@given(matrices, st.sampled_from("CF"))
def test_logits_travel_with_their_bits(logits, order):
    """Byte order and memory order are the caller's affair; the wire is row-major and little-endian."""
    logits = np.asarray(logits, order=order)
    query, content_type, body = sent(logits=logits)
    assert content_type == "application/octet-stream"
    received = np.frombuffer(body, np.dtype(query["dtype"])).reshape([int(n) for n in query["shape"].split(",")])
    tensor = message_of(request_of(logits)).logits
    unsigned = UNSIGNED[query["dtype"]]
    np.testing.assert_array_equal(received.view(unsigned), logits.astype(received.dtype, order="C").view(unsigned))
    assert (tensor.data, tuple(tensor.shape)) == (body, logits.shape)
    assert pb.DataType.Name(tensor.dtype) == f"DATA_TYPE_{query['dtype'].upper()}"


def test_bfloat16_travels_as_its_bits():
    """Two bytes a value, over both transports."""
    logits = np.array([[1.5, -np.inf, 3e38]], ml_dtypes.bfloat16)
    query, _, body = sent(logits=logits)
    assert (query["dtype"], body) == ("bfloat16", logits.tobytes())
    tensor = message_of(request_of(logits)).logits
    assert (tensor.dtype, tensor.data) == (pb.DATA_TYPE_BFLOAT16, logits.tobytes())


@given(hnp.arrays(np.float64, (1, 4), elements=st.floats(width=64)))
def test_float64_becomes_the_nearest_float32_or_is_refused(logits):
    """Infinity and NaN pass for the service to judge; a finite value never becomes infinite."""
    with np.errstate(over="ignore"):
        nearest = logits.astype(np.float32)
    if (np.isinf(nearest) & np.isfinite(logits)).any():
        with pytest.raises(errors.InvalidArgument):
            request_of(logits)
    else:
        np.testing.assert_array_equal(request_of(logits).logits, nearest)


def test_a_value_beyond_float32_is_refused_by_its_place():
    """The field says which row and category."""
    with pytest.raises(errors.InvalidArgument) as raised:
        request_of([[0.0, 1.0], [0.0, 1e39]])
    assert raised.value.field == "logits[1][1]"


@pytest.mark.parametrize("logits", [[0.5, 1], [[0.5, 1]], np.array([[0.5, 1]]), ((0.5, 1),)])
def test_whatever_numpy_takes_is_logits(logits):
    """Lists, tuples and arrays, a row alone or in a batch."""
    request = request_of(logits)
    assert (request.logits.tolist(), request.dtype, request.shape) == ([[0.5, 1.0]], "float32", (1, 1, 2))


REFUSED = [
    ("logits", {"logits": [[1.0], [1.0, 2.0]]}),
    ("logits", {"logits": [[["deep"]]]}),
    ("logits", {"logits": 1.0}),
    ("logits", {"logits": [["1", "2"]]}),
    ("logits", {"logits": [[1j, 2j]]}),
    ("mode", {"mode": "firm"}),
    ("outputs", {"outputs": ["index", "nonsense"]}),
    ("outputs", {"outputs": []}),
    ("seed", {"seed": -1}),
    ("seed", {"seed": 2**64}),
    ("seed", {"seed": 1.5}),
    ("seeds", {"seed": 1, "seeds": [1, 2]}),
    ("seeds", {"seeds": [1, -2]}),
    ("seeds", {"seeds": np.array([1, -2])}),
    ("seeds", {"seeds": np.array([1.0, 2.0])}),
    ("seeds", {"seeds": [1, 2.5]}),
    ("seeds", {"seeds": [[1, 2]]}),
    ("draws", {"draws": "3"}),
    ("draws", {"draws": -1}),
    ("first_draw", {"first_draw": 2**32}),
    ("first_row", {"first_row": 2**32}),
    ("tau", {"tau": "warm"}),
    ("tau", {"tau": [[1.0, 2.0]]}),
]


@pytest.mark.parametrize(("field", "arguments"), REFUSED)
def test_what_cannot_be_encoded_is_refused_by_name(field, arguments):
    """Nothing wraps, is truncated or reaches the service as something else."""
    with pytest.raises(errors.InvalidArgument) as raised:
        request_of(**arguments)
    assert raised.value.field == field


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=200))
def test_real_parameters_travel_as_the_same_float64(values):
    """Over HTTP, however many there are, and over gRPC."""
    query, content_type, body = sent(tau=values)
    if content_type == "application/x-npy":
        received = np.load(io.BytesIO(body))["tau"].tolist()
    else:
        received = [float(text) for text in query["tau"].split(",")]
    assert received == list(message_of(request_of(tau=values)).tau) == values


@given(st.lists(st.integers(0, 2**64 - 1), min_size=2, max_size=200))
def test_seeds_travel_whole(seeds):
    """All 64 bits of each, in a query, a file or a message."""
    query, content_type, body = sent(seeds=seeds)
    if content_type == "application/x-npy":
        received = np.load(io.BytesIO(body))["seeds"].tolist()
    else:
        received = [int(text) for text in query["seeds"].split(",")]
    assert received == list(message_of(request_of(seeds=seeds)).seeds) == seeds


def test_long_lists_travel_in_a_file_and_scalars_in_the_query():
    """The request line stays short; nothing is said twice."""
    rows = 1000
    logits = np.arange(rows * 3, dtype=np.float16).reshape(rows, 3)
    query, content_type, body = sent(logits=logits, seeds=np.arange(rows), tau=0.5, first_draw=range(rows), draws=7)
    assert content_type == "application/x-npy"
    arrays = np.load(io.BytesIO(body))
    assert sorted(arrays) == ["first_draw", "logits", "seeds"]
    assert (arrays["seeds"].dtype, arrays["first_draw"].dtype) == (np.uint64, np.uint32)
    np.testing.assert_array_equal(arrays["logits"], logits)
    assert query == {"mode": "hard", "draws": "7", "tau": "0.5", "temperature": "1.0", "first_row": "0"}


def test_bfloat16_is_widened_in_a_file():
    """An .npz has no bfloat16; as float32 the logits have the same values."""
    logits = np.linspace(-3, 3, 3000).reshape(1000, 3).astype(ml_dtypes.bfloat16)
    _, _, body = sent(logits=logits, seeds=np.arange(1000))
    np.testing.assert_array_equal(np.load(io.BytesIO(body))["logits"], logits.astype(np.float32))


def test_a_request_says_nothing_that_was_not_said():
    """Without a seed the service draws one; without outputs it goes by the mode."""
    message = message_of(request_of())
    assert not message.HasField("seed")
    assert not message.seeds
    assert not message.outputs
    assert not {"seed", "seeds", "outputs"} & sent()[0].keys()


@pytest.mark.parametrize("field", ["draws", "first_row", "top_k", "without_replacement"])
def test_what_equals_earlier_arguments_is_still_refused_by_its_type(field):
    """1.0 is not taken for the 1 of a call before."""
    request_of(**{field: 1})
    with pytest.raises(errors.InvalidArgument):
        request_of(**{field: 1.0})


@pytest.mark.parametrize("zeros", [(0.0, -0.0), (-0.0, 0.0)])
def test_zeros_keep_their_signs_from_call_to_call(zeros):
    """They are equal, and not the same."""
    sent_zeros = [message_of(request_of(temperature=zero)).temperature[0] for zero in zeros]
    assert np.signbit(sent_zeros).tolist() == np.signbit(zeros).tolist()


class Dial:
    """A number that changes, and has a hash."""

    value = 0.5

    def __float__(self) -> float:
        return self.value


def test_an_argument_may_change_between_calls():
    """Each call has what it was when it was made, whether it can be hashed or not."""
    dial, taus = Dial(), [0.5, 0.5]
    before = request_of(tau=dial), request_of(tau=taus)
    dial.value = taus[1] = 2.0
    after = request_of(tau=dial), request_of(tau=taus)
    assert [list(message_of(request).tau) for request in before + after] == [[0.5], [0.5, 0.5], [2.0], [0.5, 2.0]]


def test_requests_of_the_same_parameters_have_their_own_seeds_and_logits():
    """Of any shape and type."""
    for seeds, logits in [([1, 2], LOGITS), ([2**64 - 1], np.ones((1, 5), np.float16)), ([3], LOGITS[:1] + 7)]:
        message = message_of(request_of(logits, seeds=seeds, top_k=2))
        assert (list(message.seeds), message.top_k, message.logits.data) == (seeds, [2], logits.tobytes())
        assert tuple(message.logits.shape) == logits.shape


def test_what_is_remembered_of_requests_is_bounded():
    """However many there were; and their logits are forgotten."""
    logits = np.ones((2, 3), np.float32)
    kept = weakref.ref(logits)
    for n in range(1, 1000):
        message_of(request_of(logits, temperature=n / 7))
    del logits
    assert kept() is None
    assert _codec._remembered.cache_info().currsize <= 256


ASKED = request_of(mode="straight_through", seed=7, draws=2)
OUTPUTS = {
    "index": np.arange(4, dtype=np.int32).reshape(2, 2),
    "soft": np.linspace(0, 1, 12, dtype=np.float32).reshape(2, 2, 3),
}


def protobuf_answer(**changed) -> pb.SampleResponse:
    tensors = {
        name: pb.Tensor(dtype=pb.DATA_TYPE_INT32 if name == "index" else pb.DATA_TYPE_FLOAT32, shape=array.shape,
                        data=array.tobytes())
        for name, array in OUTPUTS.items()
    }  # fmt: skip
    answer = {
        "contract": "gumball/1",
        "seed": 7,
        "tau": [1.0],
        "timings": pb.Timings(queue_ns=41000, compute_ns=5200),
        **tensors,
    }
    return pb.SampleResponse(**(answer | changed))


def in_stream(answer: bytes, asked: _codec.SampleRequest = ASKED) -> _codec.Sample:
    """What is read of an answer that came in a message of a stream."""
    [response] = _answers.responses_of(framing.stream_message([answer]))
    return _answers.read_sealed(asked, response)


READ = {
    "http": lambda: _http.read_sample(ASKED, encode(OUTPUTS, 7, 1.0)),
    "grpc": lambda: _grpc.read_sample(ASKED, protobuf_answer()),
    "stream": lambda: in_stream(protobuf_answer().SerializeToString()),
}


@pytest.mark.parametrize("way", READ)
def test_an_answer_becomes_a_sample(way):
    """With all that is needed to draw it again."""
    sample = READ[way]()
    np.testing.assert_array_equal(sample.index, OUTPUTS["index"])
    np.testing.assert_array_equal(sample.soft, OUTPUTS["soft"])
    assert sample.one_hot is None
    assert list(sample.outputs) == ["index", "soft"]
    assert (sample.contract, sample.seed, sample.seeds, sample.tau.tolist()) == ("gumball/1", 7, None, [1.0])
    assert (sample.shape, sample.timings) == ((2, 2, 3), (41000, 5200))


@pytest.mark.parametrize("way", READ)
def test_arrays_are_the_callers_own(way):
    """Writable, owning their memory, native and contiguous."""
    for array in READ[way]().outputs.values():
        assert array.flags.writeable
        assert array.flags.owndata
        assert array.flags.c_contiguous
        assert array.dtype.isnative


@pytest.mark.parametrize("way", READ)
def test_parameters_and_tau_are_the_callers_own(way):
    """What is done to those of one sample is not seen in the next."""
    sample = READ[way]()
    assert sample.parameters["temperature"] == [1.0]
    sample.parameters["temperature"].append(2.0)
    sample.tau[0] = 9.0
    assert sample.parameters["temperature"] == [1.0, 2.0]
    assert (READ[way]().parameters["temperature"], READ[way]().tau.tolist()) == ([1.0], [1.0])


def test_a_sample_can_be_copied_and_changed():
    """With its parameters, whether they were looked at or not."""
    stored = copy.deepcopy(READ["grpc"]())
    changed = dataclasses.replace(stored, seed=8)
    assert (changed.seed, changed.parameters) == (8, READ["http"]().parameters)


def test_a_tau_that_is_not_told_is_that_of_the_request():
    """A service need not echo a list in headers."""
    answer = encode(OUTPUTS, 7, 1.0)
    del answer.headers["gumball-tau"]
    assert _http.read_sample(ASKED, answer).tau.tolist() == [1.0]


def http_answer(without: str | None = None, **headers: str) -> httpx.Response:
    answer = encode(OUTPUTS, 7, 1.0, **{name.replace("_", "-"): value for name, value in headers.items()})
    if without:
        del answer.headers[without]
    return answer


BROKEN_HTTP = {
    "another contract": http_answer(gumball_contract="gumball/2"),
    "another seed": http_answer(gumball_seed="8"),
    "no seed": http_answer(without="gumball-seed"),
    "no contract": http_answer(without="gumball-contract"),
    "no outputs": http_answer(without="gumball-outputs"),
    "timings that are no numbers": http_answer(gumball_queue_ns="soon"),
    "another tau": http_answer(gumball_tau="0.5"),
    "a tau for rows that are not there": http_answer(gumball_tau="1.0,1.0,1.0"),
    "a tau that is no number": http_answer(gumball_tau="warm"),
    "outputs that are no JSON": http_answer(gumball_outputs="["),
    "outputs that are no list": http_answer(gumball_outputs="7"),
    "an output of an unknown type": http_answer(gumball_outputs='[{"name":"index","dtype":"object","shape":[2,2]}]'),
    "a negative shape": http_answer(gumball_outputs='[{"name":"index","dtype":"int32","shape":[-2,-2]}]'),
    "outputs that were not asked for": encode({"index": OUTPUTS["index"]}, 7, 1.0),
    "outputs of another order": encode(dict(reversed(OUTPUTS.items())), 7, 1.0),
    "outputs of another shape": encode(OUTPUTS | {"index": OUTPUTS["index"].T[:1]}, 7, 1.0),
    "a page": httpx.Response(200, text="<html>It works!</html>"),
    "a teapot": httpx.Response(418, text="short and stout"),
}
for name, edited in (("a short body", slice(-1)), ("a long body", slice(None))):
    whole = http_answer()
    content = whole.content[edited] if edited.stop else whole.content + b"\0"
    BROKEN_HTTP[name] = httpx.Response(200, headers={k: v for k, v in whole.headers.items() if k != "content-length"},
                                       content=content)  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_HTTP)
def test_a_broken_http_answer_is_never_a_sample(name):
    """Whatever came back, it is InvalidAnswer and nothing else."""
    with pytest.raises(errors.InvalidAnswer):
        _http.read_sample(ASKED, BROKEN_HTTP[name])


BROKEN_GRPC = {
    "another contract": protobuf_answer(contract="gumball/2"),
    "another seed": protobuf_answer(seed=8),
    "no seed": protobuf_answer(seed=None),
    "no soft": protobuf_answer(soft=None),
    "a short tensor": protobuf_answer(index=pb.Tensor(dtype=pb.DATA_TYPE_INT32, shape=[2, 2], data=b"\0" * 15)),
    "a long tensor": protobuf_answer(index=pb.Tensor(dtype=pb.DATA_TYPE_INT32, shape=[2, 2], data=b"\0" * 20)),
    "another shape": protobuf_answer(index=pb.Tensor(dtype=pb.DATA_TYPE_INT32, shape=[1, 4], data=b"\0" * 16)),
    "another type": protobuf_answer(index=pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=[2, 2], data=b"\0" * 16)),
    "a type of the future": protobuf_answer(index=pb.Tensor(dtype=77, shape=[2, 2], data=b"\0" * 16)),
    "nothing": pb.SampleResponse(),
}


@pytest.mark.parametrize("name", BROKEN_GRPC)
def test_a_broken_grpc_answer_is_never_a_sample(name):
    """Whatever came back, it is InvalidAnswer and nothing else."""
    with pytest.raises(errors.InvalidAnswer):
        _grpc.read_sample(ASKED, BROKEN_GRPC[name])
    with pytest.raises(errors.InvalidAnswer):
        in_stream(BROKEN_GRPC[name].SerializeToString())


def field(kind: type[Message], name: str, content: bytes) -> bytes:
    """A field of bytes, or of a message."""
    return framing.field_start(kind, name, len(content)) + content


def rewritten(name: str, content: bytes) -> bytes:
    """The answer with one of its fields written in another way."""
    answer = protobuf_answer()
    answer.ClearField(name)
    return answer.SerializeToString() + field(pb.SampleResponse, name, content)


INDEX = OUTPUTS["index"].tobytes()
INT32 = pb.Tensor(dtype=pb.DATA_TYPE_INT32).SerializeToString()
OTHERWISE = {
    "data before the shape": rewritten(
        "index", INT32 + field(pb.Tensor, "data", INDEX) + pb.Tensor(shape=[2, 2]).SerializeToString()
    ),
    "a shape that is not packed": rewritten("index", INT32 + b"\x10\x02\x10\x02" + field(pb.Tensor, "data", INDEX)),
    "a tau that is not packed": protobuf_answer(tau=None).SerializeToString() + b"\x29" + np.float64(1.0).tobytes(),
    "a field of the future": protobuf_answer().SerializeToString() + b"\xfa\x7f\x01?",
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_an_answer_in_a_stream_may_be_written_in_any_way(name):
    """That protobuf allows."""
    sample = in_stream(OTHERWISE[name])
    np.testing.assert_array_equal(sample.index, OUTPUTS["index"])
    np.testing.assert_array_equal(sample.soft, OUTPUTS["soft"])
    assert (sample.seed, sample.tau.tolist(), sample.timings) == (7, [1.0], (41000, 5200))


BROKEN_IN_STREAM = {
    "another tau": protobuf_answer(tau=[0.5]).SerializeToString(),
    "another tau that is not packed": protobuf_answer(tau=None).SerializeToString()
    + b"\x29"
    + np.float64(0.5).tobytes(),
    "a tensor that does not parse": rewritten("index", b"\x0a\xff"),
}


@pytest.mark.parametrize("name", BROKEN_IN_STREAM)
def test_a_broken_answer_in_a_stream_is_never_a_sample(name):
    """Whatever is wrong within, it is InvalidAnswer and nothing else."""
    with pytest.raises(errors.InvalidAnswer):
        in_stream(BROKEN_IN_STREAM[name])


def test_an_error_in_a_stream_is_raised_whatever_else_the_answer_holds():
    """With what the service says of it."""
    error = pb.Error(reason="OVERLOADED", detail="full", retry_after_seconds=0.5)
    with pytest.raises(errors.Overloaded) as raised:
        in_stream(protobuf_answer(error=error).SerializeToString())
    assert raised.value.retry_after == 0.5


@pytest.mark.parametrize("told", [0, None])
def test_the_seed_0_is_told_from_none(told):
    """An answer by no seed is none to a request with the seed 0, and the other way round."""
    answer = protobuf_answer(seed=told).SerializeToString()
    by = {0: {"seed": 0}, None: {"seeds": [1, 2]}}
    asked = {seed: request_of(mode="straight_through", draws=2, **given) for seed, given in by.items()}
    assert in_stream(answer, asked.pop(told)).seed == told
    [other] = asked.values()
    with pytest.raises(errors.InvalidAnswer):
        in_stream(answer, other)


def test_information_lacking_a_member_is_invalid():
    """Another service at that address is not mistaken for Gumball."""
    with pytest.raises(errors.InvalidAnswer):
        _http.read_info(httpx.Response(200, json={"version": "1"}))
    with pytest.raises(errors.InvalidAnswer):
        _http.read_info(httpx.Response(200, json=["version"]))
