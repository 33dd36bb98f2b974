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
    shifted,
)
from gumball_server.kernels._logits import CHUNK, CHUNK_BYTES, largest, read_logits, status_of, tile_peaks, tiles_of
from gumball_server.kernels._memory import COMPILED, SPLICED, float32_at, stack, uint32_at
from gumball_server.kernels._noise import any_in_tail, in_tail, noise_from_bits, tail_noise
from gumball_server.kernels._outputs import soft_of, write_winner
from gumball_server.kernels._philox import tile_bits
from gumball_server.kernels._vectors import TILE


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
def _score(logits, peak, inv_temperature, noise, scores):
    for i in range(scores.shape[0]):
        scores[i] = shifted(logits[i], peak, inv_temperature) + noise[i]


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


@njit(**SPLICED)
def _draw(record, peak, inv_temperature, inv_tau, key, soft, bits, noise, scratch):
    """One soft sample into soft [categories]; returns the category of maximal score, the lowest of equals."""
    categories = record.categories
    best, best_chunk = MINUS_INFINITY, 0
    for first in range(0, categories, CHUNK):
        n = min(CHUNK, categories - first)
        _chunk_noise(first, n, key, bits, noise)
        scores = soft[first : first + n]
        _score(read_logits(record, first, n, scratch), peak, inv_temperature, noise, scores)
        top = largest(scores)
        if top > best:
            best, best_chunk = top, first
    winner = best_chunk
    while soft[winner] != best:
        winner += 1
    total = I64(0)
    for first in range(0, categories, CHUNK):
        total += weigh(soft[first : min(first + CHUNK, categories)], best, inv_tau)
    scale(soft, inverse_of_sum(total))
    return winner


@njit(**SPLICED)
def soft_row(record, tile_scratch):
    """Draws every draw of a row that wants soft samples; returns its status. tile_scratch is float32, one a tile."""
    scratch, noise = float32_at(stack(CHUNK_BYTES), CHUNK), float32_at(stack(CHUNK_BYTES), CHUNK)
    bits = uint32_at(stack(CHUNK_BYTES), CHUNK)
    image = tile_peaks(record, tile_scratch[: tiles_of(record)], scratch)
    status = status_of(image)
    if status != 0:
        return status
    peak = clean(float_of(ordered(image)))
    inv_temperature, inv_tau = inverse(record.temperature), inverse(record.tau)
    for draw in range(record.draws):
        key = (record.seed, np.uint64(record.row), np.uint64(record.first_draw) + np.uint64(draw))
        winner = _draw(record, peak, inv_temperature, inv_tau, key, soft_of(record, draw), bits, noise, scratch)
        write_winner(record, draw, winner)
    return status
