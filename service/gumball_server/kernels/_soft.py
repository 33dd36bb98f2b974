"""Soft samples of long rows, in chunks that stay in the first cache; the drawn category comes from the same scores."""

import numpy as np
from numba import njit

from gumball_server.kernels._arithmetic import (
    I64,
    MINUS_INFINITY,
    clean,
    exp32,
    float_of,
    grid_weight,
    inverse,
    inverse_of_sum,
    ordered,
)
from gumball_server.kernels._logits import CHUNK, CHUNK_BYTES, largest, read_distances, status_of, tile_peaks
from gumball_server.kernels._memory import COMPILED, SPLICED, float32_at, stack, uint32_at
from gumball_server.kernels._noise import any_in_tail, in_tail, noise_from_bits, tail_noise
from gumball_server.kernels._outputs import soft_of, write_winner
from gumball_server.kernels._philox import tile_bits
from gumball_server.kernels._vectors import TILE
from gumball_server.kernels._work import peaks_of


@njit(**SPLICED)
def _chunk_noise(first, n, key, bits, noise):
    """noise[:n] of the categories from first on, which is a multiple of the tile."""
    for i in range(0, n, TILE):
        tile_bits((first + i) // TILE, key, bits, i)
    noise_from_bits(bits[:n], noise[:n])
    if any_in_tail(bits[:n]):
        for i in range(n):
            if in_tail(bits[i]):
                noise[i] = tail_noise(first + i, key)


@njit(**COMPILED)
def _add(distances, noise, scores):
    for i in range(scores.shape[0]):
        scores[i] = distances[i] + noise[i]


@njit(**COMPILED)
def score_all(record, peak, inv_temperature, key, scores):
    """scores [categories] of one draw; returns the largest and its category, the lowest of equals."""
    scratch, noise = float32_at(stack(CHUNK_BYTES), CHUNK), float32_at(stack(CHUNK_BYTES), CHUNK)
    bits, shift = uint32_at(stack(CHUNK_BYTES), CHUNK), float32_at(stack(CHUNK_BYTES), CHUNK)
    best, best_chunk = MINUS_INFINITY, 0
    for first in range(0, record.categories, CHUNK):
        n = min(CHUNK, record.categories - first)
        _chunk_noise(first, n, key, bits, noise)
        distances = read_distances(record, first, n, peak, inv_temperature, scratch, shift)
        _add(distances, noise, scores[first : first + n])
        top = largest(scores[first : first + n])
        if top > best:
            best, best_chunk = top, first
    winner = best_chunk
    while scores[winner] != best:
        winner += 1
    return best, winner


@njit(**COMPILED)
def weigh(values, best, inv_tau):
    """Scores [n] to weights, in place; returns the integer sum of the weights."""
    total = I64(0)
    for i in range(values.shape[0]):
        values[i] = exp32((values[i] - best) * inv_tau)
    for i in range(values.shape[0]):
        total += grid_weight(values[i])
    return total


@njit(**COMPILED)
def scale(values, factor):
    """values [n] *= factor."""
    for i in range(values.shape[0]):
        values[i] = values[i] * factor


@njit(**COMPILED)
def relax(scores, best, inv_tau):
    """Scores [n] to the soft sample, in place; returns the integer sum of the weights."""
    total = I64(0)
    for first in range(0, scores.shape[0], CHUNK):
        total += weigh(scores[first : min(first + CHUNK, scores.shape[0])], best, inv_tau)
    scale(scores, inverse_of_sum(total))
    return total


@njit(**SPLICED)
def soft_row(record, work):
    """Draws every draw of a row without parameters that wants soft samples; returns its status."""
    scratch = float32_at(stack(CHUNK_BYTES), CHUNK)
    image = tile_peaks(record, peaks_of(work), scratch)
    status = status_of(image)
    if status != 0:
        return status
    peak = clean(float_of(ordered(image)))
    inv_temperature, inv_tau = inverse(record.temperature), inverse(record.tau)
    for draw in range(record.draws):
        key = (record.seed, np.uint64(record.row), np.uint64(record.first_draw) + np.uint64(draw))
        soft = soft_of(record, draw)
        best, winner = score_all(record, peak, inv_temperature, key, soft)
        write_winner(record, draw, winner, best)
        relax(soft, best, inv_tau)
    return status
