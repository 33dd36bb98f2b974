"""The peak of a row, in two steps: `measure` leaves one of every slice, and whoever needs that of the row reduces
them."""

import triton
import triton.language as tl

from gumball_server.kernels._triton_arithmetic import (
    INFINITY_IMAGE,
    LEAST_IMAGE,
    clean,
    float_of,
    image_of,
    ordered,
)
from gumball_server.kernels._triton_table import (
    FIRST_SLICE,
    blocks_of,
    largest_of,
    load_logits,
    record_of,
    shape_of,
)
from gumball_server.kernels.table import RowStatus

OK, NAN = tl.constexpr(int(RowStatus.OK)), tl.constexpr(int(RowStatus.NAN))
POSITIVE_INFINITY = tl.constexpr(int(RowStatus.POSITIVE_INFINITY))
TOO_FEW = tl.constexpr(int(RowStatus.TOO_FEW))
NEGATIVE = tl.constexpr(int(RowStatus.NEGATIVE))
_NOTHING_FINITE = tl.constexpr(int(RowStatus.NOTHING_FINITE))


@triton.jit
def status_of(image):
    """RowStatus of a row whose peak has this image."""
    found = tl.where(image == LEAST_IMAGE, _NOTHING_FINITE, OK)
    found = tl.where(image == INFINITY_IMAGE, POSITIVE_INFINITY, found)
    return tl.where(image > INFINITY_IMAGE, NAN, found)


@triton.jit
def measure(table, owners, logits, peaks, TILES: tl.constexpr):
    """peaks [slices] int32: the image of the peak of every slice. owners [slices]."""
    program = tl.program_id(0)
    record = record_of(table, owners, program)
    categories, _ = shape_of(record, TILES)
    block, lane = blocks_of((program - tl.load(record + FIRST_SLICE)).to(tl.int32), TILES)
    low, high = load_logits(logits, record, block, lane, categories)
    tl.store(peaks + program, tl.max(tl.maximum(image_of(low), image_of(high))))


@triton.jit
def peak_image(record, peaks, slices):
    return largest_of(peaks + tl.load(record + FIRST_SLICE), slices, LEAST_IMAGE)


@triton.jit
def peak_of(record, peaks, slices):
    """The largest logit of a row."""
    return clean(float_of(ordered(peak_image(record, peaks, slices))))
