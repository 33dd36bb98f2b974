"""What is found in a message without parsing it, against protobuf's parser."""

import numpy as np
import pytest
from encoded_fields import DATA, content, field, tensor, varint, words
from google.protobuf.message import DecodeError
from gumball.v1 import sampling_pb2 as pb
from gumball_server.domain import SamplingError
from gumball_server.kernels import request_fields  # noqa: F401 - compiled on import, not in a test
from gumball_server.wire import message
from hypothesis import example, given
from hypothesis import strategies as st


def parsed(body: bytes) -> message.Seen | None:
    """By protobuf's parser; None for what is refused."""
    try:
        request = pb.SampleRequest.FromString(body)
        return message.Seen(message.decode_anew(request), request.id, message.timeout(request))
    except (DecodeError, SamplingError):
        return None


def assert_agrees(body: bytes) -> bool:
    """Whether it was found, and then as the parser finds it."""
    found, wanted = message.decode_seen(body), parsed(body)
    if found is None:
        return False
    assert wanted is not None
    assert found[1:] == wanted[1:]
    if pb.SampleRequest.FromString(body).HasField("seed"):
        assert content(found[0]) == content(wanted[0])
    else:  # a seed was drawn for each, unless there is one a row
        assert (found[0].seed is None) == (wanted[0].seed is None)
        assert content(found[0]._replace(seed=0)) == content(wanted[0]._replace(seed=0))
    return True


counts = st.integers(0, 3)


@given(
    request_id=words,
    seed=st.none() | words,
    seeds=st.none() | st.tuples(words, words),
    shape=st.sampled_from([(2, 3), (6,), (3, 2), (1, 6)]),
    more=st.fixed_dictionaries(
        {},
        optional={
            "mode": counts,
            "outputs": st.lists(st.integers(1, 8), max_size=3, unique=True),
            "draws": counts,
            "first_row": counts,
            "first_draw": st.lists(counts, max_size=2),
            "tau": st.lists(st.sampled_from([0.5, 1.0]), max_size=2),
            "top_k": st.lists(counts, max_size=2),
            "min_p": st.lists(st.sampled_from([0.0, 0.5]), max_size=2),
            "logit_bias": st.lists(st.builds(pb.LogitBias, category=counts, bias=st.floats(-1, 1)), max_size=2),
            "without_replacement": counts,
            "top_log_probs": counts,
        },
    ),
)
def test_what_programs_write_is_found_if_it_is_right(request_id, seed, seeds, shape, more):
    logits = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=shape, data=DATA)
    body = pb.SampleRequest(id=request_id, seed=seed, seeds=seeds, logits=logits, **more).SerializeToString()
    assert assert_agrees(body) == (parsed(body) is not None)


@pytest.mark.parametrize(
    "more",
    [
        {"trace": pb.TraceContext(traceparent="00-1")},
        {"probs": pb.Tensor(data=DATA)},
        {"tau": [1.0] * 64},
    ],
    ids=["trace", "probs", "long"],
)
def test_what_is_of_one_request_or_long_is_for_the_parser(more):
    logits = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=(2, 3), data=DATA)
    assert message.decode_seen(pb.SampleRequest(logits=logits, **more).SerializeToString()) is None


fields = st.sampled_from(
    [
        field(1, 5),
        field(1, 2**64 - 1),
        field(1, 2**65 + 5),  # beyond 64 bits
        field(1, 5, length=10),
        field(1, 5, length=11),  # longer than protobuf allows
        field(1, b"id"),
        field(2, tensor()),
        field(2, tensor(), length=3),
        field(2, tensor((1, 6))),
        field(2, tensor((6,), DATA[:-1])),
        field(2, tensor() + field(3, DATA)),
        field(2, field(3, DATA) + field(1, 1) + field(2, 6)),
        field(2, tensor() + field(9, 1)),
        field(2, tensor()[:-1]),
        field(2, 7),
        field(3, tensor()),
        field(4, 2),
        field(4, 9),
        varint(4 << 3, 2) + varint(2),  # the tag in two bytes
        varint(6 << 3, 2) + varint(2),
        field(6, 8),
        field(6, 2**64 - 1),
        field(6, b"seed"),
        field(7, 3),
        field(7, varint(1) + varint(2)),
        field(11, np.array([0.5]).tobytes()),
        varint(11 << 3 | 1) + np.array([0.5]).tobytes(),
        varint(10 << 3 | 5) + bytes(4),
        varint(4 << 3 | 3) + varint(4 << 3 | 4),  # a group
        varint(4 << 3 | 6),
        field(15, b"\0"),
        field(20, 1),
        varint(20 << 3 | 1) + np.array([0.25]).tobytes(),
        varint(20 << 3 | 1) + np.array([-0.25]).tobytes(),
        varint(20 << 3 | 1) + np.array([np.inf]).tobytes(),
        field(99, 1),
        varint(2**40 << 3) + b"\0",
    ]
)


@given(request_id=words, seed=st.none() | words, timeout=st.none() | st.floats(0.001, 1e9))
def test_what_our_client_writes_is_found(request_id, seed, timeout):
    """What is of one request alone comes first there, and the logits last."""
    head = pb.SampleRequest(id=request_id, seed=seed, timeout_seconds=timeout).SerializeToString()
    assert assert_agrees(head + field(4, 2) + field(2, tensor()))


@given(st.lists(fields, max_size=5).map(b"".join), st.none() | st.integers(0, 200))
@example(field(2, tensor()) + field(2, tensor()), None)
@example(field(2, tensor()) + field(1, 5), None)
@example(field(6, 8) + field(2, tensor()), None)
@example(field(2, tensor()) + field(6, 8) + field(6, 9), None)
@example(field(2, tensor()) + field(6, 8) + field(7, 3), None)
def test_any_fields_in_any_order_cut_off_anywhere_are_found_as_they_are_parsed_or_not_at_all(body, length):
    assert_agrees(body[:length])


@given(st.binary(max_size=80))
def test_any_bytes_are_found_as_they_are_parsed_or_not_at_all(body):
    assert_agrees(body)
    assert_agrees(field(2, tensor()) + body)


def test_a_long_message_is_short_but_for_its_logits():
    """Else it is read where nobody waits for it: long lists take long to read."""
    logits = pb.Tensor(dtype=pb.DATA_TYPE_FLOAT32, shape=(1, 1 << 16), data=bytes(4 << 16))
    assert message.is_short(pb.SampleRequest(logits=logits, seed=2**64 - 1, tau=[0.5]).SerializeToString())
    assert not message.is_short(pb.SampleRequest(logits=logits, seeds=range(1000)).SerializeToString())
    assert not message.is_short(pb.SampleRequest(probs=logits).SerializeToString())
    assert not message.is_short(pb.SampleRequest(logits=logits).SerializeToString()[:-1])
