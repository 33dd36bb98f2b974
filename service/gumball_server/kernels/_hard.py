"""Hard samples of long rows: almost no noise is ever computed.

A category can win only if its score reaches the incumbent's. Its noise is bounded by its coarse halfword alone, so a
tile of 64 categories is bounded by its largest logit and its least coarse halfword, and one category in thousands needs
the fine stream and the logarithms.

The bound. Let A be the coarse halfword. Over every input, g <= -ln(A / 65536) - 1.5e-5 for A > 0, and g <= 33.2711. The
bits of a float, read as an integer, interpolate log2 linearly between powers of two; log2 is concave, so from below::

    log2(A) >= bits(f32(A)) 2^-23 - 127,  so  g <= (143 - bits(f32(A)) 2^-23) ln 2

At A = 0 the same expression is 99. Evaluated in binary32 it errs by less than 3e-5, and so does its sum with a distance
that matters (above -37); 1e-3 is added. Distances and sums are rounded, but rounding is monotone: what bounds the
largest logit of a tile bounds all of them.

A tile is skipped, noise and all, if even 33.28 cannot lift its largest logit to the least score that the best logit of
the row can have, which is the least noise there is: -3.1300.
"""

import numpy as np
from numba import njit

from gumball_server.kernels._arithmetic import (
    F32,
    I32,
    MINUS_INFINITY,
    bits_of,
    clean,
    float_of,
    inverse,
    ordered,
    shifted,
)
from gumball_server.kernels._logits import (
    CHUNK,
    CHUNK_BYTES,
    largest,
    logit_at,
    read_distances,
    status_of,
    tile_peaks,
)
from gumball_server.kernels._memory import COMPILED, SPLICED, float32_at, stack, uint16_at
from gumball_server.kernels._noise import noise_of
from gumball_server.kernels._outputs import write_log_prob, write_winner
from gumball_server.kernels._philox import coarse_halfwords, coarse_minimum
from gumball_server.kernels._vectors import TILE, lowest_set_bit, mask_at_least, tile_peak
from gumball_server.kernels._work import live_of, peaks_of, tops_of

_COARSE_BYTES, _BOUND_BYTES = 2 * TILE, 4 * TILE

_LEAST_SCORE = F32(-3.1301)  # of the category of the largest logit, so of the winner
_MOST_NOISE = F32(33.28)
_LN2_OVER_2_23 = F32(np.log(2) / 2**23)
_TOP = F32(143 * np.log(2) + 1e-3)


@njit(**SPLICED)
def _noise_bound(coarse):
    """At least the noise of any category whose coarse halfword is at least `coarse`."""
    return _TOP - F32(bits_of(F32(I32(coarse)))) * _LN2_OVER_2_23


@njit(**SPLICED)
def _shift_peaks(peaks, peak, inv_temperature):
    """peaks [tiles] of the tiles, in place, to how far they lie below the peak of the row."""
    for t in range(peaks.shape[0]):
        peaks[t] = shifted(peaks[t], peak, inv_temperature)


@njit(**SPLICED)
def _live_tiles(distances, least, live, live_distances):
    """The tiles whose peak alone does not rule them out; returns how many."""
    n = 0
    for t in range(distances.shape[0]):
        live[n], live_distances[n] = t, distances[t]  # where n has not advanced, the next one overwrites it
        n += 1 if distances[t] >= least else 0
    return n


@njit(**COMPILED)
def _bound_tiles(live, bounds, key):
    """bounds[i], on entry the distance of the peak of tile live[i], becomes the bound of its scores."""
    for i in range(live.shape[0]):
        bounds[i] = bounds[i] + _noise_bound(coarse_minimum(live[i], key))


@njit(**COMPILED)
def _bound_categories(distances, coarse, bounds):
    """bounds [n] of the scores of the categories of a tile."""
    for i in range(distances.shape[0]):
        bounds[i] = distances[i] + _noise_bound(coarse[i])


@njit(**SPLICED)
def _visit_tile(tile, record, peak, inv_temperature, key, best, winner, coarse, bounds, scratch, shift):
    """The incumbent (score, category) after a tile."""
    first = TILE * tile
    n = min(TILE, record.categories - first)
    coarse_halfwords(tile, key, coarse)
    distances = read_distances(record, first, n, peak, inv_temperature, scratch, shift)
    _bound_categories(distances, coarse[:n], bounds[:n])
    for i in range(n, TILE):
        bounds[i] = MINUS_INFINITY
    top = tile_peak(bounds, 0)
    if top < best:
        return best, winner
    promising = mask_at_least(bounds, top)  # first, because it usually rules out the others
    rest = mask_at_least(bounds, best) & ~promising
    for mask in (promising, rest):
        while mask != 0:
            i = lowest_set_bit(mask)
            mask &= mask - np.uint64(1)
            if bounds[i] >= best:
                k = first + i
                score = distances[i] + noise_of(k, coarse[i], key)
                if score > best or (score == best and k < winner):
                    best, winner = score, k
    return best, winner


@njit(**SPLICED)
def _draw(record, peaks, peak, inv_temperature, key, live, tops):
    """The maximal score and its category, the lowest of equals."""
    coarse, bounds = uint16_at(stack(_COARSE_BYTES), TILE), float32_at(stack(_BOUND_BYTES), TILE)
    scratch, shift = float32_at(stack(_BOUND_BYTES), TILE), float32_at(stack(_BOUND_BYTES), TILE)
    n = _live_tiles(peaks, _LEAST_SCORE - _MOST_NOISE, live, tops)
    _bound_tiles(live[:n], tops[:n], key)
    best, winner = MINUS_INFINITY, record.categories
    for least in (largest(tops[:n]), _LEAST_SCORE):  # the most promising tile first, then the others
        for i in range(n):
            if tops[i] >= max(best, least):
                best, winner = _visit_tile(
                    live[i], record, peak, inv_temperature, key, best, winner, coarse, bounds, scratch, shift
                )
                tops[i] = MINUS_INFINITY
    return best, winner


@njit(**SPLICED)
def _first_peak(record, peak):
    """The lowest category whose logit equals the peak of the row."""
    for k in range(record.categories):
        if clean(logit_at(record, k)) == peak:
            return k
    return record.categories


@njit(**COMPILED)
def hard_draws(record, peak, inv_temperature, log_total, work):
    """Draws every draw of a row whose temperature is not 0, given how far the peaks of its tiles lie below its own.

    Returns the category of the last.
    """
    peaks, tops, live = peaks_of(work), tops_of(work), live_of(work)
    winner = record.categories
    for draw in range(record.draws):
        key = (record.seed, np.uint64(record.row), np.uint64(record.first_draw) + np.uint64(draw))
        score, winner = _draw(record, peaks, peak, inv_temperature, key, live, tops)
        write_winner(record, draw, winner, score)
        write_log_prob(record, draw, winner, log_total)
    return winner


@njit(**SPLICED)
def hard_row(record, work):
    """Draws every draw of a row without parameters that wants no soft sample; returns its status."""
    scratch = float32_at(stack(CHUNK_BYTES), CHUNK)
    peaks = peaks_of(work)
    image = tile_peaks(record, peaks, scratch)
    status = status_of(image)
    if status != 0:
        return status
    peak = clean(float_of(ordered(image)))
    if record.temperature == 0.0:
        winner = _first_peak(record, peak)
        for draw in range(record.draws):
            write_winner(record, draw, winner, F32(0))
        return status
    inv_temperature = inverse(record.temperature)
    _shift_peaks(peaks, peak, inv_temperature)
    hard_draws(record, peak, inv_temperature, F32(0), work)
    return status
