"""The noise, proven and not sampled: every claim of the contract about it, over every input that there is.

python tests/statistics/noise.py

The noise of a category comes from a coarse and a fine halfword, 2^32 - 2^16 inputs, or, where the coarse halfword is 0,
from 31 tail bits, 2^31 inputs. All of them go through the functions that the kernels call (``_noise``, ``_arithmetic``,
``_hard``), and beside them through the NumPy contract and through a float64 oracle.

The oracle is exact = -log(-log1p(-v)), v = (X + 1/2) scale, which float64 holds exactly. With log and log1p right to
2 ulp, the relative error of -log1p(-v) is at most 2^-51, which the outer log turns into as much absolute error and to
which it adds at most 2 ulp of 33.3, so the oracle errs by less than 2^-51 + 2^-46.9 < 1e-14. mpmath, at 40 digits,
confirms that on the inputs where anything changes (``oracle_error``). Every comparison below leaves the 1e-14 aside.
"""

import functools
import math
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

import mpmath
import numpy as np
from gumball import contract
from gumball_server.kernels import _hard
from gumball_server.kernels._arithmetic import I32, exponential_tail, log32
from gumball_server.kernels._hard import _noise_bound
from gumball_server.kernels._memory import COMPILED
from gumball_server.kernels._noise import noise_from_bits
from numba import njit
from proof import Verdict, exit_status, report, timed

LOWEST, HIGHEST = -3.1300, 33.2711
# Between 32 and 33.3 neighbouring floats are 3.8e-6 apart: two inputs, of the tail, have their noise there.
ERROR, COARSE_FROM, COARSE_ERROR = 1.1e-6, 32.0, 1.4e-6
ORACLE_ERROR = 1e-14
SLACK = 1.5e-5  # by which g stays below -ln(A/65536)

CHUNK = 1 << 16  # inputs that are looked at together: they stay in the second cache
CHUNKS_A_TASK = 64
HEAD, TAIL = (1 << 16, 1 << 32), (0, 1 << 31)  # the inputs X of either kind

Array = np.ndarray


@dataclass
class Extremes:
    """What was met among some inputs. Of no inputs to begin with."""

    inputs: int = 0
    not_finite: int = 0
    rises: int = 0  # of g as X grows
    differing: int = 0  # from the NumPy contract
    lowest: float = math.inf
    highest: float = -math.inf
    error: float = 0.0  # where the exact value is below COARSE_FROM
    coarse_error: float = 0.0  # where it is not
    over_lazy_bound: float = -math.inf  # the most by which g exceeds -ln(A/65536) - SLACK
    over_tile_bound: float = -math.inf  # the most by which g exceeds the bound that the kernels use

    def __or__(self, other: "Extremes") -> "Extremes":
        """Of the inputs of both."""
        return Extremes(*(_MERGED[f.name](getattr(self, f.name), getattr(other, f.name)) for f in fields(self)))


_MERGED = {
    **dict.fromkeys(("inputs", "not_finite", "rises", "differing"), lambda a, b: a + b),
    **dict.fromkeys(("highest", "error", "coarse_error", "over_lazy_bound", "over_tile_bound"), max),
    "lowest": min,
}


@njit(**COMPILED)
def _tail_noise(x, noise):
    """noise [n] of tail bits x [n], as the kernels' tail_noise has it."""
    for i in range(x.shape[0]):
        noise[i] = -log32(exponential_tail(I32(x[i])))


@njit(**COMPILED)
def _tile_bounds(coarse, bounds):
    for i in range(coarse.shape[0]):
        bounds[i] = _noise_bound(coarse[i])


@njit(**COMPILED)
def _exact(x, scale):
    return -math.log(-math.log1p(-((np.float64(x) + 0.5) * scale)))


@njit(**COMPILED)
def _examine(x, noise, scale, lazy, tile, out):
    """Writes, for ascending x [n], two counts of Extremes and the fields that follow `differing`."""
    not_finite, rises = 0, 0
    lowest, highest, error, coarse_error, over_lazy, over_tile = np.inf, -np.inf, 0.0, 0.0, -np.inf, -np.inf
    for i in range(x.shape[0]):
        g = np.float64(noise[i])
        if not abs(g) < np.inf:
            not_finite += 1
            continue
        if i > 0 and not noise[i] <= noise[i - 1]:
            rises += 1
        coarse = x[i] >> np.uint32(16)
        lowest, highest = min(lowest, g), max(highest, g)
        exact = _exact(x[i], scale)
        if exact < COARSE_FROM:
            error = max(error, abs(g - exact))
        else:
            coarse_error = max(coarse_error, abs(g - exact))
        over_lazy = max(over_lazy, g - lazy[coarse])
        over_tile = max(over_tile, g - tile[coarse])
    out[0], out[1], out[2], out[3], out[4] = not_finite, rises, lowest, highest, error
    out[5], out[6], out[7] = coarse_error, over_lazy, over_tile


@functools.cache
def tile_bounds() -> Array:
    """[65536] float64: the kernels' own bound of the noise, by coarse halfword."""
    bounds = np.empty(1 << 16, np.float32)
    _tile_bounds(np.arange(1 << 16, dtype=np.uint16), bounds)
    return bounds.astype(np.float64)


@functools.cache
def lazy_bounds() -> Array:
    """[65536] float64: the bound that the contract states, by coarse halfword."""
    bounds = np.full(1 << 16, HIGHEST)
    bounds[1:] = -np.log(np.arange(1, 1 << 16) / 65536) - SLACK
    return bounds


def head(x: Array) -> Extremes:
    """Of ascending joined halfwords x [n] uint32 with a coarse half that is not 0."""
    noise = np.empty(x.size, np.float32)
    noise_from_bits(x, noise)
    expected = contract.gumbel_from_bits(x >> np.uint32(16), x & np.uint32(0xFFFF), np.uint32(0))
    return _extremes(x, noise, expected, 2.0**-32, lazy_bounds(), tile_bounds())


def tail(x: Array) -> Extremes:
    """Of ascending tail bits x [n] uint32, below 2^31."""
    noise = np.empty(x.size, np.float32)
    _tail_noise(x, noise)
    expected = contract.gumbel_from_bits(np.uint32(0), np.uint32(0), x << np.uint32(1))
    # Whatever the tail bits are, the coarse halfword is 0.
    lazy, tile = (np.full(1 << 15, bounds[0]) for bounds in (lazy_bounds(), tile_bounds()))
    return _extremes(x, noise, expected, 2.0**-47, lazy, tile)


def _extremes(x: Array, noise: Array, expected: Array, scale: float, lazy: Array, tile: Array) -> Extremes:
    out = np.empty(8)
    _examine(x, noise, scale, lazy, tile, out)
    differing = int((noise.view(np.uint32) != expected.view(np.uint32)).sum())
    return Extremes(x.size, int(out[0]), int(out[1]), differing, *out[2:].tolist())


def seam() -> Extremes:
    """Of the two inputs where the kinds meet: the least noise of the tail, and the most of the rest."""
    x = np.array([TAIL[1] - 1, HEAD[0]], np.uint32)
    noise = np.empty(2, np.float32)
    _tail_noise(x[:1], noise[:1])
    noise_from_bits(x[1:], noise[1:])
    return Extremes(rises=int(noise[1] > noise[0]))


def claims(met: Extremes, size: str) -> list[Verdict]:
    """What the contract says of the noise, against what was met."""
    least, most = np.float64(_hard._LEAST_SCORE), np.float64(_hard._MOST_NOISE)
    descending = bool((np.diff(tile_bounds()) <= 0).all())
    return [
        Verdict(claim, size, found, bool(holds))
        for claim, found, holds in (
            ("noise: finite", f"{met.not_finite} not finite", met.not_finite == 0),
            (
                f"noise: from {LOWEST:.4f} to {HIGHEST}",
                f"{met.lowest:.6f} to {met.highest:.6f}",
                met.lowest >= LOWEST and met.highest <= HIGHEST,
            ),
            ("noise: non-increasing in (coarse, fine, tail)", f"{met.rises} rises", met.rises == 0),
            (
                f"noise: within {ERROR} of -log(-log1p(-v)), where that is below 32",
                f"largest error {met.error:.4e}",
                met.error <= ERROR - ORACLE_ERROR,
            ),
            (
                f"noise: within {COARSE_ERROR} of it above 32",
                f"largest error {met.coarse_error:.4e}",
                met.coarse_error <= COARSE_ERROR - ORACLE_ERROR,
            ),
            (
                f"noise: at most -ln(A/65536) - {SLACK}, and {HIGHEST} at A = 0",
                f"nearest {-met.over_lazy_bound:.2e} below",
                met.over_lazy_bound <= -ORACLE_ERROR,
            ),
            (
                "noise: at most the kernels' bound of its coarse halfword",
                f"nearest {-met.over_tile_bound:.2e} below",
                met.over_tile_bound <= 0 and descending,
            ),
            (
                "noise: within the kernels' constants for a whole tile",
                f"{least:.4f} and {most:.4f}",
                least <= met.lowest and met.highest <= most,
            ),
            ("noise: kernels and NumPy contract, bit for bit", f"{met.differing} differ", met.differing == 0),
        )
    ]


def turning_points(low: int, high: int) -> Array:
    """Ascending uint32 from low to high: near the ends, near every power of two from either end, and between."""
    around = np.arange(-40, 41)
    powers = 2 ** np.arange(33)
    near = np.concatenate([around + at for at in (low, high, *powers, *(high - powers), *(3 * powers // 2))])
    spread = np.arange(low, high, (high - low) // 4096 + 1)
    x = np.unique(np.concatenate((near, spread)))
    return x[(x >= low) & (x < high)].astype(np.uint32)


def oracle_error() -> float:
    """The largest error of the oracle, found with mpmath at 40 digits, over the turning points of either kind."""
    worst = 0.0
    with mpmath.workdps(40):
        for (low, high), bits in ((HEAD, 32), (TAIL, 47)):
            for x in turning_points(low, high).tolist():
                exact = -mpmath.log(-mpmath.log1p(-(x + mpmath.mpf(0.5)) / 2**bits))
                worst = max(worst, abs(float(exact - mpmath.mpf(_exact(x, 2.0**-bits)))))
    return worst


def oracle_holds() -> Verdict:
    """The oracle against mpmath."""
    worst = oracle_error()
    points = sum(turning_points(*ends).size for ends in (HEAD, TAIL))
    return Verdict(
        f"noise: the oracle is within {ORACLE_ERROR} of mpmath's 40 digits",
        f"{points:,} turning points",
        f"largest error {worst:.2e}",
        worst < ORACLE_ERROR,
    )


def strata() -> Extremes:
    """Of a part of the inputs that meets every coarse halfword, every change of it, and all scales of the tail."""
    coarse = np.arange(1, 1 << 16, dtype=np.uint32) << np.uint32(16)
    fines = np.array([0, 1, 2, 255, 0x7FFF, 0x8000, 0xFFFD, 0xFFFE, 0xFFFF], np.uint32)
    met = seam() | head((coarse[:, None] | fines).ravel()) | head(turning_points(*HEAD)) | tail(turning_points(*TAIL))
    fine = np.arange(1 << 16, dtype=np.uint32)
    for a in (1, 2, 3, 0x4AFB, 0x7FFF, 0x8000, 0xA1D1, 0xFFFE, 0xFFFF):
        met |= head(np.uint32(a << 16) | fine)
    for block in (0, 1, 2, 0x3FFF, 0x4000, 0x7FFE, 0x7FFF):
        met |= tail(np.uint32(block << 16) | fine)
    return met


def _chunks() -> Iterator[tuple[bool, int, int]]:
    """(whether of the tail, first, end) of every chunk of every kind."""
    for in_tail, (low, high) in ((False, HEAD), (True, TAIL)):
        for first in range(low, high, CHUNK * CHUNKS_A_TASK):
            yield in_tail, first, min(first + CHUNK * CHUNKS_A_TASK, high)


def _all_between(in_tail: bool, first: int, end: int) -> Extremes:
    low = (TAIL if in_tail else HEAD)[0]
    met = Extremes()
    for start in range(first, end, CHUNK):
        before = start > low  # so that the step into this chunk is looked at too
        met |= (tail if in_tail else head)(np.arange(start - before, start + CHUNK, dtype=np.uint32))
        met.inputs -= before
    return met


def everything() -> Extremes:
    """Of every input; takes minutes, and says how far it is."""
    tasks, start = list(_chunks()), time.monotonic()
    met = seam()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, part in enumerate(pool.map(lambda task: _all_between(*task), tasks), 1):
            met |= part
            if done % (len(tasks) // 20) == 0:
                elapsed = time.monotonic() - start
                print(f"  {met.inputs:,} inputs, largest error {met.error:.4e}, {elapsed:.0f} s", flush=True)
    assert met.inputs == HEAD[1] - HEAD[0] + TAIL[1]
    return met


def verdicts() -> Iterator[Verdict]:
    """Every claim, over every input. They are found together, so the first has the time of all."""
    yield from timed((oracle_holds,))
    start = time.monotonic()
    met = everything()
    first, *others = claims(met, f"all {met.inputs:,} inputs")
    yield replace(first, seconds=time.monotonic() - start)
    yield from others


if __name__ == "__main__":
    sys.exit(exit_status(report(verdicts())))
