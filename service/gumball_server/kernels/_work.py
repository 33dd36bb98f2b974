"""The memory that a long row is drawn in: one block serves all rows of a table, laid out anew for each."""

import numpy as np
from numba import njit

from gumball_server.kernels._memory import INLINED, SPLICED, float32_at, int32_at, int64_at, record_at, uint64_at
from gumball_server.kernels._vectors import TILE

BINS = 2048  # of the histogram

# The arrays of a row, by their addresses. One record, so that passing it on is passing one pointer.
WORK = np.dtype(
    [
        ("tiles", np.int64),  # how many the row has
        ("peaks", np.uint64),  # [tiles] float32: the largest distance of each
        ("tops", np.uint64),  # [tiles] float32
        ("live", np.uint64),  # [tiles] int32
        # Of shaped rows only; [padded] is their categories, rounded up to whole tiles:
        ("distances", np.uint64),  # [padded] float32
        ("scores", np.uint64),  # [padded] float32
        ("images", np.uint64),  # [padded] int32
        ("histogram", np.uint64),  # [BINS] int64
        ("keys", np.uint64),  # [2, n] uint64, n = as many as are put in order
        ("sorted", np.int64),  # n
    ]
)
WORK_BYTES = WORK.itemsize

_LINE = 64  # bytes, of the cache


@njit(**INLINED)
def _after(address, size):
    """The next free address after `size` bytes."""
    return address + np.uint64((size + _LINE - 1) // _LINE * _LINE)


@njit(**SPLICED)
def lay_out(work, record, start, shaped):
    """Gives a row its arrays from an address on; returns how many bytes they take."""
    tiles = (record.categories + TILE - 1) // TILE
    work.tiles, work.sorted = tiles, max(record.distinct, record.top)
    work.peaks = start
    work.tops = _after(work.peaks, 4 * tiles)
    work.live = _after(work.tops, 4 * tiles)
    end = _after(work.live, 4 * tiles)
    if shaped:
        work.distances = end
        work.scores = _after(work.distances, 4 * TILE * tiles)
        work.images = _after(work.scores, 4 * TILE * tiles)
        work.histogram = _after(work.images, 4 * TILE * tiles)
        work.keys = _after(work.histogram, 8 * BINS)
        end = _after(work.keys, 2 * 8 * work.sorted)
    return np.int64(end - start)


@njit(**INLINED)
def work_at(address):
    """The WORK at an address."""
    return record_at(address, WORK)


@njit(**INLINED)
def peaks_of(work):
    return float32_at(work.peaks, work.tiles)


@njit(**INLINED)
def tops_of(work):
    return float32_at(work.tops, work.tiles)


@njit(**INLINED)
def live_of(work):
    return int32_at(work.live, work.tiles)


@njit(**INLINED)
def distances_of(work):
    return float32_at(work.distances, TILE * work.tiles)


@njit(**INLINED)
def scores_of(work):
    return float32_at(work.scores, TILE * work.tiles)


@njit(**INLINED)
def images_of(work):
    return int32_at(work.images, TILE * work.tiles)


@njit(**INLINED)
def histogram_of(work):
    return int64_at(work.histogram, BINS)


@njit(**INLINED)
def keys_of(work):
    return uint64_at(work.keys, 2 * work.sorted)
