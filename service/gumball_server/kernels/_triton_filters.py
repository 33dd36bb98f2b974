"""Filters: top_k, top_p and min_p keep prefixes of one order, so what the three of them keep is a prefix as well.

The order of the contract, (d down, category up), is that of one integer, the *key* of a category, downwards. A filter
keeps the keys from its *cut* on, and the last filter's cut is all that a row needs. The cut of top_k is the largest
that leaves at least k categories, that of top_p the largest that leaves enough weight: both by bisection, and as
weights are added as integers, no order of evaluation can be seen in the bits.
"""

import triton
import triton.language as tl

from gumball_server.kernels._triton_arithmetic import LEAST_IMAGE, exp32, image_of, log32, on_grid, shifted
from gumball_server.kernels._triton_peaks import peak_of
from gumball_server.kernels._triton_ranking import STEP, key_of_place, least_key
from gumball_server.kernels._triton_table import (
    FIRST_SLICE,
    INV_TEMPERATURE,
    LOGITS,
    MIN_P,
    TOP_K,
    TOP_P,
    WORDS,
    blocks_of,
    float_field,
    load_logits,
    record_of,
    shape_of,
    store_blocks,
)

_SMALLEST_NORMAL = tl.constexpr(2.0**-126)


@triton.jit
def _mass(logits, categories, peak, inv_temperature, cut, WEIGHED: tl.constexpr):
    """What lies at or above a cut: the integer sum of its weights, or else how many categories."""
    lane = tl.arange(0, STEP)
    mass = tl.zeros((STEP,), tl.int64)
    for first in range(0, categories, STEP):
        k = first + lane
        d = shifted(tl.load(logits + k, mask=k < categories, other=float("-inf")), peak, inv_temperature)
        is_kept = (key_of_place(image_of(d), k) >= cut) & (k < categories)
        mass += tl.where(is_kept, on_grid(exp32(d).to(tl.float64)) if WEIGHED else 1, 0)
    return tl.sum(mass)


@triton.jit
def _largest_cut(logits, categories, peak, inv_temperature, low, least_mass, WEIGHED: tl.constexpr):
    """The largest cut from `low` on that leaves at least `least_mass`; `low`, should none do."""
    high = least_key(tl.full((), 1, tl.int32)) - 1  # d is 0 at the most likely category, and so is its image
    while low < high:
        middle = low + ((high - low + 1) >> 1)
        enough = _mass(logits, categories, peak, inv_temperature, middle, WEIGHED) >= least_mass
        low = tl.where(enough, middle, low)
        high = tl.where(enough, high, middle - 1)
    return low


@triton.jit
def _share(part, total):
    """ceil(part * double(total)), one product of doubles."""
    product = part * total.to(tl.float64)
    whole = product.to(tl.int64)
    return whole + (whole.to(tl.float64) < product).to(tl.int64)


@triton.jit
def find_cut(table, prepared, peaks, cuts, TILES: tl.constexpr):
    """cuts [rows] int64: the least key that the filters of each row keep. One program a row."""
    row = tl.program_id(0)
    record = table + row.to(tl.int64) * WORDS
    categories, slices = shape_of(record, TILES)
    peak, inv_temperature = peak_of(record, peaks, slices), float_field(record, INV_TEMPERATURE)
    logits = prepared + tl.load(record + LOGITS)
    cut = least_key(tl.full((), LEAST_IMAGE + 1, tl.int32))  # of all that is not masked

    top_k = tl.load(record + TOP_K)
    if top_k < categories:
        cut = _largest_cut(logits, categories, peak, inv_temperature, cut, top_k, False)
    top_p = tl.load(record + TOP_P).to(tl.float64, bitcast=True)
    if top_p < 1.0:
        enough = _share(top_p, _mass(logits, categories, peak, inv_temperature, cut, True))
        cut = _largest_cut(logits, categories, peak, inv_temperature, cut, enough, True)
    min_p = float_field(record, MIN_P)
    if min_p >= _SMALLEST_NORMAL:
        cut = tl.maximum(cut, least_key(image_of(log32(min_p))))
    tl.store(cuts + row, cut)


@triton.jit
def mask(table, owners, prepared, peaks, cuts, TILES: tl.constexpr):
    """Masks, in place, what lies below the cut of its row. owners [slices]."""
    program = tl.program_id(0)
    record = record_of(table, owners, program)
    categories, slices = shape_of(record, TILES)
    block, lane = blocks_of((program - tl.load(record + FIRST_SLICE)).to(tl.int32), TILES)
    low, high = load_logits(prepared, record, block, lane, categories)
    peak, inv_temperature = peak_of(record, peaks, slices), float_field(record, INV_TEMPERATURE)
    cut, k = tl.load(cuts + tl.load(owners + program)), block * 8 + lane
    masked = float("-inf")
    low = tl.where(key_of_place(image_of(shifted(low, peak, inv_temperature)), k) >= cut, low, masked)
    high = tl.where(key_of_place(image_of(shifted(high, peak, inv_temperature)), k + 4) >= cut, high, masked)
    store_blocks(prepared, tl.multiple_of(tl.load(record + LOGITS), 8), block, lane, low, high, categories)
