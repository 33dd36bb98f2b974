"""Gumbel noise: of one category, exactly, and of a run of categories."""

import numpy as np
from numba import njit

from gumball_server.kernels._arithmetic import I32, exponential, exponential_tail, log32
from gumball_server.kernels._memory import COMPILED, INLINED
from gumball_server.kernels._philox import FINE, TAIL, word


@njit(**INLINED)
def _halfword(stream, k, key):
    return (word(stream, k >> 1, key) >> np.uint64(16 * (k & 1))) & np.uint64(0xFFFF)


@njit(**COMPILED)
def tail_noise(k, key):
    """Noise of category k where its coarse halfword is 0."""
    return -log32(exponential_tail(I32(word(TAIL, k, key) >> np.uint64(1))))


@njit(**COMPILED)
def noise_of(k, coarse, key):
    """Noise of category k, whose coarse halfword is known."""
    if coarse == 0:
        return tail_noise(k, key)
    return -log32(exponential(I32(np.uint32((np.uint64(coarse) << np.uint64(16)) | _halfword(FINE, k, key)))))


@njit(**COMPILED)
def noise_from_bits(bits, noise):
    """noise[i] of joined halfwords bits[i] int32; returns how many have coarse half 0 and so still need the tail."""
    in_tail = I32(0)
    for i in range(noise.shape[0]):
        x = bits[i]
        in_tail += I32(1) if I32(x & I32(-65536)) == I32(0) else I32(0)
        noise[i] = exponential(x)
    for i in range(noise.shape[0]):
        noise[i] = -log32(noise[i])
    return in_tail
