"""Hard samples of long rows: almost no noise is ever computed.

A category can win only if its score reaches the incumbent's. Its noise is bounded by its coarse halfword alone, so a tile of
64 categories is bounded by its largest logit and its least coarse halfword: one category in thousands needs the fine
stream and the logarithms.

The bound. With A the coarse halfword, g <= -ln(A / 65536) - 1.5e-5 for A > 0 and g <= 33.2711 always (checked over every
input). log2 is concave and a float's bits, read as an integer, interpolate it linearly between powers of two from below::

    log2(A) >= bits(f32(A)) 2^-23 - 127,  so  g <= (143 - bits(f32(A)) 2^-23) ln 2

The same expression at A = 0 is 99. A score is f32(d + g) with |d + g| < 2^6 wherever it can matter, so rounding moves
either side by less than 2^-18 each, well inside the slack of 1e-3 that is added.
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
    TILE,
    greatest,
    largest,
    logit_at,
    read_logits,
    status_of,
    tile_peak_images,
)
from gumball_server.kernels._memory import COMPILED, INLINED
from gumball_server.kernels._noise import noise_of
from gumball_server.kernels._outputs import write_winner
from gumball_server.kernels._philox import coarse_halfwords, coarse_minimum

_LEAST_NOISE, _MOST_NOISE = F32(-3.1301), F32(33.28)
_SLACK = F32(1e-3)
_LN2_OVER_2_23 = F32(np.log(2) / 2**23)
_TOP = F32(143 * np.log(2) + 1e-3)


@njit(**INLINED)
def _noise_bound(coarse):
    """At least the noise of any category whose coarse halfword is at least `coarse`."""
    return _TOP - F32(bits_of(F32(I32(coarse)))) * _LN2_OVER_2_23


@njit(**COMPILED)
def shift_peaks(peaks, peak, inv_temperature):
    """peaks [tiles]: the images of the peaks of the tiles, in place to how far they lie below the peak of the row."""
    distances = peaks.view(np.float32)
    for t in range(peaks.shape[0]):
        distances[t] = shifted(float_of(ordered(peaks[t])), peak, inv_temperature)


@njit(**COMPILED)
def _live_tiles(distances, least, live, live_distances):
    """The tiles whose peak alone does not rule them out; returns how many."""
    n = 0
    for t in range(distances.shape[0]):
        live[n] = t
        live_distances[n] = distances[t]
        n += 1 if distances[t] >= least else 0
    return n


@njit(**COMPILED)
def _bound_tiles(live, bounds, key):
    """bounds[i], on entry the distance of the peak of tile live[i], becomes the bound of its scores."""
    for i in range(live.shape[0]):
        bounds[i] = bounds[i] + _noise_bound(coarse_minimum(live[i], key))


@njit(**COMPILED)
def _bound_categories(logits, peak, inv_temperature, coarse, bounds):
    """bounds [n] of the scores of the categories of a tile."""
    for i in range(logits.shape[0]):
        bounds[i] = shifted(logits[i], peak, inv_temperature) + _noise_bound(coarse[i])


@njit(**COMPILED)
def _visit_tile(tile, record, peak, inv_temperature, key, best, winner, coarse, bounds, scratch):
    """The incumbent (score, category) after a tile."""
    first = TILE * tile
    n = min(TILE, record.categories - first)
    coarse_halfwords(tile, key, coarse)
    logits = read_logits(record, first, n, scratch)
    _bound_categories(logits, peak, inv_temperature, coarse[:n], bounds[:n])
    while True:
        top = largest(bounds[:n])
        if top < best or top == MINUS_INFINITY:
            return best, winner
        for i in range(n):
            if bounds[i] == top:
                k = first + i
                score = shifted(logits[i], peak, inv_temperature) + noise_of(k, coarse[i], key)
                if score > best or (score == best and k < winner):
                    best, winner = score, k
                bounds[i] = MINUS_INFINITY
                break


@njit(**COMPILED)
def _draw(record, distances, peak, inv_temperature, key, live, bounds, scratch):
    """The category of maximal score, the lowest of equals."""
    coarse, tile_bounds = np.empty(TILE, np.uint16), np.empty(TILE, np.float32)
    n = _live_tiles(distances, _LEAST_NOISE - _MOST_NOISE, live, bounds)
    _bound_tiles(live[:n], bounds[:n], key)
    best, winner = MINUS_INFINITY, record.categories
    top = largest(bounds[:n])
    for i in range(n):
        if bounds[i] == top:
            best, winner = _visit_tile(
                live[i], record, peak, inv_temperature, key, best, winner, coarse, tile_bounds, scratch
            )
            bounds[i] = MINUS_INFINITY
            break
    for i in range(n):
        if bounds[i] >= best:
            best, winner = _visit_tile(
                live[i], record, peak, inv_temperature, key, best, winner, coarse, tile_bounds, scratch
            )
    return winner


@njit(**COMPILED)
def _first_peak(record, peak):
    """The lowest category whose logit equals the peak of the row."""
    for k in range(record.categories):
        if clean(logit_at(record, k)) == peak:
            return k
    return record.categories


@njit(**COMPILED)
def hard_row(record):
    """Draws every draw of a row that wants no soft sample; returns its status."""
    tiles = (record.categories + TILE - 1) // TILE
    scratch = np.empty(TILE, np.float32)
    images = np.empty(tiles, np.int32)
    tile_peak_images(record, images, scratch)
    image = greatest(images)
    status = status_of(image)
    if status != 0:
        return status
    peak = clean(float_of(ordered(image)))
    if record.temperature == 0.0:
        winner = _first_peak(record, peak)
        for draw in range(record.draws):
            write_winner(record, draw, winner)
        return status
    inv_temperature = inverse(record.temperature)
    shift_peaks(images, peak, inv_temperature)
    live, bounds = np.empty(tiles + 1, np.int32), np.empty(tiles + 1, np.float32)
    for draw in range(record.draws):
        key = (record.seed, np.uint64(record.row), np.uint64(record.first_draw) + np.uint64(draw))
        write_winner(
            record,
            draw,
            _draw(record, images.view(np.float32), peak, inv_temperature, key, live, bounds, scratch),
        )
    return status
