"""The claims about the exponential and the logarithm, over a part of the floats that meets every binade."""

import numpy as np
import pytest
import weights as w


def test_the_exponential_is_close_and_never_grows_on_the_strata():
    """From -0 to -64, and 0 below."""
    verdict = w.exp_claim(w.strata(w.exponentials, *w.EXP_BITS), "strata")
    assert verdict.holds, verdict


def test_the_logarithm_is_close_and_never_falls_on_the_strata():
    """Of positive normal floats."""
    verdict = w.log_claim(w.strata(w.logarithms, *w.LOG_BITS), "strata")
    assert verdict.holds, verdict


@pytest.mark.parametrize("met", [(2.5e-7, 0, 0), (0.0, 1, 0), (0.0, 0, 1)])
def test_a_violation_fails_its_claim(met: w.Extremes):
    """An error, a step in the wrong direction, a bit that is not the contract's."""
    assert not w.exp_claim(met, "").holds
    assert not w.log_claim(met, "").holds


@pytest.mark.parametrize("examine", [w.exponentials, w.logarithms])
def test_a_run_over_everything_meets_every_float_and_every_step(examine):
    """Cut anywhere, it finds what one look at the whole finds."""
    low, high = w.EXP_BITS if examine is w.exponentials else w.LOG_BITS
    middle = (low + high) // 2
    bits = np.arange(middle, middle + 3 * w.CHUNK + 5, dtype=np.uint32)
    assert w.everything(examine, middle, middle + bits.size) == examine(bits)
