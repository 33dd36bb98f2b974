"""Whether top_p surely keeps a category, told without finding where it cuts.

Most rows want one draw, and most draws of the unfiltered row are of a category that the filter keeps; then that draw is
the filtered one too, since a filter changes no noise. A category is kept if the weights before it in the order add up
to less than the share of the sum, and bounds of both sums are often enough to tell.

The bounds. With d / ln 2 = i + f, exp(d) = 2^f 2^i, and 2^f is 1 + f - 0.34 f (1 - f) but for a factor from 0.997 to
1.003; the roundings come to less than 1e-4. The bits of a float are i and f already, if read as a fixed-point number.
Sums are of integers, weights times 2^20 cut off: a lower bound as they are, an upper one with 1 added for each.
"""

import numpy as np
from numba import njit

from gumball_server.kernels._arithmetic import F32, I32, I64, bits_of, exp32, float_of, shifted
from gumball_server.kernels._logits import CHUNK, CHUNK_BYTES, logit_at, read_distances
from gumball_server.kernels._memory import COMPILED, SPLICED, float32_at, stack
from gumball_server.kernels._vectors import TILE

_LOWEST = F32(-80)  # its weight is a normal number, and less than a step
_BITS_A_NAT = F32(2**23 / np.log(2))
_ONE_BITS, _FRACTION = I32(127 << 23), I32((1 << 23) - 1)
_ONE, _TWO, _BEND = F32(1), F32(2), F32(0.34)
_STEPS, _LESS_STEPS = F32(2**20), F32(0.999 * 2**20)

_ERROR = 1.0035  # the factor by which either sum may err
_NEAR = F32(-6)  # tiles whose peak is lower count for that peak alone, if the category is not among them


@njit(**COMPILED)
def _bounds(distances, least):
    """The sum of the weights of up to CHUNK distances in steps, and of those at least `least`, with 1 for each."""
    total, above = I32(0), I32(0)
    for i in range(distances.shape[0]):
        d = distances[i]
        bits = I32((max(d, _LOWEST)) * _BITS_A_NAT)
        line = float_of(I32((bits & _FRACTION) | _ONE_BITS))
        curve = line - _BEND * ((line - _ONE) * (_TWO - line))
        u = I32(float_of(I32(bits_of(curve) + I32(bits & ~_FRACTION))) * _STEPS)
        total = I32(total + u)
        above = I32(above + (I32(u + I32(1)) if d >= least else I32(0)))
    return I64(total), I64(above)


@njit(**SPLICED)
def asks_for_one_category(record):
    """Whether nothing of a row is wanted but one draw that top_p, or top_p and min_p, may have to rule out."""
    return (
        record.draws == 1
        and record.top_p < 1.0
        and record.top_k >= record.categories
        and record.temperature != 0.0
        and record.distinct == 1
        and (record.are_probs | record.biases) == 0
        and (record.soft | record.log_soft | record.log_prob | record.probs | record.entropy) == 0
        and (record.top_index | record.top_log_prob) == 0
    )


@njit(**COMPILED)
def surely_kept(record, peaks, peak, inv_temperature, category, least_kept):
    """Whether a category passes for sure, given the peaks [tiles] of the distances; False may be either."""
    scratch, shift = float32_at(stack(CHUNK_BYTES), CHUNK), float32_at(stack(CHUNK_BYTES), CHUNK)
    distance = shifted(logit_at(record, category), peak, inv_temperature)
    if distance < least_kept:
        return False
    near = min(distance, _NEAR)
    total, above = I64(0), -I64(exp32(distance) * _LESS_STEPS)  # without the category itself, but for a thousandth
    t, tiles = 0, peaks.shape[0]
    while t < tiles:
        if peaks[t] < near:
            total += I64(exp32(peaks[t]) * _STEPS)
            t += 1
            continue
        end = t + 1
        while end < tiles and TILE * (end - t) < CHUNK and peaks[end] >= near:
            end += 1
        n = min(TILE * end, record.categories) - TILE * t
        distances = read_distances(record, TILE * t, n, peak, inv_temperature, scratch, shift)
        sums = _bounds(distances, distance)
        total, above = total + sums[0], above + sums[1]
        t = end
    return np.float64(above) * (_ERROR * _ERROR) < record.top_p * np.float64(total)
