"""The equations of the contract `gumball/1` for one number, to be inlined into loops that LLVM turns into vectors.

Read beside ``gumball.contract``, which says the same in NumPy. All arithmetic is binary32, each operation rounded on
its own; integers wrap at 32 bits.
"""

import numpy as np
from numba import njit

from gumball_server.kernels._memory import INLINED, SPLICED

F32, I32, U32, I64, U64 = np.float32, np.int32, np.uint32, np.int64, np.uint64


def _f32(hexadecimal: str) -> np.float32:
    return np.float32(float.fromhex(hexadecimal))


_L0, _L1, _L2, _L3 = _f32("0x1.5556d8p-2"), _f32("-0x1.000382p-2"), _f32("0x1.98d7f0p-3"), _f32("-0x1.53824cp-3")
_L4, _L5, _L6 = _f32("0x1.317470p-3"), _f32("-0x1.2432aap-3"), _f32("0x1.645de2p-4")
_E0, _E1, _E2 = _f32("0x1.fffffcp-2"), _f32("0x1.55548ap-3"), _f32("0x1.555916p-5")
_E3, _E4 = _f32("0x1.123fc6p-7"), _f32("0x1.6a1a6ep-10")
_LN2HI, _LN2LO, _LOG2E = _f32("0x1.63p-1"), _f32("-0x1.bd0106p-13"), _f32("0x1.715476p+0")

_ZERO, _HALF, _ONE = F32(0), F32(0.5), F32(1)
_TWO_M32, _TWO_M47 = F32(2.0**-32), F32(2.0**-47)
_TINY = F32(2.0**-60)
_TO_INTEGER = F32(1.5 * 2**23)
_CUTOFF = F32(-64)
_SQRT_HALF_BITS, _MANTISSA_BITS, _SIGN_SHIFT = I32(0x3F3504F3), I32(23), I32(31)
_MAGNITUDE = I32(0x7FFFFFFF)
_GRID = np.float64(1.5 * 2**12)
_GRID_BITS = I64(_GRID.view(np.int64))
_GRID_STEP = np.float64(2.0**-40)

MINUS_INFINITY = F32(-np.inf)


@njit(**INLINED)
def bits_of(x):
    """The bits of a float32 as an int32."""
    return F32(x).view(np.int32)


@njit(**INLINED)
def float_of(bits):
    """The float32 of these bits."""
    return I32(bits).view(np.float32)


@njit(**INLINED)
def ordered(bits):
    """An int32 that orders as the float32 of these bits does; its own inverse. -0 comes below +0."""
    return I32(bits ^ I32(I32(bits >> _SIGN_SHIFT) & _MAGNITUDE))


@njit(**INLINED)
def clean(x):
    """A logit as the contract sees it: magnitudes below 2^-60, and -0, are +0. Non-decreasing: may follow a max."""
    return _ZERO if abs(x) < _TINY else x


@njit(**INLINED)
def shifted(logit, peak, inv_temperature):
    """How far a logit lies below the largest of its row, over the temperature. Non-decreasing in the logit."""
    return (clean(logit) - peak) * inv_temperature


@njit(**INLINED)
def _log(f, e):
    """log((1 + f) 2^e)."""
    z = f * f
    p = (_L4 + _L5 * f) + z * _L6
    p = (_L2 + _L3 * f) + z * p
    p = (_L0 + _L1 * f) + z * p
    y = (p * f) * z
    y = y + e * _LN2LO
    y = y - _HALF * z
    return (f + y) + e * _LN2HI


@njit(**INLINED)
def log32(y):
    """log(y) of a positive normal y, split into (1 + f) 2^e."""
    bits = bits_of(y)
    e = I32(I32(bits - _SQRT_HALF_BITS) >> _MANTISSA_BITS)
    f = float_of(I32(bits - I32(e << _MANTISSA_BITS))) - _ONE
    return _log(f, F32(e))


@njit(**INLINED)
def _exponential(x, scale):
    """-log(1 - v), v = (x + 1/2) scale of the unsigned x, without losing the low bits of a small v."""
    sign = I32(x >> _SIGN_SHIFT)
    q = (F32(I32(x ^ sign)) + _HALF) * scale
    y = q if sign != I32(0) else _ONE - q
    bits = bits_of(y)
    e = I32(I32(bits - _SQRT_HALF_BITS) >> _MANTISSA_BITS)
    f = float_of(I32(bits - I32(e << _MANTISSA_BITS))) - _ONE
    f = -q if I32(sign | e) == I32(0) else f
    return -_log(f, F32(e))


@njit(**SPLICED)
def exponential(x):
    """Standard exponential noise of 32 random bits whose coarse half is not 0."""
    return _exponential(x, _TWO_M32)


@njit(**SPLICED)
def exponential_tail(x):
    """Standard exponential noise of 31 random bits, below 2^-16."""
    return _exponential(x, _TWO_M47)


@njit(**SPLICED)
def exp32(t):
    """exp(t) of t <= 0, exactly 0 below -64."""
    u = _CUTOFF if t < _CUTOFF else t  # noqa: FURB136 - LLVM vectorises this, and not max
    n = (u * _LOG2E + _TO_INTEGER) - _TO_INTEGER
    r = (u - n * _LN2HI) - n * _LN2LO
    z = r * r
    p = (_E2 + _E3 * r) + z * _E4
    p = (_E0 + _E1 * r) + z * p
    p = _ONE + (r + z * p)
    w = float_of(I32(bits_of(p) + I32(I32(n) << _MANTISSA_BITS)))
    return _ZERO if t < _CUTOFF else w


@njit(**SPLICED)
def grid_round(x):
    """A float64 from 0 to 1 rounded to a multiple of 2^-40, as an integer."""
    return np.float64(x + _GRID).view(np.int64) - _GRID_BITS


@njit(**SPLICED)
def grid_weight(w):
    """A weight rounded to a multiple of 2^-40, as an integer: sums of them are exact in any order."""
    return grid_round(np.float64(w))


@njit(**SPLICED)
def log_of_sum(total):
    """The logarithm of a sum of weights, given as the integer sum."""
    return log32(F32(np.float64(total) * _GRID_STEP))


@njit(**SPLICED)
def inverse_of_sum(total):
    """What a weight is multiplied with, given the integer sum of all."""
    return F32(1.0 / (np.float64(total) * _GRID_STEP))


@njit(**SPLICED)
def inverse(x):
    """1/x as float32, divided in float64."""
    return F32(1.0 / x)
