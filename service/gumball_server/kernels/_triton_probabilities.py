"""What follows from the distribution itself: probs, entropy, and the log-probability of what was drawn."""

import triton
import triton.language as tl

from gumball_server.kernels._triton_arithmetic import exp32, log_of_sum, on_grid, one_over, shifted
from gumball_server.kernels._triton_peaks import peak_of
from gumball_server.kernels._triton_table import (
    DISTINCT,
    ENTROPY,
    FIRST_SAMPLE,
    FIRST_SLICE,
    INDEX,
    INV_TEMPERATURE,
    LOG_PROB,
    LOGITS,
    PROBS,
    blocks_of,
    float_field,
    load_logits,
    record_of,
    row_start,
    shape_of,
    store_blocks,
    sum_of,
)


@triton.jit
def _surprise(w, d):
    """V: the weighted distance w (-d), as an integer; 0 where w is 0."""
    return tl.where(w > 0.0, on_grid(w.to(tl.float64) * (-d).to(tl.float64)), 0)


@triton.jit
def _load_log_odds(record, logits, peaks, block, lane, slices, categories):
    low, high = load_logits(logits, record, block, lane, categories)
    peak, inv_temperature = peak_of(record, peaks, slices), float_field(record, INV_TEMPERATURE)
    return shifted(low, peak, inv_temperature), shifted(high, peak, inv_temperature)


@triton.jit
def gauge(table, owners, logits, peaks, sums, surprises, TILES: tl.constexpr):
    """sums and surprises [slices] int64: the sums of W and of V of every slice."""
    program = tl.program_id(0)
    record = record_of(table, owners, program)
    categories, slices = shape_of(record, TILES)
    block, lane = blocks_of((program - tl.load(record + FIRST_SLICE)).to(tl.int32), TILES)
    low, high = _load_log_odds(record, logits, peaks, block, lane, slices, categories)
    w_low, w_high = exp32(low), exp32(high)
    tl.store(sums + program, tl.sum(on_grid(w_low.to(tl.float64)) + on_grid(w_high.to(tl.float64))))
    tl.store(surprises + program, tl.sum(_surprise(w_low, low) + _surprise(w_high, high)))


@triton.jit
def describe(table, owners, logits, peaks, sums, surprises, floats, TILES: tl.constexpr):
    """probs and entropy, each where it is wanted. owners [slices]."""
    program = tl.program_id(0)
    record = record_of(table, owners, program)
    categories, slices = shape_of(record, TILES)
    first_slice = tl.load(record + FIRST_SLICE)
    number = (program - first_slice).to(tl.int32)
    total = sum_of(sums + first_slice, slices)
    if tl.load(record + PROBS) >= 0:
        block, lane = blocks_of(number, TILES)
        low, high = _load_log_odds(record, logits, peaks, block, lane, slices, categories)
        factor, start = one_over(total), row_start(record, PROBS, number * 0, categories)
        store_blocks(floats, start, block, lane, exp32(low) * factor, exp32(high) * factor, categories)
    if (tl.load(record + ENTROPY) >= 0) & (number == 0):
        mean = sum_of(surprises + first_slice, slices).to(tl.float64) / total.to(tl.float64)
        tl.store(floats + tl.load(record + ENTROPY), log_of_sum(total) + mean.to(tl.float32))


@triton.jit
def appraise(table, owners, logits, peaks, sums, integers, floats, TILES: tl.constexpr):
    """log_prob, where it is wanted, from the index in the output buffer. owners [samples]."""
    sample = tl.program_id(0)
    record = record_of(table, owners, sample)
    _, slices = shape_of(record, TILES)
    distinct = tl.load(record + DISTINCT).to(tl.int32)
    first = (sample - tl.load(record + FIRST_SAMPLE)) * distinct
    if tl.load(record + LOG_PROB) >= 0:
        peak, inv_temperature = peak_of(record, peaks, slices), float_field(record, INV_TEMPERATURE)
        log_total = log_of_sum(sum_of(sums + tl.load(record + FIRST_SLICE), slices))
        for i in range(distinct):
            drawn = tl.load(integers + tl.load(record + INDEX) + first + i)
            d = shifted(tl.load(logits + tl.load(record + LOGITS) + drawn).to(tl.float32), peak, inv_temperature)
            tl.store(floats + tl.load(record + LOG_PROB) + first + i, d - log_total)
