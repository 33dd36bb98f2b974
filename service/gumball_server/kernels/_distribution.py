"""What follows from the distances of a row alone: the sum of its weights, probabilities, entropy, the most likely."""

import numpy as np
from numba import njit

from gumball_server.kernels._arithmetic import (
    F32,
    I32,
    I64,
    exp32,
    grid_round,
    grid_weight,
    inverse_of_sum,
    log_of_sum,
)
from gumball_server.kernels._logits import fill
from gumball_server.kernels._memory import COMPILED, SPLICED, float32_at, int32_at, stack
from gumball_server.kernels._order import category_of, first_keys
from gumball_server.kernels._tiles import tile_of
from gumball_server.kernels._vectors import TILE
from gumball_server.kernels._work import distances_of, peaks_of

# Below it, weight and its part of the entropy are less than half a step of the grid.
WEIGHTLESS = F32(-33)

_CUTOFF = F32(-64)  # below it, a weight is 0
_TILE_BYTES = 4 * TILE


@njit(**SPLICED)
def weigh_tile(distances, weights):
    """weights [64] of distances [64]; returns their integer sum."""
    total = I64(0)
    for i in range(TILE):
        weights[i] = exp32(distances[i])
    for i in range(TILE):
        total += grid_weight(weights[i])
    return total


@njit(**COMPILED)
def total_weight(values, peaks):
    """The integer sum of the weights of distances values [padded]."""
    weights = float32_at(stack(_TILE_BYTES), TILE)
    total = I64(0)
    for t in range(peaks.shape[0]):
        if peaks[t] > WEIGHTLESS:
            total += weigh_tile(tile_of(values, t), weights)
    return total


@njit(**COMPILED)
def _total_surprise(values, peaks):
    """The integer sum of weight times distance, V of the contract."""
    weights = float32_at(stack(_TILE_BYTES), TILE)
    total = I64(0)
    for t in range(peaks.shape[0]):
        if peaks[t] > WEIGHTLESS:
            tile = tile_of(values, t)
            for i in range(TILE):
                weights[i] = exp32(tile[i])
            for i in range(TILE):
                distance = max(tile[i], _CUTOFF)  # no infinity: its weight is 0
                total += grid_round(np.float64(weights[i]) * -np.float64(distance))
    return total


@njit(**COMPILED)
def _exp_scaled(values, factor, out):
    for i in range(out.shape[0]):
        out[i] = exp32(values[i]) * factor


@njit(**SPLICED)
def _write_probs(values, peaks, factor, probs):
    for t in range(peaks.shape[0]):
        out = probs[TILE * t : min(TILE * t + TILE, probs.shape[0])]
        if peaks[t] >= _CUTOFF:
            _exp_scaled(tile_of(values, t), factor, out)
        else:
            fill(out, F32(0))


@njit(**SPLICED)
def _write_top(record, values, peaks, log_total, work):
    keys = first_keys(values, peaks, record.top, work)
    for i in range(record.top):
        k = category_of(keys[i])
        if record.top_index != 0:
            int32_at(record.top_index, record.top)[i] = I32(k)
        if record.top_log_prob != 0:
            float32_at(record.top_log_prob, record.top)[i] = values[k] - log_total


@njit(**COMPILED)
def write_distribution(record, work):
    """Writes the outputs that are of the row; returns the logarithm of its sum of weights, 0 where nothing needs it."""
    if (record.log_prob | record.probs | record.entropy | record.top_index | record.top_log_prob) == 0:
        return F32(0)
    values, peaks = distances_of(work), peaks_of(work)
    total = total_weight(values, peaks)
    log_total = log_of_sum(total)
    if record.probs != 0:
        _write_probs(values, peaks, inverse_of_sum(total), float32_at(record.probs, record.categories))
    if record.entropy != 0:
        mean = np.float64(_total_surprise(values, peaks)) / np.float64(total)
        float32_at(record.entropy, 1)[0] = log_total + F32(mean)
    if record.top > 0 and (record.top_index | record.top_log_prob) != 0:
        _write_top(record, values, peaks, log_total, work)
    return log_total
