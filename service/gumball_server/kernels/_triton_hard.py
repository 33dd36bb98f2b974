"""Hard samples, reading the logits once and computing almost no noise.

`sweep` streams through every piece and keeps two numbers a tile: its largest logit, and a bound of its scores
relative to that. `settle` then knows the peak of the row, visits tiles in the order of their bounds, computes their
scores as the contract says, and stops at the first tile whose bound lies below the best score. What it visits is one
to three tiles of hundreds, so the sweep is what a draw costs: the logits from memory, and one Philox block for every
eight of them.

The bound (the same as in ``_hard``, which has the proof): with A the coarse halfword, read as a float32::

    g <= (143 - bits(f32(A)) 2^-23) ln 2

and 1e-3 of slack, which also covers that the distance to the peak of the row is summed here from two rounded parts.
The bound is taken for every Philox block, eight categories, of its largest logit and its least halfword.
"""

import math

import triton
import triton.language as tl

from gumball_server.kernels._triton_arithmetic import (
    COARSE,
    LEAST_IMAGE,
    bits_of,
    clean,
    float_of,
    image_of,
    least_halfword,
    noise,
    ordered,
    philox,
    shifted,
)
from gumball_server.kernels._triton_peaks import OK, status_of
from gumball_server.kernels._triton_table import (
    BLOCKS,
    FIRST_PIECE,
    FIRST_SAMPLE,
    INDEX,
    INV_TEMPERATURE,
    SCORE,
    STATUS,
    blocks_of,
    float_field,
    key_of,
    largest_of,
    load_logits,
    place_of,
    record_of,
    shape_of,
)

_TOP = tl.constexpr(143 * math.log(2) + 1e-3)
_LN2_OVER_2_23 = tl.constexpr(math.log(2) / 2**23)


@triton.jit
def _noise_bound(coarse):
    """At least the noise of any category whose coarse halfword is at least `coarse`."""
    return _TOP - bits_of(coarse.to(tl.float32)).to(tl.float32) * _LN2_OVER_2_23


@triton.jit
def _distance(image, peak, inv_temperature):
    """How far the logit with this image lies below `peak`; -inf where it is masked, even below -inf."""
    distance = shifted(float_of(ordered(image)), peak, inv_temperature)
    return tl.where(image == LEAST_IMAGE, float("-inf"), distance)


@triton.jit
def sweep(table, owners, logits, peaks, bounds, TILES: tl.constexpr):
    """Of every tile of a piece: the image of its peak, and the bound of its scores relative to that.

    table [rows, WORDS] int64, owners [pieces] int32, peaks [pieces, TILES] int32, bounds [pieces, TILES] float32.
    """
    piece = tl.program_id(0)
    record = record_of(table, owners, piece)
    categories, slices = shape_of(record, TILES)
    number, slice_number = place_of(record, piece, slices)
    draw, row, k0, k1 = key_of(record, number)
    block, lane = blocks_of(slice_number, TILES)

    low, high = load_logits(logits, record, block, lane, categories)
    images = tl.max(tl.maximum(image_of(low), image_of(high)), axis=1)  # [TILES * BLOCKS]
    images = tl.reshape(images, (TILES, BLOCKS))
    tile_image = tl.max(images, axis=1)  # [TILES]

    x0, x1, x2, x3 = philox(block.to(tl.uint32), draw, row, COARSE, k0, k1)
    coarse = tl.reshape(least_halfword(x0, x1, x2, x3), (TILES, BLOCKS))

    tile_peak = clean(float_of(ordered(tile_image)))
    distance = _distance(images, tile_peak[:, None], float_field(record, INV_TEMPERATURE))
    bound = tl.max(distance + _noise_bound(coarse), axis=1)  # [TILES]

    place = piece.to(tl.int64) * TILES + tl.arange(0, TILES)
    tl.store(peaks + place, tile_image)
    tl.store(bounds + place, bound)


@triton.jit
def _next_tile(peaks, bounds, tiles, peak, inv_temperature, last_bound, last_tile):
    """The tile that follows (last_bound, last_tile) in the order (bound down, tile up): its bound and its number."""
    lane = tl.arange(0, 128)
    best_bound = tl.full((128,), float("-inf"), tl.float32)
    best_tile = tl.full((128,), 0, tl.int32)
    for first in range(0, tiles, 128):
        tile = first + lane
        image = tl.load(peaks + tile, mask=tile < tiles, other=LEAST_IMAGE)
        bound = _distance(image, peak, inv_temperature) + tl.load(bounds + tile, mask=tile < tiles, other=0.0)
        follows = (bound < last_bound) | ((bound == last_bound) & (tile > last_tile))
        better = follows & (bound > best_bound)
        best_bound, best_tile = tl.where(better, bound, best_bound), tl.where(better, tile, best_tile)
    largest = tl.max(best_bound)
    return largest, tl.min(tl.where(best_bound == largest, best_tile, tiles))


@triton.jit
def _visit(logits, record, tile, categories, peak, inv_temperature, draw, row, k0, k1):
    """The best score of a tile and the lowest category that has it."""
    block, lane = blocks_of(tile, 1)
    low, high = load_logits(logits, record, block, lane, categories)
    g_low, g_high = noise(block.to(tl.uint32), lane, draw, row, k0, k1)
    return best_of(
        shifted(low, peak, inv_temperature) + g_low,
        shifted(high, peak, inv_temperature) + g_high,
        block * 8 + lane,
        categories,
    )


@triton.jit
def best_of(low, high, k, categories):
    """The largest of scores low (of categories k) and high (of k + 4), and the lowest category that has it."""
    best = tl.max(tl.maximum(low, high))
    first = tl.minimum(tl.where(low == best, k, categories), tl.where(high == best, k + 4, categories))
    return best, tl.min(first)


@triton.jit
def settle(table, owners, logits, peaks, bounds, integers, floats, TILES: tl.constexpr):
    """One draw of one row from what `sweep` found: status, index and score, written to the output buffer.

    integers and floats are the output buffer as int32 and as float32.
    """
    sample = tl.program_id(0)
    record = record_of(table, owners, sample)
    categories, slices = shape_of(record, TILES)
    number = (sample - tl.load(record + FIRST_SAMPLE)).to(tl.int32)
    draw, row, k0, k1 = key_of(record, number)
    inv_temperature = float_field(record, INV_TEMPERATURE)
    tiles = slices * TILES
    start = (tl.load(record + FIRST_PIECE) + number.to(tl.int64) * slices) * TILES

    image = largest_of(peaks + start, tiles, LEAST_IMAGE)
    status = status_of(image)
    peak = clean(float_of(ordered(image)))
    best, winner = tl.full((), float("-inf"), tl.float32), tl.full((), 0, tl.int32)
    bound, tile = tl.full((), float("inf"), tl.float32), tl.full((), -1, tl.int32)
    going = status == OK
    while going:
        bound, tile = _next_tile(peaks + start, bounds + start, tiles, peak, inv_temperature, bound, tile)
        going = (bound >= best) & (bound > float("-inf"))
        if going:
            score, category = _visit(logits, record, tile, categories, peak, inv_temperature, draw, row, k0, k1)
            better = (score > best) | ((score == best) & (category < winner))
            best, winner = tl.where(better, score, best), tl.where(better, category, winner)
    write_answer(record, number, status, winner, best, integers, floats)


@triton.jit
def write_answer(record, number, status, winner, score, integers, floats):
    """The status of a row, and of its draw `number` the drawn category and, where wanted, its score."""
    if status != OK:
        tl.atomic_max(integers + tl.load(record + STATUS), status)
    tl.store(integers + tl.load(record + INDEX) + number, winner)
    place = tl.load(record + SCORE)
    if place >= 0:
        tl.store(floats + place + number, score)
