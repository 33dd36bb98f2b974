"""The distribution tests in small: the service passes each of them, and a sampler that is wrong does not."""

import functools
from collections.abc import Callable

import distribution as d
import numpy as np
import pytest
import samplers as s
from proof import Verdict
from scipy import stats

KERNELS, CONTRACT = s.Kernels(), s.Contract()
ONE_PERCENT = s.OffByOnePercent(KERNELS)

# (a test in CI size, a sampler that passes, one that fails)
CASES: list[tuple[Callable[..., Verdict], object, object]] = [
    (functools.partial(d.categories_fit, categories=16, draws=1 << 22), KERNELS, ONE_PERCENT),
    (
        functools.partial(d.categories_fit, categories=16, draws=1 << 18, temperature=0.5),
        KERNELS,
        s.NoTemperature(KERNELS),
    ),
    (functools.partial(d.categories_fit, categories=300, draws=1 << 16), KERNELS, s.FewBits(10)),
    (functools.partial(d.real_row_fits, draws=4000), KERNELS, s.NoTemperature(KERNELS)),
    (functools.partial(d.soft_index_fits, categories=200, draws=1 << 16), KERNELS, s.TauOnLogitsOnly(KERNELS)),
    (functools.partial(d.rare_category, p=1e-5, draws=10**7), KERNELS, s.FewBits(16)),
    (functools.partial(d.rare_category, p=1e-6, draws=5 * 10**6, rare=7), KERNELS, s.FewBits(16)),
    (functools.partial(d.tail_race, tail=129_279, gap=18.0, draws=20_000), KERNELS, s.FewBits(24)),
    (functools.partial(d.ordered_outcomes_fit, draws=1 << 17), CONTRACT, s.SortedOutcome()),
    (functools.partial(d.ordered_outcomes_fit, draws=1 << 17), CONTRACT, s.FirstThenMostLikely()),
    (functools.partial(d.soft_marginals, categories=2, tau=0.3, draws=1 << 17), KERNELS, s.TauOnLogitsOnly(KERNELS)),
    (functools.partial(d.soft_marginals, categories=200, tau=1.0, draws=1 << 15), KERNELS, s.NoTemperature(KERNELS)),
    (functools.partial(d.soft_mean, tau=0.2, draws=1 << 17), KERNELS, s.TauOnLogitsOnly(KERNELS)),
    (functools.partial(d.soft_peaks_at_index, draws=1 << 15), KERNELS, s.ShiftedIndex(KERNELS)),
    (functools.partial(d.cold_is_argmax, draws=5000), KERNELS, s.NoTemperature(KERNELS)),
    (functools.partial(d.hot_is_uniform, draws=1 << 16), KERNELS, s.NoTemperature(KERNELS)),
    (functools.partial(d.tau_limits, draws=3000), KERNELS, s.TauOnLogitsOnly(KERNELS)),
    (functools.partial(d.top_k_keeps_k, rows=200), CONTRACT, s.KeepsTies()),
    (functools.partial(d.top_p_keeps_the_nucleus, rows=200), CONTRACT, s.LeavesOutTheCrossing()),
    (functools.partial(d.min_p_keeps_the_likely, rows=200), CONTRACT, s.LeavesOutTheCrossing()),
    (functools.partial(d.log_probs_are_exact, rows=200), CONTRACT, s.Float16Logits()),
    (functools.partial(d.entropy_is_exact, rows=200), CONTRACT, s.Float16Logits()),
    (functools.partial(d.worst_rows_are_close, categories=1 << 20, rows=3, bound=1.5e-6), CONTRACT, s.Float16Logits()),
]
NAMES = [f"{case.func.__name__}-{type(wrong).__name__}" for case, _, wrong in CASES]


@pytest.mark.parametrize(("case", "right", "wrong"), CASES, ids=NAMES)
def test_the_service_passes_and_a_wrong_sampler_does_not(case: Callable[..., Verdict], right: object, wrong: object):
    """The same test, of the same size and seed."""
    passed, failed = case(right), case(wrong)
    assert passed.holds, passed
    assert not failed.holds, failed


def test_the_24_bit_sampler_loses_the_whole_tail_race():
    """Where the service draws 33 of 262,144 categories that lie 20.5 below the largest, 24 bits draw none."""
    failed = d.tail_race(s.FewBits(24), tail=262_144, gap=20.5, draws=100_000)
    assert failed.found.startswith("0 drawn of 32.8")
    assert not failed.holds


def test_plackett_luce_probabilities_are_a_distribution():
    """60 outcomes; the first category of an outcome alone has its softmax probability."""
    logits = np.array([0.0, 0.5, -1.0, 1.25, 0.1], np.float32)
    outcomes = d.plackett_luce(logits, 3)
    firsts = [sum(p for outcome, p in outcomes.items() if outcome[0] == c) for c in range(5)]
    assert len(outcomes) == 60
    assert np.allclose(firsts, d.probabilities(logits), rtol=1e-12)


def test_p_values_are_two_sided():
    """A fit that is too good is refused like one that is too bad."""
    assert d.two_sided(stats.chi2(15), 0.01) < d.LIMIT
    assert d.two_sided(stats.chi2(15), 80.0) < d.LIMIT
    assert d.two_sided(stats.poisson(33.0), 33) > 0.9
