"""Batch invariance: what a row gets does not depend on its company, its place or the number of threads."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from gumball import _codec as client
from gumball import reference
from gumball.errors import InvalidArgument
from gumball_server.domain import (
    PER_DRAW,
    PER_DRAW_AND_CATEGORY,
    TOP,
    Output,
    Parameters,
    SampleRequest,
    SamplingError,
    Source,
)
from gumball_server.kernels import cpu
from gumball_server.validation import sample_request
from gumball_server.worker import Drawn, Worker
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

EXAMPLES = 2000


@dataclass(frozen=True)
class Draw:
    """A request as the strategies make it: small enough to try thousands, varied enough to meet every path."""

    rows: int
    categories: int
    dtype: str
    mode: str
    seed: int
    draws: int
    first_draw: int
    tau: float
    temperature: float
    spread: float
    masked: float
    source: Source
    outputs: frozenset[Output]
    top_k: int | None
    top_p: float | None
    min_p: float | None
    bias: float | None
    distinct: int | None
    top: int | None

    def logits(self) -> np.ndarray:
        """[rows, categories] as float32 values that the dtype can hold."""
        random = np.random.default_rng(self.seed % 1000)
        values = (self.spread * random.standard_normal((self.rows, self.categories))).astype(np.float32)
        values[random.random(values.shape) < self.masked] = -np.inf
        values[:, random.integers(self.categories)] = 0.5
        if self.source is Source.PROBS:
            values = np.where(np.isfinite(values), np.abs(values), np.float32(0))
        if self.dtype == "float16":
            return values.astype(np.float16).astype(np.float32)
        if self.dtype == "bfloat16":
            return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        return values

    def request(self) -> SampleRequest:
        values = self.logits()
        stored = {
            "float32": lambda: values,
            "float16": lambda: values.astype(np.float16),
            "bfloat16": lambda: (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16),
        }[self.dtype]()
        return sample_request(stored, Parameters(mode=self.mode, **self.parameters()), self.source)

    def parameters(self) -> dict[str, Any]:
        """Those beside the mode, by their names in a request."""
        distinct = None if self.distinct is None else min(self.distinct, self.categories)
        wanted = sorted(self.outputs - ({Output.ONE_HOT} if distinct else set()))
        return {
            "outputs": wanted or None,
            "seed": self.seed,
            "draws": self.draws,
            "first_draw": self.first_draw,
            "tau": self.tau,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "logit_bias": None if self.bias is None else {0: self.bias, self.categories - 1: -self.bias},
            "without_replacement": distinct,
            "top_log_probs": None if self.top is None else min(self.top, self.categories),
        }

    def reference(self) -> dict[str, np.ndarray] | None:
        """What the NumPy contract gives, by output; None where it refuses."""
        given = {"seeds": None, "first_row": 0, "mode": self.mode} | self.parameters()
        given["probs" if self.source is Source.PROBS else "logits"] = self.logits()
        try:
            return reference.answer(client.SampleRequest.of(**({"logits": None} | given)))
        except InvalidArgument:
            return None


parameter = st.sampled_from([1.0, 0.5, 2.0, 0.05, 2.0**-40, 2.0**40, 0.7])
draw = st.builds(
    Draw,
    rows=st.integers(1, 4),
    categories=st.one_of(st.integers(1, 40), st.integers(1, 300), st.sampled_from([64, 128, 129, 1000, 2049])),
    dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    mode=st.sampled_from(["hard", "soft", "straight_through"]),
    seed=st.integers(0, 2**64 - 1),
    draws=st.integers(1, 3),
    first_draw=st.sampled_from([0, 1, 2**32 - 3]),
    tau=parameter,
    temperature=parameter,
    spread=st.sampled_from([0.0, 1.0, 5.0, 1000.0]),
    masked=st.sampled_from([0.0, 0.5, 1.0]),
    source=st.sampled_from([Source.LOGITS, Source.LOGITS, Source.PROBS]),
    outputs=st.one_of(st.just(frozenset()), st.frozensets(st.sampled_from([o for o in Output if o not in TOP]))),
    top_k=st.sampled_from([None, None, 1, 3, 50, 1000]),
    top_p=st.sampled_from([None, None, 0.1, 0.5, 0.9, 1.0]),
    min_p=st.sampled_from([None, None, 0.0, 0.05, 0.5, 1.0]),
    bias=st.sampled_from([None, None, 0.25, -3.0, 100.0]),
    distinct=st.sampled_from([None, None, None, 1, 2, 10]),
    top=st.sampled_from([None, None, 1, 5]),
)


@pytest.fixture(scope="module")
def workers() -> Iterator[list[Worker]]:
    """One that computes alone, and one that shares even the smallest batch over three threads."""
    workers = [Worker(cpu.sample_rows, threads=1), Worker(cpu.sample_rows, threads=3, shared_elements=1)]
    yield workers
    for worker in workers:
        worker.close()


def same(left: Drawn, right: Drawn) -> bool:
    """Equal to the last bit, or refused for the same reason."""
    if isinstance(left, SamplingError) or isinstance(right, SamplingError):
        return str(left) == str(right)
    return left.keys() == right.keys() and all(left[name].tobytes() == right[name].tobytes() for name in left)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(draws=st.lists(draw, min_size=1, max_size=6), data=st.data())
def test_a_request_gets_the_same_bits_alone_and_in_any_batch(workers: list[Worker], draws: list[Draw], data):
    """In any order, among any others, on one thread or several."""
    requests = [each.request() for each in draws]
    alone = [workers[0].run([request])[0] for request in requests]
    order = data.draw(st.permutations(range(len(requests))))
    for worker in workers:
        together = worker.run([requests[i] for i in order])
        assert all(same(alone[i], drawn) for i, drawn in zip(order, together, strict=True))


@settings(max_examples=EXAMPLES // 4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(each=draw)
def test_a_request_gets_the_bits_of_the_contract(workers: list[Worker], each: Draw):
    """Whatever its parameters are."""
    expected = each.reference()
    for worker in workers:
        (drawn,) = worker.run([each.request()])
        if expected is None:
            assert isinstance(drawn, SamplingError)
        else:
            assert same({name.value: array for name, array in drawn.items()}, expected)


@settings(max_examples=EXAMPLES // 4, deadline=None)
@given(each=draw)
def test_a_row_with_its_own_seed_gets_the_same_bits_in_a_request_and_by_itself(workers: list[Worker], each: Draw):
    """Rows given by seeds stand alone; rows of one seed continue where an earlier request stopped."""
    logits, seeds = each.logits(), [(each.seed + row) % 2**64 for row in range(each.rows)]
    (together,) = workers[0].run([sample_request(logits, Parameters(mode="straight_through", seeds=seeds))])
    for row, seed in enumerate(seeds):
        (alone,) = workers[0].run([sample_request(logits[row], Parameters(mode="straight_through", seed=seed))])
        assert same({name: array[row : row + 1] for name, array in together.items()}, alone)
    (rows,) = workers[0].run([sample_request(logits, Parameters(seed=each.seed))])
    (last,) = workers[0].run([sample_request(logits[-1], Parameters(seed=each.seed, first_row=each.rows - 1))])
    assert same({name: array[-1:] for name, array in rows.items()}, last)


@settings(max_examples=EXAMPLES // 4, deadline=None)
@given(each=draw, more=st.integers(1, 4))
def test_draws_are_stable_under_asking_for_more(workers: list[Worker], each: Draw, more: int):
    """Draw d of n is the same for every n, and first_draw continues a stream."""
    counts = (each.draws + more, each.draws, more)
    (long,), (start,), (rest,) = (
        worker.run([replace(each, draws=draws, first_draw=first_draw).request()])
        for worker, draws, first_draw in zip((workers[1], *workers), counts, (0, 0, each.draws), strict=False)
    )
    if isinstance(long, SamplingError):
        assert same(long, start)
        return
    of_draws = {*PER_DRAW, *PER_DRAW_AND_CATEGORY} & start.keys()
    joined = start | {name: np.concatenate((start[name], rest[name]), axis=1) for name in of_draws}
    assert same(joined, long)
