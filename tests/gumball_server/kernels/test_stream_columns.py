"""Requests that are taken together out of a message, against protobuf's parser, and their responses."""

import numpy as np
import pytest
from encoded_fields import DATA, content, field, tensor, varint, words
from gumball.framing import items_of, stream_message
from gumball.v1 import sampling_pb2 as pb
from gumball_server.domain import Plan, SampleResult
from gumball_server.kernels import stream_columns  # noqa: F401 - compiled on import, not in a test
from gumball_server.wire import message, together
from hypothesis import example, given
from hypothesis import strategies as st

INTEGERS = ("index", "top_index")


def most(plan: Plan) -> int:
    return 9


def row(number: int, seed: int | None, data: bytes = DATA, after: bool = False, **more: object) -> bytes:
    """A request of one row, as our client writes it, or with its own fields after the logits."""
    own = pb.SampleRequest(id=number, seed=seed).SerializeToString()
    rest = pb.SampleRequest(mode=pb.MODE_SOFT, **more).SerializeToString() + field(2, tensor((1, 6), data))
    return field(1, number) + field(2, tensor((1, 6), data)) + field(6, seed or 0) if after else own + rest


def check(body: bytes, at: int = 0) -> together.Together | None:
    """What is taken together is what protobuf's parser finds in as many items."""
    taken = together.decode(body, at, most)
    if taken is None:
        return None
    items = items_of(body[at : taken.end])
    assert items is not None
    assert len(items) == taken.request.plan.rows == len(taken.ids) == len(taken.request.plan.seeds) >= together.FEWEST
    for number, item in enumerate(items):
        parsed = pb.SampleRequest.FromString(item)
        alone = message.decode_anew(parsed)
        message.timeout(parsed)
        assert (taken.ids[number], taken.request.plan.seeds[number]) == (parsed.id, alone.seed)
        assert content(alone) == content((taken.request.logits[number : number + 1], alone.seed, taken.plan))
    return taken


@given(st.lists(st.tuples(words, words), min_size=4, max_size=9), st.booleans(), st.binary(max_size=4))
def test_requests_that_ask_alike_are_taken_together(asked, after, behind):
    """With whatever ids, seeds and logits; what follows is left."""
    rows = [row(n, s, np.float32([n, s, 0, 1, 2, 3]).tobytes(), after) for n, s in asked]
    body = stream_message(rows)
    taken = check(body + behind)
    assert taken is not None
    assert taken.end == len(body)


def test_there_are_no_more_than_may_be_and_the_next_begin_where_they_end():
    body = stream_message([row(n, n) for n in range(20)])
    ends, at = [], 0
    while (taken := check(body, at)) is not None:
        ends.append(len(taken.ids))
        at = taken.end
    assert ends == [9, 9]


@pytest.mark.parametrize(
    "other",
    [
        row(1, None),
        row(1, 1, draws=2),
        row(1, 1, trace=pb.TraceContext(traceparent="00-1")),
        row(1, 1, timeout_seconds=-1.0),
        row(1, 1) + b"\xe8\x04\x01",
        row(1, 1) + row(1, 1),
        row(1, 1, after=True),
        row(1, 1, DATA[:-4]),
        row(1, 1)[:-1],
        b"",
    ],
    ids=["no seed", "draws", "trace", "timeout", "unknown", "twice", "order", "shorter", "cut off", "empty"],
)
@pytest.mark.parametrize("place", [0, 2, 4])
def test_one_that_is_unlike_the_others_ends_them(other, place):
    rows = [row(n, n) for n in range(8)]
    rows[place] = other
    taken = check(stream_message(rows))
    assert (0 if taken is None else len(taken.ids)) == (place if place >= together.FEWEST else 0)


@pytest.mark.parametrize(
    "more", [{"seeds": [1]}, {"first_row": 1}, {"logit_bias": [pb.LogitBias(category=9)]}], ids=str
)
def test_a_request_that_has_no_row_to_share_or_is_refused_is_not_taken(more):
    seed = None if "seeds" in more else 1
    assert check(stream_message([row(n, seed, **more) for n in range(8)])) is None
    two_rows = [field(6, n) + field(2, tensor()) for n in range(8)]
    assert check(stream_message(two_rows)) is None


def test_timeouts_do_not_matter_to_what_is_drawn_at_once():
    rows = [
        field(6, n) + varint(20 << 3 | 1) + np.float64(0.5 + n).tobytes() + field(2, tensor((1, 6))) for n in range(5)
    ]
    taken = check(stream_message(rows))
    assert taken is not None
    assert len(taken.ids) == 5


parts = st.sampled_from([row(1, 2), row(3, 4), row(300, 2**63), row(1, 2, draws=2), row(5, None), b"", b"\x08\x01"])


@given(st.lists(parts, max_size=8), st.none() | st.integers(0, 400), st.integers(0, 60))
@example([row(1, 2)] * 5, None, 1)
def test_any_items_cut_off_anywhere_are_taken_as_they_are_parsed_or_not_at_all(items, length, at):
    body = stream_message(items)[:length]
    check(body, min(at, len(body)))


@given(st.binary(max_size=60), st.integers(0, 20))
def test_any_bytes_are_taken_as_they_are_parsed_or_not_at_all(body, at):
    check(body + stream_message([row(1, 1)] * 5), at)


outputs = st.lists(st.sampled_from(pb.Output.values()[1:]), min_size=1, max_size=8, unique=True)


@given(st.lists(st.tuples(words, words), min_size=4, max_size=9), outputs, st.integers(1, 3), words, words)
def test_responses_are_those_that_each_would_have_alone(asked, wanted, draws, queue_ns, compute_ns):
    rows = [row(n, s, outputs=wanted, draws=draws, top_log_probs=2) for n, s in asked]
    taken = together.decode(stream_message(rows), 0, most)
    assert taken is not None
    drawn = {
        output: np.random.default_rng(1)
        .integers(0, 1 << 30, shape)
        .astype(np.int32 if output in INTEGERS else np.float32)
        for output, shape in taken.request.plan.layout.shapes.items()
    }
    result = SampleResult(taken.request, drawn, queue_ns, compute_ns)
    responses = pb.SampleStreamResponse.FromString(together.encode(result, taken)).responses
    assert len(responses) == len(asked)
    for number, (item, response) in enumerate(zip(rows, responses, strict=True)):
        request = message.decode_anew(pb.SampleRequest.FromString(item))
        arrays = {output: array[number : number + 1] for output, array in drawn.items()}
        alone = message.encode(SampleResult(request, arrays, queue_ns, compute_ns), asked[number][0])
        assert response == pb.SampleResponse.FromString(alone)
