"""Short rows, packed: draws of many rows lie end to end in flat arrays, so that vectors are full at any length.

Each draw is a slot. Its blocks of noise are lanes beside those of other rows, and the noise of its last block past its last
category is overwritten by the next slot. Only the maximum and the sum of a slot are taken one slot at a time.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from gumball_server.kernels._arithmetic import (
    I32,
    I64,
    clean,
    exp32,
    float_of,
    grid_weight,
    inverse,
    inverse_of_sum,
    ordered,
    shifted,
)
from gumball_server.kernels._logits import largest, peak_image, read_logits, status_of
from gumball_server.kernels._memory import COMPILED
from gumball_server.kernels._noise import noise_from_bits, tail_noise
from gumball_server.kernels._outputs import soft_of, write_winner
from gumball_server.kernels._philox import BLOCKS as GROUP
from gumball_server.kernels._philox import lane_bits

LONGEST = 128  # categories of a row that is worth packing
_BLOCKS = 128  # of eight categories, in one pack: everything stays in the first cache
_PADDING = 8 * GROUP  # what the last group of blocks may write past the end

_SLOT = np.dtype([("record", np.int64), ("draw", np.int64), ("start", np.int64)])


class Pack(NamedTuple):
    """What is gathered until it is drawn; allocated once a table."""

    slots: np.ndarray  # [_BLOCKS] _SLOT
    lanes: np.ndarray  # [5, blocks] uint64: block, draw, row, seed, start
    distances: np.ndarray  # [categories] float32, of the logits below the peak of their row
    bits: np.ndarray  # [categories] int32
    scores: np.ndarray  # [categories] float32
    row: np.ndarray  # [LONGEST] float32: distances of one row
    used: np.ndarray  # int64: slots, blocks, categories


@njit(**COMPILED)
def empty_pack():
    """A pack with nothing in it."""
    n = 8 * _BLOCKS + _PADDING
    used = np.zeros(3, np.int64)
    return Pack(
        np.empty(_BLOCKS, _SLOT),
        np.empty((5, _BLOCKS + GROUP), np.uint64),
        np.empty(n, np.float32),
        np.empty(n, np.int32),
        np.empty(n, np.float32),
        np.empty(LONGEST, np.float32),
        used,
    )


@njit(**COMPILED)
def _add_draw(pack, i, record, draw):
    """A slot for one draw of record i, whose distances are in pack.row."""
    slot, block, start = pack.used
    categories = record.categories
    pack.slots[slot].record, pack.slots[slot].draw, pack.slots[slot].start = i, draw, start
    blocks = (categories + 7) >> 3
    for b in range(blocks):
        lanes = pack.lanes[:, block + b]
        lanes[0] = np.uint64(b)
        lanes[1] = np.uint64(record.first_draw) + np.uint64(draw)
        lanes[2] = np.uint64(record.row)
        lanes[3] = record.seed
        lanes[4] = np.uint64(start + 8 * b)
    for k in range(categories):
        pack.distances[start + k] = pack.row[k]
    pack.used[0], pack.used[1], pack.used[2] = slot + 1, block + blocks, start + categories


@njit(**COMPILED)
def add_row(pack, table, i):
    """Gathers every draw of a row, drawing what is gathered whenever the pack is full; returns the row's status."""
    record = table[i]
    categories = record.categories
    logits = read_logits(record, 0, categories, pack.row)
    image = peak_image(logits)
    status = status_of(image)
    if status != 0:
        return status
    peak, inv_temperature = clean(float_of(ordered(image))), inverse(record.temperature)
    for k in range(categories):
        pack.row[k] = shifted(logits[k], peak, inv_temperature)
    for draw in range(record.draws):
        if pack.used[1] + ((categories + 7) >> 3) > _BLOCKS:
            draw_pack(pack, table)
        _add_draw(pack, i, record, draw)
    return status


@njit(**COMPILED)
def _noise(pack, table):
    """pack.scores = the noise of every slot."""
    slots, blocks, categories = pack.used
    pack.lanes[4, blocks : blocks + GROUP] = np.uint64(categories)  # a spare lane writes past the end
    for first in range(0, blocks, GROUP):
        lane_bits(pack.lanes, first, pack.bits)
    if noise_from_bits(pack.bits[:categories], pack.scores[:categories]):
        _replace_tail(pack, table)


@njit(**COMPILED)
def _replace_tail(pack, table):
    """The noise of the few categories whose coarse halfword is 0."""
    for s in range(pack.used[0]):
        slot = pack.slots[s]
        record = table[slot.record]
        for k in range(record.categories):
            if I32(pack.bits[slot.start + k] & I32(-65536)) == I32(0):
                key = (record.seed, np.uint64(record.row), np.uint64(record.first_draw) + np.uint64(slot.draw))
                pack.scores[slot.start + k] = tail_noise(k, key)


@njit(**COMPILED)
def _add(distances, scores):
    for i in range(scores.shape[0]):
        scores[i] = distances[i] + scores[i]


@njit(**COMPILED)
def _first(values, x):
    k = 0
    while values[k] != x:
        k += 1
    return k


@njit(**COMPILED)
def _winners(pack, table):
    """Writes the winner of every slot; the scores of slots that want soft become what exp32 takes. Whether any did."""
    any_soft = False
    for s in range(pack.used[0]):
        slot = pack.slots[s]
        record = table[slot.record]
        scores = pack.scores[slot.start : slot.start + record.categories]
        best = largest(scores)
        write_winner(record, slot.draw, _first(scores, best))
        if record.soft != 0:
            any_soft = True
            inv_tau = inverse(record.tau)
            for k in range(scores.shape[0]):
                scores[k] = (scores[k] - best) * inv_tau
    return any_soft


@njit(**COMPILED)
def _exponentiate(values):
    for i in range(values.shape[0]):
        values[i] = exp32(values[i])


@njit(**COMPILED)
def _normalise(pack, table):
    for s in range(pack.used[0]):
        slot = pack.slots[s]
        record = table[slot.record]
        if record.soft != 0:
            weights = pack.scores[slot.start : slot.start + record.categories]
            total = I64(0)
            for k in range(weights.shape[0]):
                total += grid_weight(weights[k])
            factor = inverse_of_sum(total)
            soft = soft_of(record, slot.draw)
            for k in range(weights.shape[0]):
                soft[k] = weights[k] * factor


@njit(**COMPILED)
def draw_pack(pack, table):
    """Draws every slot and empties the pack."""
    _noise(pack, table)
    categories = pack.used[2]
    _add(pack.distances[:categories], pack.scores[:categories])
    if _winners(pack, table):
        _exponentiate(pack.scores[:categories])
        _normalise(pack, table)
    pack.used[:] = 0
