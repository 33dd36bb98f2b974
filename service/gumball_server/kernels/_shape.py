"""A row with parameters becomes its distances: log-odds d, biased, scaled and filtered, -inf where masked.

What comes after sees a record whose logits are these distances, and asks for no parameters again.
"""

from numba import njit

from gumball_server.kernels._arithmetic import (
    F32,
    I32,
    I64,
    MINUS_INFINITY,
    bits_of,
    clean,
    float_of,
    inverse,
    log32,
    ordered,
    shifted,
)
from gumball_server.kernels._filters import filter_row
from gumball_server.kernels._logits import (
    CHUNK,
    fill,
    greatest_image,
    is_float32,
    read_logits,
    status_of,
    whole_tile_peaks,
)
from gumball_server.kernels._memory import COMPILED, SPLICED, float32_at, uint32_at
from gumball_server.kernels._order import keep, nth_equal
from gumball_server.kernels._work import distances_of, peaks_of
from gumball_server.kernels.table import RowStatus

_NEGATIVE, _NAN, _NOTHING_FINITE = int(RowStatus.NEGATIVE), int(RowStatus.NAN), int(RowStatus.NOTHING_FINITE)

_SMALLEST_NORMAL = F32(2.0**-126)
_NEGATIVE_ZERO_IMAGE = I32(-1)


@njit(**COMPILED)
def _copy(values, out):
    for i in range(out.shape[0]):
        out[i] = values[i]


@njit(**COMPILED)
def _load(record, out):
    """out [padded] = the logits as float32, and -inf behind them."""
    for first in range(0, record.categories, CHUNK):
        n = min(CHUNK, record.categories - first)
        chunk = out[first : first + n]
        if is_float32(record):
            _copy(read_logits(record, first, n, chunk), chunk)
        else:
            read_logits(record, first, n, chunk)
    fill(out[record.categories :], MINUS_INFINITY)


@njit(**COMPILED)
def _any_negative(values):
    low = _NEGATIVE_ZERO_IMAGE
    for i in range(values.shape[0]):
        low = min(low, ordered(bits_of(values[i])))
    return low < _NEGATIVE_ZERO_IMAGE


@njit(**COMPILED)
def _take_logarithms(values):
    for i in range(values.shape[0]):
        x = values[i]
        values[i] = MINUS_INFINITY if x < _SMALLEST_NORMAL else log32(x)


@njit(**SPLICED)
def _add_biases(record, values):
    biased, bias = uint32_at(record.biased, record.biases), float32_at(record.bias, record.biases)
    for i in range(record.biases):
        k, amount = I64(biased[i]), bias[i]
        values[k] = MINUS_INFINITY if amount == MINUS_INFINITY else values[k] + amount


@njit(**COMPILED)
def _shift(values, peak, inv_temperature):
    for i in range(values.shape[0]):
        values[i] = shifted(values[i], peak, inv_temperature)


@njit(**SPLICED)
def _logits(record, values, peaks):
    """values [padded] and the peaks [tiles]: the logits that are drawn from. Returns the status of the row."""
    _load(record, values)
    if record.are_probs != 0:
        probs = values[: record.categories]
        whole_tile_peaks(values, peaks)
        status = status_of(greatest_image(peaks))
        if status != _NAN and _any_negative(probs):
            return I32(_NEGATIVE)
        if status != 0:
            return status
        _take_logarithms(probs)
    if record.biases != 0:
        _add_biases(record, values)
    whole_tile_peaks(values, peaks)
    return status_of(greatest_image(peaks))


@njit(**COMPILED)
def shape_row(record, work):
    """Makes the distances [padded] of a row, and the peaks [tiles] of their tiles; returns the status of the row."""
    values, peaks = distances_of(work), peaks_of(work)
    status = _logits(record, values, peaks)
    if status != 0:
        return status
    peak = clean(float_of(ordered(greatest_image(peaks))))
    point_mass = record.temperature == 0.0
    inv_temperature = F32(1) if point_mass else inverse(record.temperature)
    _shift(values, peak, inv_temperature)
    _shift(peaks, peak, inv_temperature)
    if point_mass:
        keep(values, peaks, F32(0), nth_equal(values, peaks, F32(0), 1))
    filter_row(record, values, peaks, work)
    return status
