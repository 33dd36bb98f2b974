"""Draws that need every score of a row: without replacement, and relaxed ones with their logarithms."""

import numpy as np
from numba import njit

from gumball_server.kernels._arithmetic import (
    I32,
    I64,
    MINUS_INFINITY,
    exp32,
    grid_weight,
    inverse,
    log_of_sum,
)
from gumball_server.kernels._logits import fill, whole_tile_peaks
from gumball_server.kernels._memory import COMPILED, SPLICED, float32_at, int32_at
from gumball_server.kernels._order import category_of, first_keys
from gumball_server.kernels._outputs import log_soft_of, soft_of, write_log_prob, write_winner
from gumball_server.kernels._soft import relax, score_all
from gumball_server.kernels._work import distances_of, scores_of, tops_of


@njit(**COMPILED)
def left(distances):
    """How many categories are not masked."""
    n = I64(0)
    for i in range(distances.shape[0]):
        n += I64(distances[i] > MINUS_INFINITY)
    return n


@njit(**SPLICED)
def _write_distinct(record, draw, log_total, work):
    """The first `distinct` categories in the order of their scores."""
    n, distances, scores = record.distinct, distances_of(work), scores_of(work)
    whole_tile_peaks(scores, tops_of(work))
    keys = first_keys(scores, tops_of(work), n, work)
    for i in range(n):
        k, at = category_of(keys[i]), draw * n + i
        if record.index != 0:
            int32_at(record.index, at + 1)[at] = I32(k)
        if record.score != 0:
            float32_at(record.score, at + 1)[at] = scores[k]
        if record.log_prob != 0:
            float32_at(record.log_prob, at + 1)[at] = distances[k] - log_total


@njit(**COMPILED)
def _copy(values, out):
    for i in range(out.shape[0]):
        out[i] = values[i]


@njit(**COMPILED)
def _scale_scores(scores, best, inv_tau):
    """Scores [n] to t of the contract, in place; returns the integer sum of their weights."""
    total = I64(0)
    for i in range(scores.shape[0]):
        scores[i] = (scores[i] - best) * inv_tau
    for i in range(scores.shape[0]):
        total += grid_weight(exp32(scores[i]))
    return total


@njit(**COMPILED)
def _subtract(values, x):
    for i in range(values.shape[0]):
        values[i] = values[i] - x


@njit(**COMPILED)
def dense_draws(record, log_total, work):
    """Draws every draw of a shaped row, from all its scores."""
    scores = scores_of(work)
    fill(scores[record.categories :], MINUS_INFINITY)
    scores = scores[: record.categories]
    inv_tau = inverse(record.tau)
    for draw in range(record.draws):
        key = (record.seed, np.uint64(record.row), np.uint64(record.first_draw) + np.uint64(draw))
        best, winner = score_all(record, np.float32(0), np.float32(1), key, scores)
        if record.distinct == 1:
            write_winner(record, draw, winner, best)
            write_log_prob(record, draw, winner, log_total)
        else:
            _write_distinct(record, draw, log_total, work)
        if record.soft != 0:
            soft = soft_of(record, draw)
            _copy(scores, soft)
            relax(soft, best, inv_tau)
        if record.log_soft != 0:
            log_soft = log_soft_of(record, draw)
            _copy(scores, log_soft)
            _subtract(log_soft, log_of_sum(_scale_scores(log_soft, best, inv_tau)))
