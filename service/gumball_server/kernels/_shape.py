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
from gumball_server.kernels._filters import filter_row, floor_of
from gumball_server.kernels._logits import (
    CHUNK,
    CHUNK_BYTES,
    fill,
    greatest_image,
    is_float32,
    read_distances,
    read_logits,
    status_of,
    tile_peaks,
    whole_tile_peaks,
)
from gumball_server.kernels._memory import COMPILED, SPLICED, float32_at, stack, uint32_at
from gumball_server.kernels._order import keep, nth_equal
from gumball_server.kernels._tiles import tile_of
from gumball_server.kernels._vectors import TILE
from gumball_server.kernels._work import distances_of, peaks_of
from gumball_server.kernels.table import RowStatus

_NEGATIVE, _NAN, _NOTHING_FINITE = int(RowStatus.NEGATIVE), int(RowStatus.NAN), int(RowStatus.NOTHING_FINITE)

_SMALLEST_NORMAL = F32(2.0**-126)
_NEGATIVE_ZERO_IMAGE = I32(-1)


@njit(**COMPILED)
def _copy(values, out):
    for i in range(out.shape[0]):
        out[i] = values[i]


@njit(**SPLICED)
def _load(record, out):
    """out [categories] = the logits as float32."""
    for first in range(0, record.categories, CHUNK):
        n = min(CHUNK, record.categories - first)
        chunk = out[first : first + n]
        if is_float32(record):
            _copy(read_logits(record, first, n, chunk), chunk)
        else:
            read_logits(record, first, n, chunk)


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
def _load_parameters(record, values, peaks):
    """values [padded] and the peaks [tiles] of a row of probs, or with a bias: its logits. Returns the status of it."""
    _load(record, values[: record.categories])
    fill(values[record.categories :], MINUS_INFINITY)
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
def _shift_live(record, loaded, values, peaks, floor, peak, inv_temperature):
    """values [padded] = the distances; -inf in the tiles whose peak lies below the floor, and that peak too."""
    scratch = float32_at(stack(CHUNK_BYTES), CHUNK)
    t, tiles = 0, peaks.shape[0]
    while t < tiles:
        if peaks[t] < floor:
            fill(tile_of(values, t), MINUS_INFINITY)
            peaks[t] = MINUS_INFINITY
            t += 1
            continue
        first, end = TILE * t, t + 1
        while end < tiles and TILE * (end - t) < CHUNK and peaks[end] >= floor:
            end += 1
        n = min(TILE * end, record.categories) - first
        if loaded:
            _shift(values[first : first + n], peak, inv_temperature)
        else:
            read_distances(record, first, n, peak, inv_temperature, scratch, values[first : first + n])
        t = end
    fill(values[record.categories :], MINUS_INFINITY)


@njit(**COMPILED)
def measure_row(record, work):
    """Makes the peaks [tiles] of a row's distances; returns its status, the peak of its logits and 1 / temperature.

    The logits of a row of probs or with a bias lie where its distances will be.
    """
    values, peaks = distances_of(work), peaks_of(work)
    loaded = (record.are_probs | record.biases) != 0
    status = _load_parameters(record, values, peaks) if loaded else status_of(tile_peaks(record, peaks, values))
    peak = clean(float_of(ordered(greatest_image(peaks))))
    inv_temperature = F32(1) if record.temperature == 0.0 else inverse(record.temperature)
    _shift(peaks, peak, inv_temperature)
    return status, peak, inv_temperature


@njit(**COMPILED)
def shape_row(record, peak, inv_temperature, work):
    """Makes the distances [padded] of a row that is measured, and lets its peaks follow what the filters mask."""
    values, peaks = distances_of(work), peaks_of(work)
    point_mass = record.temperature == 0.0
    floor = F32(0) if point_mass else floor_of(record, peaks, work)
    loaded = (record.are_probs | record.biases) != 0
    _shift_live(record, loaded, values, peaks, floor, peak, inv_temperature)
    if point_mass:
        keep(values, peaks, F32(0), nth_equal(values, peaks, F32(0), 1))
    else:
        filter_row(record, values, peaks, floor, work)
