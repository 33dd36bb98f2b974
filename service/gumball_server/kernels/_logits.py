"""Reading the logits of a row: upcast, peak of every tile, and what makes a row impossible to draw from."""

import numpy as np
from numba import njit

from gumball_server.kernels._arithmetic import F32, I32, bits_of, float_of, ordered, shifted
from gumball_server.kernels._memory import COMPILED, INLINED, SPLICED, float32_at, uint16_at
from gumball_server.kernels._vectors import TILE, some_peak_image, tile_peak
from gumball_server.kernels.table import LogitsType, RowStatus

_FLOAT32, _FLOAT16 = int(LogitsType.FLOAT32), int(LogitsType.FLOAT16)
SHAPED = len(LogitsType)  # beside the types of logits: float32 distances, which `_shape` has made of them
_OK, _NAN = int(RowStatus.OK), int(RowStatus.NAN)
_POSITIVE_INFINITY, _NOTHING_FINITE = int(RowStatus.POSITIVE_INFINITY), int(RowStatus.NOTHING_FINITE)

_INFINITY_BITS = I32(0x7F800000)
_LEAST = I32(-(2**31))
_LEAST_IMAGE = I32(ordered.py_func(np.float32(-np.inf).view(np.int32)))  # of what is not NaN

CHUNK = 16 * TILE  # categories that are upcast in one go
CHUNK_BYTES = 4 * CHUNK

_SUBNORMAL_STEP = F32(2.0**-24)  # of float16
_REBIAS = I32((127 - 15) << 23)  # between the exponents of float16 and float32


@njit(**SPLICED)
def _upcast_float16(half):
    """A float16, given by its bits, as float32: exact, infinities and NaN included."""
    bits = I32(half)
    sign, magnitude = I32((bits & I32(0x8000)) << I32(16)), I32(bits & I32(0x7FFF))
    subnormal = F32(magnitude) * _SUBNORMAL_STEP
    normal = I32(I32(magnitude << I32(13)) + _REBIAS)
    special = I32(normal + _REBIAS)
    widened = bits_of(subnormal) if magnitude < I32(0x0400) else (normal if magnitude < I32(0x7C00) else special)
    return float_of(I32(widened | sign))


@njit(**SPLICED)
def _upcast_bfloat16(half):
    """A bfloat16, given by its bits, as float32."""
    return float_of(I32(I32(half) << I32(16)))


@njit(**SPLICED)
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


@njit(**SPLICED)
def is_float32(record):
    """Whether the logits of a row are float32, to be read where they are."""
    return record.logits_type == _FLOAT32


@njit(**INLINED)
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
def _shift(logits, peak, inv_temperature, out):
    for i in range(out.shape[0]):
        out[i] = shifted(logits[i], peak, inv_temperature)


@njit(**INLINED)
def read_distances(record, first, n, peak, inv_temperature, scratch, out):
    """How far the logits first to first + n lie below the peak, float32 [n]: in place in a shaped row, else in out."""
    if record.logits_type == SHAPED:
        return float32_at(record.logits, record.categories)[first : first + n]
    distances = out[:n]
    _shift(read_logits(record, first, n, scratch), peak, inv_temperature, distances)
    return distances


@njit(**SPLICED)
def short_peak_image(values):
    """Max of the ordered images of a few float32; the image of a NaN if there is one, whatever its sign."""
    image = some_peak_image(values, 0, values.shape[0])
    for k in range(8, values.shape[0], 8):
        image = max(image, some_peak_image(values, k, values.shape[0]))
    return image


@njit(**COMPILED)
def greatest_image(values):
    """Max of the ordered images of float32 [n]; integers, which LLVM may reorder and so vectorises."""
    bits = values.view(np.int32)
    high = _LEAST
    for i in range(bits.shape[0]):
        high = max(high, ordered(bits[i]))
    return high


@njit(**SPLICED)
def largest(values):
    """Max of float32 [n] without NaN."""
    return float_of(ordered(greatest_image(values)))


@njit(**SPLICED)
def status_of(image):
    """RowStatus of a row whose peak has this image."""
    if image > _INFINITY_BITS:
        return I32(_NAN)
    if image == _INFINITY_BITS:
        return I32(_POSITIVE_INFINITY)
    return I32(_NOTHING_FINITE) if image == _LEAST_IMAGE else I32(_OK)


@njit(**COMPILED)
def whole_tile_peaks(logits, peaks):
    """peaks[t] float32 = max of the logits [64 tiles] of tile t, NaN if it has one."""
    for t in range(peaks.shape[0]):
        peaks[t] = tile_peak(logits, TILE * t)


@njit(**COMPILED)
def tile_peaks(record, peaks, scratch):
    """peaks[t] float32 = max of the logits of tile t, NaN if it has one; returns the image of the peak of all."""
    categories = record.categories
    whole = categories // TILE
    for first in range(0, whole, CHUNK // TILE):
        n = min(CHUNK // TILE, whole - first)
        whole_tile_peaks(read_logits(record, TILE * first, TILE * n, scratch), peaks[first : first + n])
    if TILE * whole < categories:
        rest = read_logits(record, TILE * whole, categories - TILE * whole, scratch)
        peaks[whole] = float_of(ordered(short_peak_image(rest)))
    return greatest_image(peaks)


@njit(**COMPILED)
def fill(values, x):
    """values[:] = x."""
    for i in range(values.shape[0]):
        values[i] = x
