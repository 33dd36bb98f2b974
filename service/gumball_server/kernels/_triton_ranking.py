"""The first of a row in the order of the contract, (value down, category up): draws without replacement, and
top_log_probs.

The order is that of one integer, the *key* of a category, downwards. A pass over the row finds the largest key below
the last one, so a few categories are found in as many passes; for many, sorting would be faster.
"""

import triton
import triton.language as tl

from gumball_server.kernels._triton_arithmetic import LEAST_IMAGE, float_of, image_of, log_of_sum, ordered, shifted
from gumball_server.kernels._triton_peaks import OK, TOO_FEW, peak_image, peak_of, status_of
from gumball_server.kernels._triton_table import (
    DISTINCT,
    FIRST_SAMPLE,
    FIRST_SLICE,
    INDEX,
    INV_TEMPERATURE,
    LOGITS,
    SCORE,
    SCORES,
    STATUS,
    TOP,
    TOP_INDEX,
    TOP_LOG_PROB,
    WORDS,
    float_field,
    record_of,
    row_start,
    shape_of,
    sum_of,
)

_LAST_CATEGORY = tl.constexpr((1 << 22) - 1)
_CATEGORY_BITS = tl.constexpr(22)
_ABOVE_ALL = tl.constexpr(1 << 62)
STEP = tl.constexpr(2048)  # categories that a program looks at together


@triton.jit
def least_key(image):
    """The key that the last possible category would have."""
    return image.to(tl.int64) << _CATEGORY_BITS


@triton.jit
def key_of_place(image, k):
    """An int64 that is larger for what comes earlier in the order (image down, k up)."""
    return least_key(image) + (k ^ _LAST_CATEGORY)


@triton.jit
def _place_of_key(key):
    """(image, k)."""
    return (key >> _CATEGORY_BITS).to(tl.int32), (key & _LAST_CATEGORY).to(tl.int32) ^ _LAST_CATEGORY


@triton.jit
def _next_score(scores, categories, last):
    """The largest key below `last` of a row of scores."""
    lane = tl.arange(0, STEP)
    best = tl.full((STEP,), -_ABOVE_ALL, tl.int64)
    for first in range(0, categories, STEP):
        k = first + lane
        key = key_of_place(image_of(tl.load(scores + k, mask=k < categories, other=0.0)), k)
        best = tl.where((k < categories) & (key < last), tl.maximum(best, key), best)
    return tl.max(best)


@triton.jit
def _next_log_odds(logits, categories, peak, inv_temperature, last):
    """The largest key below `last` of d = (l - max l) / temperature."""
    lane = tl.arange(0, STEP)
    best = tl.full((STEP,), -_ABOVE_ALL, tl.int64)
    for first in range(0, categories, STEP):
        k = first + lane
        logit = tl.load(logits + k, mask=k < categories, other=0.0).to(tl.float32)
        key = key_of_place(image_of(shifted(logit, peak, inv_temperature)), k)
        best = tl.where((k < categories) & (key < last), tl.maximum(best, key), best)
    return tl.max(best)


@triton.jit
def draw_distinct(table, owners, peaks, integers, floats, TILES: tl.constexpr):
    """Index and score of the `distinct` best scores of a draw, in that order; instead of `answer`. owners [samples]."""
    sample = tl.program_id(0)
    record = record_of(table, owners, sample)
    categories, slices = shape_of(record, TILES)
    number = (sample - tl.load(record + FIRST_SAMPLE)).to(tl.int32)
    distinct = tl.load(record + DISTINCT).to(tl.int32)
    scores = floats + row_start(record, SCORES, number, categories)
    status = status_of(peak_image(record, peaks, slices))
    key = tl.full((), _ABOVE_ALL, tl.int64)
    for i in range(distinct):
        key = _next_score(scores, categories, key)
        image, k = _place_of_key(key)
        status = tl.where((status == OK) & (image == LEAST_IMAGE), TOO_FEW, status)
        tl.store(integers + tl.load(record + INDEX) + number.to(tl.int64) * distinct + i, k)
        if tl.load(record + SCORE) >= 0:
            tl.store(floats + tl.load(record + SCORE) + number.to(tl.int64) * distinct + i, float_of(ordered(image)))
    if status != OK:
        tl.atomic_max(integers + tl.load(record + STATUS), status)


@triton.jit
def list_most_likely(table, logits, peaks, sums, integers, floats, TILES: tl.constexpr):
    """top_index and top_log_prob, where they are wanted. One program a row."""
    record = table + tl.program_id(0).to(tl.int64) * WORDS
    categories, slices = shape_of(record, TILES)
    peak, inv_temperature = peak_of(record, peaks, slices), float_field(record, INV_TEMPERATURE)
    log_total = log_of_sum(sum_of(sums + tl.load(record + FIRST_SLICE), slices))
    start = logits + tl.load(record + LOGITS)
    key = tl.full((), _ABOVE_ALL, tl.int64)
    for i in range(tl.load(record + TOP).to(tl.int32)):
        key = _next_log_odds(start, categories, peak, inv_temperature, key)
        image, k = _place_of_key(key)
        tl.store(integers + tl.load(record + TOP_INDEX) + i, k)
        tl.store(floats + tl.load(record + TOP_LOG_PROB) + i, float_of(ordered(image)) - log_total)
