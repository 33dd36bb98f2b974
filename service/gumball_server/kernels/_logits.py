"""Reading the logits of a row: upcast, peak of every tile, and what makes a row impossible to draw from."""

import numpy as np
from numba import njit

from gumball_server.kernels._arithmetic import F32, I32, MINUS_INFINITY, bits_of, float_of, ordered
from gumball_server.kernels._memory import COMPILED, INLINED, float32_at, uint16_at
from gumball_server.kernels._philox import CATEGORIES as TILE
from gumball_server.kernels.table import LogitsType, RowStatus

_FLOAT32, _FLOAT16 = int(LogitsType.FLOAT32), int(LogitsType.FLOAT16)
_OK, _NAN = int(RowStatus.OK), int(RowStatus.NAN)
_POSITIVE_INFINITY, _NOTHING_FINITE = int(RowStatus.POSITIVE_INFINITY), int(RowStatus.NOTHING_FINITE)

_INFINITY_BITS = I32(0x7F800000)
_LEAST = I32(-(2**31))
_NAN_IMAGE = I32(0x7FC00000)
_LEAST_IMAGE = I32(ordered.py_func(np.float32(-np.inf).view(np.int32)))  # of what is not NaN

_SUBNORMAL_STEP = F32(2.0**-24)  # of float16
_REBIAS = I32((127 - 15) << 23)  # between the exponents of float16 and float32


@njit(**INLINED)
def _upcast_float16(half):
    """A float16, given by its bits, as float32: exact, infinities and NaN included."""
    bits = I32(half)
    sign, magnitude = I32((bits & I32(0x8000)) << I32(16)), I32(bits & I32(0x7FFF))
    subnormal = F32(magnitude) * _SUBNORMAL_STEP
    normal = I32(I32(magnitude << I32(13)) + _REBIAS)
    special = I32(normal + _REBIAS)
    widened = bits_of(subnormal) if magnitude < I32(0x0400) else (normal if magnitude < I32(0x7C00) else special)
    return float_of(I32(widened | sign))


@njit(**INLINED)
def _upcast_bfloat16(half):
    """A bfloat16, given by its bits, as float32."""
    return float_of(I32(I32(half) << I32(16)))


@njit(**INLINED)
def logit_at(record, k):
    """Logit k of a row, as float32."""
    if record.logits_type == _FLOAT32:
        return float32_at(record.logits, record.categories)[k]
    half = uint16_at(record.logits, record.categories)[k]
    return _upcast_float16(half) if record.logits_type == _FLOAT16 else _upcast_bfloat16(half)


@njit(**COMPILED)
def _upcast_all_float16(halves, out):
    for i in range(out.shape[0]):
        out[i] = _upcast_float16(halves[i])


@njit(**COMPILED)
def _upcast_all_bfloat16(halves, out):
    for i in range(out.shape[0]):
        out[i] = _upcast_bfloat16(halves[i])


@njit(**COMPILED)
def read_logits(record, first, n, scratch):
    """Logits first to first + n of a row as float32 [n]: in place where they are float32, else upcast into scratch."""
    if record.logits_type == _FLOAT32:
        return float32_at(record.logits, record.categories)[first : first + n]
    halves = uint16_at(record.logits, record.categories)[first : first + n]
    out = scratch[:n]
    if record.logits_type == _FLOAT16:
        _upcast_all_float16(halves, out)
    else:
        _upcast_all_bfloat16(halves, out)
    return out


@njit(**COMPILED)
def peak_image(logits):
    """Max of the ordered images of logits [n]; the image of a NaN if there is one, whatever its sign."""
    bits = logits.view(np.int32)
    high, low = _LEAST, _INFINITY_BITS
    for i in range(bits.shape[0]):
        image = ordered(bits[i])
        high, low = max(high, image), min(low, image)
    return _NAN_IMAGE if low < _LEAST_IMAGE else high


@njit(**INLINED)
def largest(values):
    """Max of float32 [n] without NaN; through integers, which LLVM may reorder and so vectorises."""
    bits = values.view(np.int32)
    high = _LEAST
    for i in range(bits.shape[0]):
        high = max(high, ordered(bits[i]))
    return float_of(ordered(high))


@njit(**INLINED)
def status_of(image):
    """RowStatus of a row whose peak has this image."""
    if image > _INFINITY_BITS:
        return I32(_NAN)
    if image == _INFINITY_BITS:
        return I32(_POSITIVE_INFINITY)
    return I32(_NOTHING_FINITE) if image == _LEAST_IMAGE else I32(_OK)


@njit(**COMPILED)
def tile_peak_images(record, images, scratch):
    """images[t] int32 = image of the peak of tile t, for every tile of a row."""
    categories = record.categories
    for t in range(images.shape[0]):
        first = TILE * t
        images[t] = peak_image(read_logits(record, first, min(TILE, categories - first), scratch))


@njit(**COMPILED)
def greatest(images):
    """Max of int32 [n]."""
    high = _LEAST
    for i in range(images.shape[0]):
        high = max(high, images[i])
    return high


@njit(**COMPILED)
def fill(values, x):
    """values[:] = x."""
    for i in range(values.shape[0]):
        values[i] = x
