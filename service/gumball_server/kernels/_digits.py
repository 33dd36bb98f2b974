"""The decimal digits of numbers, many at a time: loops that LLVM makes vectors of.

A float32 gets the shortest decimal that is clearly nearer to it than to any other float32, the nearest to it of those.
It is found in float64, whose rounding is some 2^-27 of the distance between two float32, so that "clearly" is taken as
2^-24 of it. `make prove` tries all of them.
"""

import math
from fractions import Fraction

import numpy as np
from numba import njit

from gumball_server.kernels._memory import COMPILED, INLINED, float64_at, stack
from gumball_server.kernels._text import as_bits

BLOCK = 64  # numbers
_BLOCK_BYTES = 8 * BLOCK
DIGITS = 9  # of a float32, as many as it ever needs

# The exponents of float32 that are not 0, as float64; 0 counts as the one before, what is not finite as the one after.
_LEAST, _GREATEST = -149, 127
_EXPONENTS = _GREATEST - _LEAST + 3
# By which what is known of a float32 is found: for each exponent, below and from the power of ten on that there may be.
PLACES = 2 * _EXPONENTS
NOT_FINITE = PLACES - 2

POINTS = np.ones(PLACES, np.int64)  # how many digits there are before the point
_POWERS = np.zeros(PLACES)  # what brings it to nine of them
_HALVES = np.zeros(PLACES)  # half its distance from the next one then
_LIMITS = np.full(_EXPONENTS, np.inf)  # the first that counts as beyond the power of ten
_CLEARLY = 1 - Fraction(1, 1 << 24)


def _digits_before_point(x: Fraction) -> int:
    """n, where 10^(n - 1) <= x < 10^n."""
    n = math.floor(math.log10(x)) + 1  # but for rounding
    return n + (x >= Fraction(10) ** n) - (x < Fraction(10) ** (n - 1))


for _exponent in range(_LEAST, _GREATEST + 1):
    _least = Fraction(2) ** _exponent
    _half = Fraction(2) ** (max(_exponent, -126) - 24) * _CLEARLY
    _point = _digits_before_point(_least)
    if _point < 39:  # else there is none
        _LIMITS[_exponent - _LEAST + 1] = np.float32(10.0**_point)  # which may be a little less than that
    for _beyond in (0, 1):
        _place = 2 * (_exponent - _LEAST + 1) + _beyond
        POINTS[_place] = _point + _beyond
        _POWERS[_place] = Fraction(10) ** (DIGITS - _point - _beyond)
        _HALVES[_place] = Fraction(10) ** (DIGITS - _point - _beyond) * _half

_ROUNDING = 1.5 * 2.0**52  # added to a float64 below 2^51 and taken away again, it leaves the nearest integer


@njit(**INLINED)
def _place_of(x):
    """The place of a float64 that is not negative."""
    exponent = np.int64(as_bits(x) >> np.uint64(52)) - (1023 + _LEAST - 1)
    exponent = min(max(exponent, 0), _EXPONENTS - 1)
    return 2 * exponent + np.int64(x >= _LIMITS[np.uint64(exponent)])


@njit(**INLINED)
def _nearest_multiple(y, ten, tenth):
    return (y * tenth + _ROUNDING - _ROUNDING) * ten


@njit(**INLINED)
def _decimal(y, half):
    """The multiple of 1000, 100, 10 or 1 that is nearest to y: the first of these that is nearer than `half`."""
    ones = y + _ROUNDING - _ROUNDING
    tens = _nearest_multiple(y, 1e1, 1e-1)
    hundreds = _nearest_multiple(y, 1e2, 1e-2)
    thousands = _nearest_multiple(y, 1e3, 1e-3)
    best = tens if abs(tens - y) < half else ones
    best = hundreds if abs(hundreds - y) < half else best
    return thousands if abs(thousands - y) < half else best


@njit(**INLINED)
def _eight_digits(x):
    """The eight digits of x < 10^8, a byte each, the first one the lowest. Products take the place of divisions."""
    high = x * np.uint64(3518437209) >> np.uint64(45)
    x = high | (x - high * np.uint64(10000)) << np.uint64(32)
    hundreds = (x * np.uint64(10486) >> np.uint64(20)) & np.uint64(0x0000007F0000007F)
    x = hundreds | (x - np.uint64(100) * hundreds) << np.uint64(16)
    tens = (x * np.uint64(103) >> np.uint64(10)) & np.uint64(0x000F000F000F000F)
    return tens | (x - np.uint64(10) * tens) << np.uint64(8)


@njit(**INLINED)
def _put_digits(x, i, firsts, others):
    """The digits of x < 2^32: those above the last eight as a number, and these."""
    first = x * np.uint64(1441151881) >> np.uint64(57)
    firsts[np.uint64(i)] = np.int32(first)
    others[np.uint64(i)] = _eight_digits(x - first * np.uint64(100000000))


@njit(**COMPILED)
def float32_digits(values, places, firsts, others):
    """The nine digits of up to BLOCK values, the first one and the others, and their places."""
    ys, halves = float64_at(stack(_BLOCK_BYTES), BLOCK), float64_at(stack(_BLOCK_BYTES), BLOCK)
    for i in range(values.size):
        x = abs(np.float64(values[np.uint64(i)]))
        place = _place_of(x)
        places[np.uint64(i)] = place
        ys[np.uint64(i)] = x * _POWERS[np.uint64(place)]
        is_power_of_2 = as_bits(x) << np.uint64(12) == np.uint64(0)  # then the one below is half as far
        halves[np.uint64(i)] = _HALVES[np.uint64(place)] * (0.5 if is_power_of_2 else 1.0)
    for i in range(values.size):
        digits = _decimal(ys[np.uint64(i)], halves[np.uint64(i)])
        _put_digits(as_bits(digits + _ROUNDING) & np.uint64(0xFFFFFFFF), i, firsts, others)


@njit(**COMPILED)
def int32_digits(values, places, firsts, others):
    """The digits of up to BLOCK values, those above the last eight as a number, and these; places are not touched."""
    for i in range(values.size):
        _put_digits(np.uint64(abs(np.int64(values[np.uint64(i)]))), i, firsts, others)
