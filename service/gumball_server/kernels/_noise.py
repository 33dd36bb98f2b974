"""Gumbel noise: of one category, exactly, and of a run of categories."""

import numpy as np
from numba import njit

from gumball_server.kernels._arithmetic import I32, U32, exponential, exponential_tail, log32
from gumball_server.kernels._memory import COMPILED, SPLICED
from gumball_server.kernels._philox import FINE, TAIL, word


@njit(**SPLICED)
def _halfword(stream, k, key):
    return (word(stream, k >> 1, key) >> np.uint64(16 * (k & 1))) & np.uint64(0xFFFF)


@njit(**COMPILED)
def tail_noise(k, key):
    """Noise of category k where its coarse halfword is 0."""
    return -log32(exponential_tail(I32(word(np.uint64(TAIL), k, key) >> np.uint64(1))))


@njit(**COMPILED)
def noise_of(k, coarse, key):
    """Noise of category k, whose coarse halfword is known."""
    if coarse == 0:
        return tail_noise(k, key)
    return -log32(
        exponential(I32(np.uint32((np.uint64(coarse) << np.uint64(16)) | _halfword(np.uint64(FINE), k, key))))
    )


@njit(**COMPILED)
def noise_from_bits(bits, noise):
    """noise[i] of joined halfwords bits[i] uint32; where the coarse half is 0, the tail still has to replace it."""
    for i in range(noise.shape[0]):
        noise[i] = exponential(I32(bits[i]))
    for i in range(noise.shape[0]):
        noise[i] = -log32(noise[i])


@njit(**COMPILED)
def any_in_tail(bits):
    """Whether any of joined halfwords [n] uint32 has coarse half 0."""
    least = U32(0xFFFFFFFF)
    for i in range(bits.shape[0]):
        least = min(least, bits[i])
    return in_tail(least)


@njit(**SPLICED)
def in_tail(bits):
    """Whether joined halfwords have coarse half 0."""
    return bits < U32(1 << 16)
