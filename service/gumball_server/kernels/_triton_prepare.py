"""Rows that are more than logits become plain float32 logits: weights by their logarithm, biases by adding them.

Everything after that, filters included, works on plain logits; a filter only masks, and masks never change a peak.
"""

import triton
import triton.language as tl

from gumball_server.kernels._triton_arithmetic import log32
from gumball_server.kernels._triton_peaks import NAN, NEGATIVE, OK, POSITIVE_INFINITY
from gumball_server.kernels._triton_table import (
    ARE_PROBS,
    BIAS,
    BIASED,
    BIASES,
    FIRST_SLICE,
    PREPARED,
    STATUS,
    WORDS,
    blocks_of,
    load_logits,
    record_of,
    shape_of,
    store_blocks,
)

_SMALLEST_NORMAL = tl.constexpr(2.0**-126)


@triton.jit
def _log_weight(p):
    """log(p), -inf below 2^-126."""
    is_normal = p >= _SMALLEST_NORMAL
    return tl.where(is_normal, log32(tl.where(is_normal, p, 1.0)), float("-inf"))


@triton.jit
def _fault(p, exists):
    """RowStatus of a weight."""
    fault = tl.where(p == float("inf"), POSITIVE_INFINITY, tl.where(p < 0.0, NEGATIVE, OK))
    return tl.where(exists, tl.where(p != p, NAN, fault), OK)


@triton.jit
def upcast(table, owners, logits, prepared, integers, TILES: tl.constexpr):
    """The logits of every slice as float32, into `prepared`; the logarithms of what are weights. owners [slices]."""
    program = tl.program_id(0)
    record = record_of(table, owners, program)
    categories, _ = shape_of(record, TILES)
    block, lane = blocks_of((program - tl.load(record + FIRST_SLICE)).to(tl.int32), TILES)
    low, high = load_logits(logits, record, block, lane, categories)
    if tl.load(record + ARE_PROBS) != 0:
        k = block * 8 + lane
        fault = tl.max(tl.maximum(_fault(low, k < categories), _fault(high, k + 4 < categories)))
        if fault != OK:
            tl.atomic_max(integers + tl.load(record + STATUS), fault)
        low, high = _log_weight(low), _log_weight(high)
    store_blocks(prepared, tl.multiple_of(tl.load(record + PREPARED), 8), block, lane, low, high, categories)


@triton.jit
def add_bias(table, prepared, categories, amounts, TILES: tl.constexpr):
    """Adds its biases to every prepared row; -inf masks, whatever was there. One program a row.

    categories and amounts are the buffer that came in, as int32 and as float32. A category has one bias at most.
    """
    record = table + tl.program_id(0).to(tl.int64) * WORDS
    start, count = tl.load(record + PREPARED), tl.load(record + BIASES)
    categories += tl.load(record + BIASED)
    amounts += tl.load(record + BIAS)
    lane = tl.arange(0, 128)
    for first in range(0, count, 128):
        exists = first + lane < count
        place = prepared + start + tl.load(categories + first + lane, mask=exists, other=0)
        amount = tl.load(amounts + first + lane, mask=exists, other=0.0)
        value = tl.load(place, mask=exists, other=0.0) + amount
        tl.store(place, tl.where(amount == float("-inf"), float("-inf"), value), mask=exists)
