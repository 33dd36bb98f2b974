"""A tile of an array as an array of its own, whose length the compiler knows."""

import numpy as np
from numba import njit

from gumball_server.kernels._memory import INLINED, float32_at
from gumball_server.kernels._vectors import TILE

_BYTES = np.uint64(4 * TILE)


@njit(**INLINED)
def tile_of(values, t):
    """values [64 tiles] float32 from 64 t to 64 t + 64."""
    return float32_at(np.uint64(values.ctypes.data) + _BYTES * np.uint64(t), TILE)
