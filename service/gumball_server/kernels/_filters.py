"""Filters: each keeps a prefix of the order of the distances, and so is a cut.

The cut of top_p lies where the integer weights, summed in that order, reach a share of their sum. It is found by a
histogram of the weights over equal steps of the distance, and then among the categories of one bin. Categories below a
floor stay out of it: all of them together weigh less than what top_p leaves away.
"""

import numpy as np
from numba import njit

from gumball_server.kernels._arithmetic import (
    F32,
    I32,
    I64,
    MINUS_INFINITY,
    bits_of,
    exp32,
    float_of,
    grid_weight,
    log32,
    ordered,
)
from gumball_server.kernels._distribution import WEIGHTLESS, weigh_tile
from gumball_server.kernels._memory import COMPILED, INLINED, SPLICED, float32_at, int32_at, int64_at, stack
from gumball_server.kernels._order import cut_at, gather, keep, rank_cut, rank_floor, reach
from gumball_server.kernels._tiles import tile_of
from gumball_server.kernels._vectors import TILE, lowest_set_bit, mask_at_least, set_bits
from gumball_server.kernels._work import BINS, histogram_of, images_of

_SMALLEST_NORMAL = F32(2.0**-126)
_SLACK = F32(1e-2)  # more than all roundings of the floor and of the edges of bins come to
_LAST_BIN = F32(BINS - 1)
_SPARSE = 16  # categories of a tile that are better looked at one by one

_TILE_BYTES, _TILE_BYTES64 = 4 * TILE, 8 * TILE


@njit(**SPLICED)
def least_kept(record):
    """The cut of min_p; -inf where it is off."""
    return log32(F32(record.min_p)) if F32(record.min_p) >= _SMALLEST_NORMAL else MINUS_INFINITY


@njit(**SPLICED)
def floor_of(record, peaks, work):
    """A distance below which no category passes the filters, told from the peaks [tiles] alone."""
    floor = rank_floor(peaks, record.top_k, work) if record.top_k < record.categories else MINUS_INFINITY
    return floor if record.top_p < 1.0 else max(floor, least_kept(record))


@njit(**SPLICED)
def _light(record, peaks):
    """A distance such that the categories below weigh less, together, than top_p leaves away; at most -_SLACK."""
    at_least = np.float64(0)  # the sum of weights
    for t in range(peaks.shape[0]):
        at_least += np.float64(exp32(peaks[t]))
    share = F32((1.0 - record.top_p) * at_least / np.float64(record.categories))
    return max(min(log32(share), F32(0)) if share >= _SMALLEST_NORMAL else WEIGHTLESS, WEIGHTLESS) - _SLACK


@njit(**INLINED)
def _bin(distance, scale):
    """Bins count down from distance 0."""
    x = -distance * scale
    return I32(min(_LAST_BIN, x))


@njit(**COMPILED)
def _weigh_by_bin(values, peaks, floor, scale, histogram):
    """Adds the weights from a floor up to the histogram; returns the integer sum of all."""
    weights, bins = float32_at(stack(_TILE_BYTES), TILE), int32_at(stack(_TILE_BYTES), TILE)
    masses = int64_at(stack(_TILE_BYTES64), TILE)
    total = I64(0)
    for t in range(peaks.shape[0]):
        if peaks[t] <= WEIGHTLESS:
            continue
        tile = tile_of(values, t)
        total += weigh_tile(tile, weights)
        if peaks[t] < floor:
            continue
        mask = mask_at_least(tile, floor)
        if set_bits(mask) <= _SPARSE:
            while mask != 0:
                i = lowest_set_bit(mask)
                mask &= mask - np.uint64(1)
                histogram[_bin(tile[i], scale)] += grid_weight(weights[i])
        else:
            for i in range(TILE):
                bins[i] = _bin(tile[i], scale)
                weights[i] = weights[i] if tile[i] >= floor else F32(0)
            for i in range(TILE):
                masses[i] = grid_weight(weights[i])
            for i in range(TILE):
                histogram[np.uint64(bins[i])] += masses[i]
    return total


@njit(**COMPILED)
def _gather_bin(values, peaks, floor, scale, wanted, images):
    """images[:n] of the distances in a bin, from a floor up; returns n."""
    low = max(floor, -F32(wanted + 1) / scale - _SLACK)
    high = -F32(wanted) / scale + _SLACK
    n = 0
    for t in range(peaks.shape[0]):
        if peaks[t] >= low:
            tile = tile_of(values, t)
            mask = mask_at_least(tile, low) & ~mask_at_least(tile, high)
            while mask != 0:
                distance = tile[lowest_set_bit(mask)]
                mask &= mask - np.uint64(1)
                images[n] = ordered(bits_of(distance))
                n += 1 if _bin(distance, scale) == wanted else 0
    return n


@njit(**SPLICED)
def _keep_top_p(record, values, peaks, work):
    images, histogram = images_of(work), histogram_of(work)
    floor = _light(record, peaks)
    scale = _LAST_BIN / -floor
    histogram[:] = 0
    total = _weigh_by_bin(values, peaks, floor, scale, histogram)
    enough = I64(np.ceil(record.top_p * np.float64(total)))
    if enough > total:
        return
    needed, found = enough, 0
    while found < BINS and histogram[found] < needed:
        needed -= histogram[found]
        found += 1
    if found < BINS:
        n = _gather_bin(values, peaks, floor, scale, found, images)
    else:  # as good as nothing is left away
        needed, n = enough, gather(values, peaks, MINUS_INFINITY, images)
    image, needed, ties = reach(images[:n], needed, True, histogram)
    each = grid_weight(exp32(float_of(ordered(image))))
    x, last = cut_at(values, peaks, image, (needed + each - 1) // each, ties)
    keep(values, peaks, x, last)


@njit(**COMPILED)
def filter_row(record, values, peaks, floor, work):
    """Masks what the filters do not keep of the distances values [padded]; peaks [tiles] follow."""
    if record.top_k < record.categories:
        x, last = rank_cut(values, peaks, record.top_k, floor, work)
        keep(values, peaks, x, last)
    if record.top_p < 1.0:
        _keep_top_p(record, values, peaks, work)
    least = least_kept(record)
    if least > MINUS_INFINITY:
        keep(values, peaks, least, I64(values.shape[0]))
