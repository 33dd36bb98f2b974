"""Writes arrays as JSON, without the GIL and without objects.

Numbers are in the notation that JSON writers have: 0.00012, 120.0, 1.2e-7, 1.2e+20.
"""

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from gumball_server.kernels._digits import BLOCK, NOT_FINITE, PLACES, POINTS, float32_digits, int32_digits
from gumball_server.kernels._memory import COMPILED, INLINED, int32_at, int64_at, stack, uint64_at
from gumball_server.kernels._text import leading_zeros, put_byte, put_eight_bytes, trailing_zeros
from gumball_server.kernels.cache import kept

NUMBER_BYTES = 16  # the longest is "-1.23456789e-30,"
ROW_BYTES = 4
SLACK_BYTES = 16  # numbers are put eight bytes at a time
_BLOCK_BYTES = 8 * BLOCK

_MINUS, _POINT, _COMMA, _ZERO, _OPEN, _CLOSE = b"-.,0[]"


def _word(text: bytes) -> int:
    return int.from_bytes(text.ljust(8, b"0"), "little")


_ZEROS, _NULL, _ZERO_POINT = _word(b""), _word(b"null,"), _word(b"0.")
_NO_POINT = 9

# How a float32 is written, by its place: as 0.00012, 120.0 or 1.2e-7.
_LEADS = np.zeros(PLACES, np.uint8)  # how much of "0.000" is put before its digits
_GAPS = np.ones(PLACES, np.uint8)  # the point is put after as many of them
_MINIMA = np.zeros(PLACES, np.uint8)  # how long digits and point are at least
_ENDS = np.zeros(PLACES, np.uint64)  # what is put behind them, with a comma
_END_BYTES = np.ones(PLACES, np.uint8)
for _place, _point in enumerate(POINTS.tolist()):
    _end = b","
    if -3 <= _point <= 0:
        _LEADS[_place], _GAPS[_place] = 2 - _point, _NO_POINT
    elif 1 <= _point <= 8:
        _GAPS[_place], _MINIMA[_place] = _point, _point + 2
    else:
        _end = b"e%+d," % (_point - 1)
    _ENDS[_place], _END_BYTES[_place] = _word(_end), len(_end)


@njit(**INLINED)
def _put_float32(p, x, place, first, others):
    """Put a float32, null if it is not finite, and a comma; returns where the text ends."""
    if place >= NOT_FINITE:
        put_eight_bytes(p, np.uint64(_NULL))
        return p + 5
    place = np.uint64(place)
    length = 9 - (leading_zeros(others) >> 3)  # without zeros at the end
    others |= np.uint64(_ZEROS)
    put_byte(p, _MINUS)
    p += np.int64(np.signbit(x))
    put_eight_bytes(p, np.uint64(_ZERO_POINT))
    p += np.int64(_LEADS[place])
    put_byte(p, first + _ZERO)
    put_eight_bytes(p + 1, others)
    gap = np.int64(_GAPS[place])
    put_byte(p + gap, _POINT)
    half = np.uint64(4 * (gap - 1))  # of a shift by 64 bits, which processors take for none
    put_eight_bytes(p + gap + 1, others >> half >> half)
    p += max(length + np.int64(length > gap), np.int64(_MINIMA[place]))
    put_eight_bytes(p, _ENDS[place])
    return p + np.int64(_END_BYTES[place])


@njit(**INLINED)
def _put_int32(p, x, place, first, others):
    """Put an int32 and a comma; returns where the text ends."""
    put_byte(p, _MINUS)
    p += np.int64(x < 0)
    zeros = min(trailing_zeros(others) >> 3, 7)
    if first:
        zeros = 0
        put_byte(p, first // 10 + _ZERO)
        p += np.int64(first >= 10)
        put_byte(p, first % 10 + _ZERO)
        p += 1
    put_eight_bytes(p, (others | np.uint64(_ZEROS)) >> np.uint64(8 * zeros))
    p += 8 - zeros
    put_byte(p, _COMMA)
    return p + 1


def _digits(values: Any, places: Any, firsts: Any, others: Any) -> Any:
    """The digits of either type. For compiled code alone, as the next."""
    raise NotImplementedError


def _put(p: Any, x: Any, place: Any, first: Any, others: Any) -> Any:
    """Put a number of either type and a comma; returns where the text ends."""
    raise NotImplementedError


@overload(_digits, jit_options=INLINED)
def _digits_of(values, places, firsts, others):
    digits = float32_digits if values.dtype is types.float32 else int32_digits
    return lambda values, places, firsts, others: digits(values, places, firsts, others)


@overload(_put, jit_options=INLINED)
def _put_of(p, x, place, first, others):
    put = _put_float32 if x is types.float32 else _put_int32
    return lambda p, x, place, first, others: put(p, x, place, first, others)


@njit(
    [types.int64(dtype[::1], types.int64, types.int64, types.uint8[::1]) for dtype in (types.float32, types.int32)],
    cache=kept(),
    **COMPILED,
)
def _write(values: Any, inner: Any, innermost: Any, out: Any) -> Any:
    """Writes values as a JSON array in three dimensions, the last of them `inner` and `innermost` long.

    `out` has NUMBER_BYTES for each value, ROW_BYTES for each row and SLACK_BYTES. Returns the length of the text.
    """
    places = int64_at(stack(_BLOCK_BYTES), BLOCK)
    firsts, others = int32_at(stack(_BLOCK_BYTES), BLOCK), uint64_at(stack(_BLOCK_BYTES), BLOCK)
    start = np.int64(out.ctypes.data)
    put_byte(start, _OPEN)
    p, n = start + 1, 0
    while n < values.size:
        put_byte(p, _OPEN)
        p += 1
        for _ in range(inner):
            put_byte(p, _OPEN)
            p += 1
            for _ in range(innermost):
                i = np.uint64(n % BLOCK)
                if i == 0:
                    _digits(values[n : n + BLOCK], places, firsts, others)
                p = _put(p, values[np.uint64(n)], places[i], firsts[i], others[i])
                n += 1
            put_byte(p - 1, _CLOSE)
            put_byte(p, _COMMA)
            p += 1
        put_byte(p - 1, _CLOSE)
        put_byte(p, _COMMA)
        p += 1
    put_byte(p - 1, _CLOSE)
    return p - start


def write_array(array: Any) -> memoryview:
    """An array, float32 or int32 in C order with one to three dimensions, as JSON."""
    _, inner, innermost = shape = (1, 1, *array.shape)[-3:]
    out = np.empty(array.size * NUMBER_BYTES + array.size // innermost * ROW_BYTES + SLACK_BYTES, np.uint8)
    length = _write(array.reshape(-1), inner, innermost, out)
    outer = len(shape) - array.ndim  # brackets that are not the array's
    return out.data[outer : length - outer]
