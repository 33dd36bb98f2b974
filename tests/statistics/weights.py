"""The exponential and the logarithm of the contract, proven over every float that they take.

python tests/statistics/weights.py

exp32 makes every weight, so all soft samples, probabilities and nuclei; log32 makes logits of weights and logarithms of
sums. Both go through the kernels' own functions, beside float64's, whose error (below 2^-50 of the value, or of 1 for
logarithms near 0, where log1p is taken) is nothing beside the bounds.
"""

import math
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from gumball import contract
from gumball_server.kernels._arithmetic import exp32, log32
from gumball_server.kernels._memory import COMPILED
from numba import njit
from proof import Verdict, exit_status, report, timed

EXP_ERROR = 2.0**-22  # relative
LOG_ERROR = 2.0**-23  # absolute below 1, relative above

CHUNK = 1 << 16
EXP_BITS = (0x8000_0000, 0xC280_0001)  # -0 to -64
LOG_BITS = (0x0080_0000, 0x7F80_0000)  # 2^-126 to the largest

Array = np.ndarray
Extremes = tuple[float, int, int]  # largest error, steps in the wrong direction, values that are not the contract's


@njit(**COMPILED)
def _exp(t, w):
    for i in range(t.shape[0]):
        w[i] = exp32(t[i])


@njit(**COMPILED)
def _log(y, x):
    for i in range(y.shape[0]):
        x[i] = log32(y[i])


@njit(**COMPILED)
def _exp_error(t, w):
    """The largest relative error, and how often w grows or leaves [0, 1] as t falls."""
    error, wrong = 0.0, 0
    for i in range(t.shape[0]):
        exact = math.exp(np.float64(t[i]))
        error = max(error, abs(np.float64(w[i]) - exact) / exact)
        if not (0.0 < w[i] <= 1.0) or (i > 0 and w[i] > w[i - 1]):
            wrong += 1
    return error, wrong


@njit(**COMPILED)
def _log_error(y, x):
    """The largest error over max(1, |log y|), and how often x falls as y grows."""
    error, wrong = 0.0, 0
    for i in range(y.shape[0]):
        v = np.float64(y[i])
        exact = math.log1p(v - 1.0) if 0.5 < v < 2.0 else math.log(v)
        error = max(error, abs(np.float64(x[i]) - exact) / max(1.0, abs(exact)))
        if not abs(x[i]) < np.inf or (i > 0 and x[i] < x[i - 1]):
            wrong += 1
    return error, wrong


def exponentials(bits: Array) -> Extremes:
    """Of ascending bits [n] uint32 of floats from -0 down."""
    t = bits.view(np.float32)
    w = np.empty_like(t)
    _exp(t, w)
    return (*_exp_error(t, w), _differing(w, contract.exp32(t)))


def logarithms(bits: Array) -> Extremes:
    """Of ascending bits [n] uint32 of positive normal floats."""
    y = bits.view(np.float32)
    x = np.empty_like(y)
    _log(y, x)
    return (*_log_error(y, x), _differing(x, contract.log_weights(y)[0]))


def _differing(a: Array, b: Array) -> int:
    return int((a.view(np.uint32) != b.view(np.uint32)).sum())


def merged(parts: Iterator[Extremes]) -> Extremes:
    error, wrong, differing = zip(*parts, strict=True)
    return max(error), sum(wrong), sum(differing)


def everything(examine: Callable[[Array], Extremes], low: int, high: int) -> Extremes:
    """Of every pattern from low to high, each with its neighbour."""
    starts = range(low, high, CHUNK)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        chunks = pool.map(
            lambda s: examine(np.arange(max(low, s - 1), min(s + CHUNK, high), dtype=np.uint32)), starts, chunksize=64
        )
        return merged(chunks)


def strata(examine: Callable[[Array], Extremes], low: int, high: int) -> Extremes:
    """Of some patterns in every binade, and all about its ends."""
    ends = np.arange(low, high, 1 << 23)[:, None]
    near = ends + np.arange(-300, 301)
    spread = ends + (np.arange(4096) << 11)
    bits = np.unique(np.concatenate((near.ravel(), spread.ravel(), high - 1 - np.arange(300))))
    return examine(bits[(bits >= low) & (bits < high)].astype(np.uint32))


def exp_claim(met: Extremes, size: str) -> Verdict:
    """exp32 from -0 to -64: close, in (0, 1], never growing as t falls; then 0."""
    error, wrong, differing = met
    below = np.array([np.nextafter(np.float32(-64), np.float32(-65)), -65, -1e30, -np.inf], np.float32)
    zero = np.empty_like(below)
    _exp(below, zero)
    return Verdict(
        "weights: exp32 within 2^-22, falling from 1, 0 below -64, as contract",
        size,
        f"largest error {error:.3e}, {wrong} rises, {differing} differ",
        error < EXP_ERROR and wrong == 0 and differing == 0 and not zero.any(),
    )


def log_claim(met: Extremes, size: str) -> Verdict:
    """log32 of positive normal floats: close and never falling."""
    error, wrong, differing = met
    return Verdict(
        "weights: log32 within 2^-23 max(1, |x|), never falling, as contract",
        size,
        f"largest error {error:.3e}, {wrong} falls, {differing} differ",
        error < LOG_ERROR and wrong == 0 and differing == 0,
    )


def verdicts() -> Iterator[Verdict]:
    """Of both functions, over everything."""
    return timed(
        (
            lambda: exp_claim(everything(exponentials, *EXP_BITS), f"all {EXP_BITS[1] - EXP_BITS[0]:,} floats"),
            lambda: log_claim(everything(logarithms, *LOG_BITS), f"all {LOG_BITS[1] - LOG_BITS[0]:,} floats"),
        )
    )


if __name__ == "__main__":
    sys.exit(exit_status(report(verdicts())))
