"""Filters: each keeps a prefix of the order of the distances, and so is a cut."""

import numpy as np
from numba import njit

from gumball_server.kernels._arithmetic import F32, I64, MINUS_INFINITY, exp32, float_of, grid_weight, log32, ordered
from gumball_server.kernels._distribution import total_weight
from gumball_server.kernels._memory import COMPILED, SPLICED
from gumball_server.kernels._order import cut_at, gather, keep, mass_of, rank_cut, reach
from gumball_server.kernels._work import histogram_of, images_of

_SMALLEST_NORMAL = F32(2.0**-126)
_ONE_WEIGHT = np.float64(2.0**40)
_SLACK = F32(1e-3)  # more than log32 and exp32 err by


@njit(**SPLICED)
def _floor(record, total, enough):
    """A distance below which all categories together do not weigh what top_p leaves away."""
    share = (np.float64(total) - np.float64(enough)) / (np.float64(record.categories) * _ONE_WEIGHT)
    return log32(F32(share)) - _SLACK if F32(share) >= _SMALLEST_NORMAL else MINUS_INFINITY


@njit(**COMPILED)
def _keep_top_p(record, values, peaks, work):
    total = total_weight(values, peaks)
    enough = I64(np.ceil(record.top_p * np.float64(total)))
    if enough > total:
        return
    images, histogram = images_of(work), histogram_of(work)
    n = gather(values, peaks, _floor(record, total, enough), images)
    if mass_of(images[:n], True) < enough:
        n = gather(values, peaks, MINUS_INFINITY, images)
    image, needed, ties = reach(images[:n], enough, True, histogram)
    each = grid_weight(exp32(float_of(ordered(image))))
    x, last = cut_at(values, peaks, image, (needed + each - 1) // each, ties)
    keep(values, peaks, x, last)


@njit(**SPLICED)
def filter_row(record, values, peaks, work):
    """Masks what the filters do not keep of the distances values [padded]; peaks [tiles] follow."""
    if record.top_k < record.categories:
        x, last = rank_cut(values, peaks, record.top_k, work)
        keep(values, peaks, x, last)
    if record.top_p < 1.0:
        _keep_top_p(record, values, peaks, work)
    if F32(record.min_p) >= _SMALLEST_NORMAL:
        keep(values, peaks, log32(F32(record.min_p)), I64(values.shape[0]))
