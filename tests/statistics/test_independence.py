"""The battery in small: the service passes each of its tests, and a source that is wrong does not."""

import functools
from collections.abc import Callable, Iterator

import independence as i
import numpy as np
import pytest
import sources as s
from proof import Verdict
from samplers import Kernels
from scipy import stats

KERNELS, SOURCE = Kernels(), i.KernelSource()
N = 1 << 13

# (a test in CI size, what passes, what fails)
CASES: list[tuple[Callable[..., Verdict], object, object]] = [
    (functools.partial(i.fields_apart, field="seed", n=N), SOURCE, s.Rekeyed(s.low_bit_lost)),
    (functools.partial(i.fields_apart, field="seed", n=N), SOURCE, s.Rekeyed(s.high_seed_lost)),
    (functools.partial(i.fields_apart, field="row", n=N), SOURCE, s.Rekeyed(s.rows_shared)),
    (functools.partial(i.fields_apart, field="draw", n=N), SOURCE, s.Rekeyed(s.draws_shared)),
    (functools.partial(i.fields_apart, field="draw", n=N), SOURCE, s.FewRounds(3)),
    (functools.partial(i.fields_swapped, n=N), SOURCE, s.Rekeyed(s.row_plus_draw)),
    (functools.partial(i.categories_apart, n=1 << 17), SOURCE, s.SharedByBlock()),
    (functools.partial(i.streams_apart, n=N), SOURCE, s.FineFromCoarse()),
    (functools.partial(i.sequence, axis="category", n=1 << 17), SOURCE, s.Mersenne16()),
    (functools.partial(i.sequence, axis="category", n=1 << 17), SOURCE, s.FewRounds(2)),
    *((functools.partial(i.sequence, axis=axis, n=1 << 17), SOURCE, s.Mersenne16()) for axis in i.Key._fields),
    (functools.partial(i.sequence, axis="seed", n=1 << 17), SOURCE, s.Rekeyed(s.low_bit_lost)),
    (functools.partial(i.sequence, axis="row", n=1 << 17), SOURCE, s.FewRounds(3)),
    *(
        (functools.partial(i.joint_table, axis=axis, categories=k, draws=1 << 16), KERNELS, s.SharedDraws())
        for axis in i.Key._fields
        for k in (8, 1024)
    ),
    *((functools.partial(i.runs_of_draws, axis=axis, n=1 << 16), KERNELS, s.SharedDraws()) for axis in i.Key._fields),
]
NAMES = [
    f"{case.func.__name__}-{'-'.join(map(str, case.keywords.values()))}-{number}"
    for number, (case, _, _) in enumerate(CASES)
]


@pytest.mark.parametrize(("case", "right", "wrong"), CASES, ids=NAMES)
def test_the_service_passes_and_a_wrong_source_does_not(case: Callable[..., Verdict], right: object, wrong: object):
    """The same test, of the same size and seed."""
    passed, failed = case(right), case(wrong)
    assert passed.holds, passed
    assert not failed.holds, failed


@pytest.mark.parametrize("stream", [i.coarse_stream, i.joined_stream])
def test_the_streams_for_dieharder_pass_the_battery_of_words(stream: Callable[[], Iterator[np.ndarray]]):
    """A stream with a slip of its own would tell nothing of the service."""
    pieces = stream()
    words = np.concatenate([next(pieces).copy().view(np.uint32).ravel() for _ in range(4)])
    p_values = [i.collisions(words), i.birthday_spacings(words), i.runs_up(words), i.serial_pairs(words)]
    assert min(*p_values, *i.runs_of_bits(words), *i.uniform_words(words)) >= i.LIMIT


def test_p_values_that_crowd_are_refused_though_none_is_small():
    """A family holds only if its p-values are as uniform as chance makes them."""
    even = ((np.arange(200) + 0.5) / 200).tolist()
    assert i.uniform("", "", even).holds
    assert not i.uniform("", "", [p / 3 for p in even]).holds
    assert not i.uniform("", "", [*even, 1e-7]).holds


def test_the_count_of_changes_has_the_variance_that_is_claimed():
    """4,000 sequences of NumPy's own generator, at p = 0.3."""
    draws = np.random.default_rng(1).random((4000, 500)) < 0.3
    changes = np.count_nonzero(np.diff(draws, axis=1), axis=1)
    z = (changes - i.changes_of(0.3, 500).mean()) / i.changes_of(0.3, 500).std()
    assert stats.kstest(z, "norm").statistic < 0.03
