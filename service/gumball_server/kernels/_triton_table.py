"""The table that the Triton kernels work through, and how a program finds its part of it.

A record is WORDS int64, one a row. Work is cut three ways, and each way has a list `owners` that gives the row of a
program:

- *slices*: [row][slice], TILES tiles of a row
- *pieces*: [row][draw][slice], a slice for one draw
- *samples*: [row][draw]

A tile is 256 categories: 32 threads times the 8 categories that one Philox block feeds.
"""

import triton
import triton.language as tl

FIELDS = (
    "logits",  # element of its first logit, a multiple of 8; readable up to a multiple of 8
    "categories",
    "seed",
    "row",
    "first_draw",
    "inv_temperature",  # bits of a float32, as all that have no other type
    "inv_tau",
    "first_slice",
    "first_piece",
    "first_sample",
    # What makes plain float32 logits of a row that has anything but those:
    "prepared",  # element of its first logit in the buffer of prepared logits, a multiple of 8
    "are_probs",
    "biases",  # number of categories with a bias
    "biased",  # element of the first of these categories, int32, in the buffer that came in
    "bias",  # likewise of the float32 that are added
    "top_k",  # from 1; categories: off
    "top_p",  # bits of a float64; 1: off
    "min_p",
    "distinct",  # categories a draw, without replacement; at least 1
    "top",  # n of the top_ outputs
    # Outputs: element of the output buffer, or -1 for what is not wanted. Rows of categories lie `stride` apart.
    "status",  # 0 until a kernel finds the row at fault
    "index",  # always wanted
    "score",
    "scores",  # where a dense sample keeps its scores meanwhile: the place of soft or of log_soft, if there is one
    "soft",
    "log_soft",
    "one_hot",
    "log_prob",
    "probs",
    "entropy",
    "top_index",
    "top_log_prob",
)
WORDS = tl.constexpr(len(FIELDS))
(
    LOGITS,
    CATEGORIES,
    SEED,
    ROW,
    FIRST_DRAW,
    INV_TEMPERATURE,
    INV_TAU,
    FIRST_SLICE,
    FIRST_PIECE,
    FIRST_SAMPLE,
    PREPARED,
    ARE_PROBS,
    BIASES,
    BIASED,
    BIAS,
    TOP_K,
    TOP_P,
    MIN_P,
    DISTINCT,
    TOP,
    STATUS,
    INDEX,
    SCORE,
    SCORES,
    SOFT,
    LOG_SOFT,
    ONE_HOT,
    LOG_PROB,
    PROBS,
    ENTROPY,
    TOP_INDEX,
    TOP_LOG_PROB,
) = map(tl.constexpr, range(len(FIELDS)))

BLOCKS = tl.constexpr(32)  # of a tile, one a thread
TILE = tl.constexpr(256)
ALIGNMENT = 8  # categories: what a thread reads and writes as a whole


@triton.jit
def record_of(table, owners, program):
    """The record of the row that a program of this list works on."""
    return table + tl.load(owners + program).to(tl.int64) * WORDS


@triton.jit
def float_field(record, FIELD: tl.constexpr):
    return tl.load(record + FIELD).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def shape_of(record, TILES: tl.constexpr):
    """(categories, slices) of a row."""
    categories = tl.load(record + CATEGORIES).to(tl.int32)
    return categories, tl.cdiv(categories, TILES * TILE)


@triton.jit
def key_of(record, draw):
    """(draw, row, k0, k1) of a draw of a row, counted from 0: what its noise is keyed by."""
    seed = tl.load(record + SEED)
    number = tl.load(record + FIRST_DRAW).to(tl.uint32) + draw.to(tl.uint32)
    return number, tl.load(record + ROW).to(tl.uint32), seed.to(tl.uint32), (seed >> 32).to(tl.uint32)


@triton.jit
def place_of(record, piece, slices):
    """(draw, slice) of a piece, counted from 0 in its row."""
    number = (piece - tl.load(record + FIRST_PIECE)).to(tl.uint32)
    return (number // slices.to(tl.uint32)).to(tl.int32), (number % slices.to(tl.uint32)).to(tl.int32)


@triton.jit
def blocks_of(slice_number, TILES: tl.constexpr):
    """The Philox blocks of a slice, [TILES * BLOCKS, 1] int32, and the lanes of half a block, [1, 4].

    A warp takes a tile, a thread a block: 16 bytes of float32 logits twice, the words of its eight categories, and
    no exchange between threads until something is reduced.
    """
    block = slice_number * (TILES * BLOCKS) + tl.arange(0, TILES * BLOCKS)
    return block[:, None], tl.arange(0, 4)[None, :]


@triton.jit
def load_logits(logits, record, block, lane, categories):
    """Logits 8 block + lane and 8 block + 4 + lane of a row, float32, -inf from the end of the row on.

    Whole blocks are read: a mask that cuts through a block would turn each 16-byte load into four.
    """
    k = block * 8 + lane
    start = logits + tl.multiple_of(tl.load(record + LOGITS), 8)
    exists = block * 8 < categories
    low = tl.load(start + k, mask=exists).to(tl.float32)
    high = tl.load(start + k + 4, mask=exists).to(tl.float32)
    missing = float("-inf")
    return tl.where(k < categories, low, missing), tl.where(k + 4 < categories, high, missing)


@triton.jit
def row_start(record, FIELD: tl.constexpr, draw, categories):
    """Element of the output buffer where the categories of a draw begin, a multiple of 8."""
    stride = (categories + 7) // 8 * 8
    return tl.multiple_of(tl.load(record + FIELD) + draw.to(tl.int64) * stride, 8)


@triton.jit
def store_blocks(out, start, block, lane, low, high, categories):
    """Write whole blocks; what lies behind the end of the row is padding."""
    k = block * 8 + lane
    exists = block * 8 < categories
    tl.store(out + start + k, low, mask=exists)
    tl.store(out + start + k + 4, high, mask=exists)


@triton.jit
def largest_of(values, n, LEAST: tl.constexpr):
    """The largest of n stored values, at least LEAST."""
    lane = tl.arange(0, 128)
    largest = tl.full((128,), LEAST, values.dtype.element_ty)
    for i in range(0, n, 128):
        largest = tl.maximum(largest, tl.load(values + i + lane, mask=i + lane < n, other=LEAST))
    return tl.max(largest)


@triton.jit
def sum_of(values, n):
    """The sum of n stored int64."""
    lane = tl.arange(0, 128)
    total = tl.zeros((128,), tl.int64)
    for i in range(0, n, 128):
        total += tl.load(values + i + lane, mask=i + lane < n, other=0)
    return tl.sum(total)
