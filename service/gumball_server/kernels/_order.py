"""The order of categories, (value down, category up), without sorting a row: where a prefix of it ends, and its start.

A prefix is a cut: a value and a category. It holds what is above the value, and of what equals it the categories up to
that one. The value is found by a histogram over the images of the candidates, then over those of one bin, and so on:
at most three or four passes, each over a fraction of the last, whatever the values are.
"""

import numpy as np
from numba import njit

from gumball_server.kernels._arithmetic import I32, I64, MINUS_INFINITY, bits_of, exp32, float_of, grid_weight, ordered
from gumball_server.kernels._memory import COMPILED, INLINED, SPLICED
from gumball_server.kernels._tiles import tile_of
from gumball_server.kernels._vectors import TILE, lowest_set_bit, mask_at_least, mask_below, tile_peak
from gumball_server.kernels._work import BINS, histogram_of, images_of, keys_of

_FEW, _FEW_BINS = 1024, 256  # few candidates need few bins, and these are cleared sooner
_SHORT = 32  # what is sorted by insertion

_U64 = np.uint64
_LOW, _HALF = _U64(0xFFFFFFFF), _U64(32)


@njit(**INLINED)
def _image(x):
    return ordered(bits_of(x))


@njit(**COMPILED)
def gather(values, peaks, least, images):
    """images[:n] int32 of the values that are at least `least`, in order of category; returns n."""
    n = 0
    for t in range(peaks.shape[0]):
        if peaks[t] >= least:
            tile = tile_of(values, t)
            mask = mask_at_least(tile, least)
            while mask != 0:
                images[n] = _image(tile[lowest_set_bit(mask)])
                mask &= mask - _U64(1)
                n += 1
    return n


@njit(**INLINED)
def _mass(image, weighted):
    return grid_weight(exp32(float_of(ordered(image)))) if weighted else I64(1)


@njit(**SPLICED)
def _bounds(images):
    """The least and the greatest of int32 [n]."""
    low, high = images[0], images[0]
    for i in range(images.shape[0]):
        low, high = min(low, images[i]), max(high, images[i])
    return I64(low), I64(high)


@njit(**COMPILED)
def reach(images, needed, weighted, histogram):
    """The image at which the mass of images, from the greatest down, reaches what is needed: 1 to the mass of all.

    Returns it, what of its own mass is needed, and how many have it. Overwrites the images.
    """
    while True:
        low, high = _bounds(images)
        if low == high:
            return I32(low), needed, images.shape[0]
        bins = _FEW_BINS if images.shape[0] <= _FEW else BINS
        shift = I64(0)
        while (high - low) >> shift >= bins:
            shift += 1
        histogram[:bins] = 0
        for i in range(images.shape[0]):
            histogram[(high - images[i]) >> shift] += _mass(images[i], weighted)
        found = I64(0)
        while histogram[found] < needed:
            needed -= histogram[found]
            found += 1
        n = 0
        for i in range(images.shape[0]):
            image = images[i]
            images[n] = image  # where n does not advance, the next one overwrites it
            n += 1 if (high - image) >> shift == found else 0
        images = images[:n]


@njit(**COMPILED)
def nth_equal(values, peaks, x, n):
    """The category of the n-th value that equals x, n from 1; there are so many."""
    for t in range(peaks.shape[0]):
        if peaks[t] >= x:
            for k in range(TILE * t, TILE * t + TILE):
                n -= 1 if values[k] == x else 0
                if n == 0:
                    return k
    return I64(values.shape[0])


@njit(**SPLICED)
def cut_at(values, peaks, image, kept, ties):
    """The cut that keeps what is above an image and `kept` of the `ties` that have it."""
    x = float_of(ordered(image))
    return x, I64(values.shape[0]) if kept == ties else nth_equal(values, peaks, x, kept)


@njit(**SPLICED)
def rank_floor(peaks, rank, work):
    """At most the `rank`-th largest value: so many tiles have a value of at least the rank-th of their peaks."""
    if rank >= peaks.shape[0]:
        return MINUS_INFINITY
    images = images_of(work)[: peaks.shape[0]]
    for t in range(peaks.shape[0]):
        images[t] = _image(peaks[t])
    return float_of(ordered(reach(images, rank, False, histogram_of(work))[0]))


@njit(**SPLICED)
def rank_cut(values, peaks, rank, floor, work):
    """The cut after the first `rank` values [padded] from a floor up, given the peaks [tiles] of tiles."""
    images = images_of(work)
    n = gather(values, peaks, floor, images)
    if n <= rank:
        return floor, I64(values.shape[0])
    image, kept, ties = reach(images[:n], rank, False, histogram_of(work))
    return cut_at(values, peaks, image, kept, ties)


@njit(**COMPILED)
def keep(values, peaks, x, last):
    """values [padded] after a cut become -inf, and the peaks [tiles] follow."""
    for t in range(peaks.shape[0]):
        if peaks[t] > MINUS_INFINITY:
            mask_below(values, TILE * t, x)
            if peaks[t] >= x:
                for k in range(max(last + 1, TILE * t), TILE * t + TILE):
                    if values[k] == x:
                        values[k] = MINUS_INFINITY
            if peaks[t] <= x:
                peaks[t] = tile_peak(values, TILE * t)


@njit(**SPLICED)
def _key(value, category):
    """Keys order as categories do: the image, upside down, above the category."""
    return (_U64(I64(2**31 - 1) - I64(_image(value))) << _HALF) | _U64(category)


@njit(**INLINED)
def category_of(key):
    """The category of a key."""
    return I64(key & _LOW)


@njit(**SPLICED)
def _insert(keys):
    """Sorts a few keys."""
    for i in range(1, keys.shape[0]):
        key, j = keys[i], i
        while j > 0 and keys[j - 1] > key:
            keys[j] = keys[j - 1]
            j -= 1
        keys[j] = key


@njit(**SPLICED)
def _sort(keys, spare, histogram):
    """Sorts keys that are in order of category, by the bytes of their images, the lowest first."""
    for byte in range(4):
        shift = _U64(32 + 8 * byte)
        counts = histogram[:256]
        counts[:] = 0
        for i in range(keys.shape[0]):
            counts[I64((keys[i] >> shift) & _U64(0xFF))] += 1
        start = I64(0)
        for b in range(256):
            counts[b], start = start, start + counts[b]
        for i in range(keys.shape[0]):
            b = I64((keys[i] >> shift) & _U64(0xFF))
            spare[counts[b]] = keys[i]
            counts[b] += 1
        keys, spare = spare, keys


@njit(**COMPILED)
def first_keys(values, peaks, n, work):
    """The keys [n] of the first n values [padded], in order."""
    x, last = rank_cut(values, peaks, n, rank_floor(peaks, n, work), work)
    keys, spare = keys_of(work)[:n], keys_of(work)[n : 2 * n]
    found = 0
    for t in range(peaks.shape[0]):
        if peaks[t] >= x:
            tile = tile_of(values, t)
            mask = mask_at_least(tile, x)
            while mask != 0:
                i = lowest_set_bit(mask)
                mask &= mask - _U64(1)
                if tile[i] > x or TILE * t + i <= last:
                    keys[found] = _key(tile[i], TILE * t + i)
                    found += 1
    if n <= _SHORT:
        _insert(keys)
    else:
        _sort(keys, spare, histogram_of(work))
    return keys
