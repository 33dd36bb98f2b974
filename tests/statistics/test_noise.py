"""The claims about the noise, over a part of the inputs that meets every coarse halfword and all scales of the tail."""

import dataclasses

import noise
import numpy as np
import pytest


@pytest.fixture(scope="module")
def strata() -> noise.Extremes:
    return noise.strata()


def test_every_claim_about_the_noise_holds_on_the_strata(strata: noise.Extremes):
    """All coarse halfwords, all steps from one to the next, every fine half of some, and every scale of the tail."""
    assert strata.inputs > 1_500_000
    assert [str(verdict) for verdict in noise.claims(strata, "strata") if not verdict.holds] == []


def test_the_oracle_is_as_good_as_it_says():
    """mpmath at 40 digits, on the inputs where anything changes."""
    assert noise.oracle_holds().holds


def test_the_full_run_covers_every_input_once():
    """Its tasks lie end to end, from the first input of each kind to the last."""
    tasks = list(noise._chunks())
    for in_tail, (low, high) in ((False, noise.HEAD), (True, noise.TAIL)):
        ends = [(first, end) for kind, first, end in tasks if kind is in_tail]
        assert [ends[0][0], *(end for _, end in ends)] == [*(first for first, _ in ends), high]
        assert ends[0][0] == low


def test_a_task_of_the_full_run_looks_at_each_of_its_inputs():
    """And at the step into each chunk, without counting its input twice."""
    met = noise._all_between(False, 0x8000_0000, 0x8002_0000)
    assert met.inputs == 0x2_0000
    assert [verdict.claim for verdict in noise.claims(met, "two chunks") if not verdict.holds] == []


@pytest.mark.parametrize(
    ("worse", "claim"),
    [
        ({"not_finite": 1}, "finite"),
        ({"rises": 1}, "non-increasing"),
        ({"differing": 1}, "bit for bit"),
        ({"lowest": -3.13001}, "from -3.13"),
        ({"highest": 33.2712}, "from -3.13"),
        ({"error": 1.1001e-6}, "where that is below 32"),
        ({"coarse_error": 1.4001e-6}, "above 32"),
        ({"over_lazy_bound": 1e-12}, "at most -ln(A/65536)"),
        ({"over_tile_bound": 1e-12}, "kernels' bound"),
        ({"lowest": -3.131}, "constants for a whole tile"),
    ],
)
def test_a_violation_fails_its_claim(strata: noise.Extremes, worse: dict[str, float], claim: str):
    """What is found anywhere survives being merged with all the rest, and is told."""
    met = strata | dataclasses.replace(noise.Extremes(), **worse)
    assert any(claim in verdict.claim for verdict in noise.claims(met, "strata") if not verdict.holds)


@pytest.mark.parametrize("bits", [np.uint32(1) << np.uint32(b) for b in (0, 12, 22)])
def test_a_wrong_bit_of_the_noise_is_seen(bits: np.uint32):
    """One flipped bit of one noise among 2,000 differs from the contract, however low the bit is."""
    x = noise.turning_points(*noise.HEAD)[:2000]
    right = noise.contract.gumbel_from_bits(x >> np.uint32(16), x & np.uint32(0xFFFF), np.uint32(0))
    wrong = right.copy()
    wrong.view(np.uint32)[1000] ^= bits
    met = noise._extremes(x, wrong, right, 2.0**-32, noise.lazy_bounds(), noise.tile_bounds())
    assert met.differing == 1
