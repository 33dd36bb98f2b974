"""Short rows, packed: draws of many rows lie end to end in flat arrays, so that vectors are full at any length.

Each draw is a slot. Its blocks of noise are lanes beside those of other rows, and what its last block makes past its
last category is overwritten by the next slot. Only the maximum and the sum of a slot are taken one slot at a time.
"""

import numpy as np
from numba import njit

from gumball_server.kernels._arithmetic import (
    I64,
    clean,
    exp32,
    float_of,
    grid_weight,
    inverse,
    inverse_of_sum,
    ordered,
)
from gumball_server.kernels._logits import read_logits, short_peak_image, status_of
from gumball_server.kernels._memory import COMPILED, INLINED, SPLICED, record_at
from gumball_server.kernels._noise import any_in_tail, in_tail, noise_from_bits, tail_noise
from gumball_server.kernels._outputs import soft_of, write_winner
from gumball_server.kernels._philox import BLOCKS as GROUP
from gumball_server.kernels._philox import lane_bits
from gumball_server.kernels._vectors import lowest_set_bit, shift_some, some_equal
from gumball_server.kernels.table import ROW

LONGEST = 128  # categories of a row that is worth packing
_BLOCKS = 128  # of eight categories, in one pack: everything stays in the first cache
_PADDING = 8 * GROUP  # what the last group of blocks may write past the end

_CATEGORIES = 8 * _BLOCKS + _PADDING

_SLOT = np.dtype([("record", np.uint64), ("draw", np.int64), ("start", np.int64)])  # record: its address

# What is gathered until it is drawn. One record, so that passing it on is passing one pointer.
PACK = np.dtype(
    [
        ("slots", np.int64),  # how many are used
        ("blocks", np.int64),
        ("categories", np.int64),
        ("slot", _SLOT, _BLOCKS),
        ("block", np.uint64, _BLOCKS + GROUP),  # of each lane
        ("draw", np.uint64, _BLOCKS + GROUP),
        ("row", np.uint64, _BLOCKS + GROUP),
        ("seed", np.uint64, _BLOCKS + GROUP),
        ("start", np.int64, _BLOCKS + GROUP),
        ("logits", np.float32, LONGEST),  # of one row, where they had to be upcast
        ("distances", np.float32, _CATEGORIES),  # of the logits below the peak of their row
        ("bits", np.uint32, _CATEGORIES),
        ("scores", np.float32, _CATEGORIES),
    ]
)
PACK_BYTES = PACK.itemsize


@njit(**INLINED)
def row_at(address):
    """The row record at an address."""
    return record_at(address, ROW)


@njit(**SPLICED)
def empty_pack(memory):
    """A pack with nothing in it, in PACK_BYTES at an address."""
    pack = record_at(memory, PACK)
    _empty(pack)
    return pack


@njit(**SPLICED)
def _empty(pack):
    pack.slots, pack.blocks, pack.categories = 0, 0, 0


@njit(**SPLICED)
def _add_draw(pack, address, record, draw, logits, peak, inv_temperature):
    """A slot for one draw of a record."""
    categories, start, first = record.categories, pack.categories, pack.blocks
    # Into locals: LLVM cannot know that writing the pack leaves the record as it was.
    seed, row, number = record.seed, np.uint64(record.row), np.uint64(record.first_draw) + np.uint64(draw)
    slot = pack.slot[pack.slots]
    slot.record, slot.draw, slot.start = address, draw, start
    blocks = (categories + 7) >> 3
    for b in range(blocks):
        lane = np.uint64(first + b)  # unsigned: an index that cannot be meant to count from the end
        pack.block[lane], pack.draw[lane], pack.row[lane] = np.uint64(b), number, row
        pack.seed[lane], pack.start[lane] = seed, start + 8 * b
        shift_some(logits, 8 * b, categories, peak, inv_temperature, pack.distances, start + 8 * b)
    pack.slots, pack.blocks, pack.categories = pack.slots + 1, first + blocks, start + categories


@njit(**SPLICED)
def add_row(pack, address):
    """Gathers every draw of a row, drawing what is gathered whenever the pack is full; returns the row's status.

    The record of the row is given by its address, and has to stay there until it is drawn.
    """
    record = row_at(address)
    categories = record.categories
    logits = read_logits(record, I64(0), categories, pack.logits[:categories])  # a literal would be a type of its own
    image = short_peak_image(logits)
    status = status_of(image)
    if status != 0:
        return status
    peak, inv_temperature = clean(float_of(ordered(image))), inverse(record.temperature)
    for draw in range(record.draws):
        if pack.blocks + ((categories + 7) >> 3) > _BLOCKS:
            draw_pack(pack)
        _add_draw(pack, address, record, draw, logits, peak, inv_temperature)
    return status


@njit(**SPLICED)
def _noise(pack):
    """pack.scores = the noise of every slot."""
    blocks, categories = pack.blocks, pack.categories
    pack.start[blocks : blocks + GROUP] = categories  # a spare lane writes past the end
    for first in range(0, blocks, GROUP):
        lane_bits(pack, first)
    noise_from_bits(pack.bits[:categories], pack.scores[:categories])
    if any_in_tail(pack.bits[:categories]):
        _replace_tail(pack)


@njit(**SPLICED)
def _replace_tail(pack):
    """The noise of the few categories whose coarse halfword is 0."""
    for s in range(pack.slots):
        slot = pack.slot[s]
        record = row_at(slot.record)
        for k in range(record.categories):
            if in_tail(pack.bits[slot.start + k]):
                key = (record.seed, np.uint64(record.row), np.uint64(record.first_draw) + np.uint64(slot.draw))
                pack.scores[slot.start + k] = tail_noise(k, key)


@njit(**COMPILED)
def _add(distances, scores):
    for i in range(scores.shape[0]):
        scores[i] = distances[i] + scores[i]


@njit(**SPLICED)
def _first(values, x):
    """The lowest k with values[k] == x; there is one. Looks at 64 before it branches: sooner would be a coin toss."""
    n = values.shape[0]
    start, equal = -64, np.uint64(0)
    while equal == 0:
        start += 64
        for k in range(start, min(start + 64, n), 8):
            equal |= some_equal(values, k, n, x) << np.uint64(k - start)
    return start + lowest_set_bit(equal)


@njit(**SPLICED)
def _winners(pack):
    """Writes the winner of every slot; the scores of slots that want soft become what exp32 takes. Whether any did."""
    any_soft = False
    for s in range(pack.slots):
        slot = pack.slot[s]
        record = row_at(slot.record)
        scores = pack.scores[slot.start : slot.start + record.categories]
        best = float_of(ordered(short_peak_image(scores)))
        write_winner(record, slot.draw, _first(scores, best), best)
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


@njit(**SPLICED)
def _normalise(pack):
    for s in range(pack.slots):
        slot = pack.slot[s]
        record = row_at(slot.record)
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
def draw_pack(pack):
    """Draws every slot and empties the pack."""
    _noise(pack)
    categories = pack.categories
    _add(pack.distances[:categories], pack.scores[:categories])
    if _winners(pack):
        _exponentiate(pack.scores[:categories])
        _normalise(pack)
    _empty(pack)
