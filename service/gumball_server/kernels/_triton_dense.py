"""Samples that need the noise of every category: soft, log_soft, and the drawn category from the same scores.

What a row shares (its peak, its best score, the sum of its weights) is reduced in two steps: every program of a kernel
leaves its part, and every program of the next one reduces the parts of its row. Each of these reductions is exact (a
maximum, or a sum of integers), so neither the cut nor the order can be seen in the bits. A kernel for every dependency:

    peaks.measure -> score: scores, best of every piece -> weigh: sum of every piece -> finish
"""

import triton
import triton.language as tl

from gumball_server.kernels._triton_arithmetic import (
    exp32,
    log_of_sum,
    noise,
    on_grid,
    one_over,
    shifted,
)
from gumball_server.kernels._triton_hard import best_of, write_answer
from gumball_server.kernels._triton_peaks import peak_image, peak_of, status_of
from gumball_server.kernels._triton_table import (
    FIRST_PIECE,
    FIRST_SAMPLE,
    INDEX,
    INV_TAU,
    INV_TEMPERATURE,
    LOG_SOFT,
    ONE_HOT,
    SCORES,
    SOFT,
    blocks_of,
    float_field,
    key_of,
    largest_of,
    load_logits,
    place_of,
    record_of,
    row_start,
    shape_of,
    store_blocks,
    sum_of,
)

_LEAST_SCORE = tl.constexpr(float("-inf"))


@triton.jit
def score(table, owners, logits, peaks, floats, bests, winners, TILES: tl.constexpr):
    """Scores of every piece, kept in the output buffer; bests [pieces] float32 and winners [pieces] int32 of each."""
    piece = tl.program_id(0)
    record = record_of(table, owners, piece)
    categories, slices = shape_of(record, TILES)
    number, slice_number = place_of(record, piece, slices)
    draw, row, k0, k1 = key_of(record, number)
    block, lane = blocks_of(slice_number, TILES)
    inv_temperature = float_field(record, INV_TEMPERATURE)
    peak = peak_of(record, peaks, slices)

    low, high = load_logits(logits, record, block, lane, categories)
    g_low, g_high = noise(block.to(tl.uint32), lane, draw, row, k0, k1)
    low = shifted(low, peak, inv_temperature) + g_low
    high = shifted(high, peak, inv_temperature) + g_high
    store_blocks(floats, row_start(record, SCORES, number, categories), block, lane, low, high, categories)
    best, winner = best_of(low, high, block * 8 + lane, categories)
    tl.store(bests + piece, best)
    tl.store(winners + piece, winner)


@triton.jit
def _load_relaxed(record, number, block, lane, first_piece, slices, floats, bests, categories):
    """t = (s - max s) / tau of a piece, from its scores in the output buffer."""
    start = row_start(record, SCORES, number, categories)
    k = block * 8 + lane
    exists = block * 8 < categories
    low = tl.load(floats + start + k, mask=exists)
    high = tl.load(floats + start + k + 4, mask=exists)
    best, inv_tau = largest_of(bests + first_piece, slices, _LEAST_SCORE), float_field(record, INV_TAU)
    outside = float("-inf")
    return (
        tl.where(k < categories, (low - best) * inv_tau, outside),
        tl.where(k + 4 < categories, (high - best) * inv_tau, outside),
    )


@triton.jit
def weigh(table, owners, floats, bests, sums, TILES: tl.constexpr):
    """sums [pieces] int64: the integer sum of the weights of every piece."""
    piece = tl.program_id(0)
    record = record_of(table, owners, piece)
    categories, slices = shape_of(record, TILES)
    number, slice_number = place_of(record, piece, slices)
    block, lane = blocks_of(slice_number, TILES)
    low, high = _load_relaxed(record, number, block, lane, piece - slice_number, slices, floats, bests, categories)
    weights = on_grid(exp32(low).to(tl.float64)) + on_grid(exp32(high).to(tl.float64))
    tl.store(sums + piece, tl.sum(weights))


@triton.jit
def finish(table, owners, floats, bests, sums, TILES: tl.constexpr):
    """Scores to soft and log_soft, each where it is wanted."""
    piece = tl.program_id(0)
    record = record_of(table, owners, piece)
    categories, slices = shape_of(record, TILES)
    number, slice_number = place_of(record, piece, slices)
    block, lane = blocks_of(slice_number, TILES)
    first_piece = piece - slice_number
    low, high = _load_relaxed(record, number, block, lane, first_piece, slices, floats, bests, categories)
    total = sum_of(sums + first_piece, slices)
    if tl.load(record + SOFT) >= 0:
        factor = one_over(total)
        start = row_start(record, SOFT, number, categories)
        store_blocks(floats, start, block, lane, exp32(low) * factor, exp32(high) * factor, categories)
    if tl.load(record + LOG_SOFT) >= 0:
        log_total = log_of_sum(total)
        start = row_start(record, LOG_SOFT, number, categories)
        store_blocks(floats, start, block, lane, low - log_total, high - log_total, categories)


@triton.jit
def answer(table, owners, peaks, bests, winners, integers, floats, TILES: tl.constexpr):
    """Merges the pieces of every sample by (score down, category up). owners [samples]."""
    sample = tl.program_id(0)
    record = record_of(table, owners, sample)
    categories, slices = shape_of(record, TILES)
    number = (sample - tl.load(record + FIRST_SAMPLE)).to(tl.int32)
    first_piece = tl.load(record + FIRST_PIECE) + number.to(tl.int64) * slices
    best = largest_of(bests + first_piece, slices, _LEAST_SCORE)
    lane = tl.arange(0, 128)
    winner = tl.full((128,), 0, tl.int32) + categories
    for i in range(0, slices, 128):
        exists = i + lane < slices
        is_best = tl.load(bests + first_piece + i + lane, mask=exists, other=_LEAST_SCORE) == best
        category = tl.load(winners + first_piece + i + lane, mask=exists, other=0)
        winner = tl.minimum(winner, tl.where(exists & is_best, category, categories))
    status = status_of(peak_image(record, peaks, slices))
    winner = tl.minimum(tl.min(winner), categories - 1)  # of a row at fault, nothing may be the best
    write_answer(record, number, status, winner, best, integers, floats)


@triton.jit
def mark(table, owners, integers, floats, TILES: tl.constexpr):
    """one_hot, where it is wanted, from the index in the output buffer. owners [pieces]."""
    piece = tl.program_id(0)
    record = record_of(table, owners, piece)
    categories, slices = shape_of(record, TILES)
    number, slice_number = place_of(record, piece, slices)
    block, lane = blocks_of(slice_number, TILES)
    if tl.load(record + ONE_HOT) >= 0:
        winner = tl.load(integers + tl.load(record + INDEX) + number)
        k = block * 8 + lane
        start = row_start(record, ONE_HOT, number, categories)
        low, high = tl.where(k == winner, 1.0, 0.0), tl.where(k + 4 == winner, 1.0, 0.0)
        store_blocks(floats, start, block, lane, low, high, categories)
