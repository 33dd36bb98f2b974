"""Writes arrays as JSON, without the GIL and without objects.

A float32 becomes the shortest decimal that gives its bits back, the nearest to it of those (Giulietti, The Schubfach
way to render doubles, 2020), in the notation that JSON writers have: 0.00012, 120.0, 1.2e-7, 1.2e+20. One positive
float32 has a shortest decimal that does not come back when it is read through a float64, as JSON readers do (found by
trying all 2^31); it gets another digit.
"""

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from gumball_server.kernels._memory import COMPILED, INLINED
from gumball_server.kernels._text import (
    bits_of,
    leading_zeros,
    product,
    put_byte,
    put_eight_bytes,
    trailing_zeros,
)
from gumball_server.kernels.cache import kept

NUMBER_BYTES = 18  # the longest is "-0.00000123456789,"
ROW_BYTES = 4
SLACK_BYTES = 16  # numbers are put eight bytes at a time

_MINUS, _PLUS, _POINT, _COMMA, _ZERO, _OPEN, _CLOSE, _E = b"-+.,0[]e"
_ZEROS, _NULL, _ZERO_POINT = (int.from_bytes(text.ljust(8, b"0"), "little") for text in (b"", b"null", b"0."))
_TENS = 10 ** np.arange(11, dtype=np.uint64)

# The numbers 10^k, their first 64 bits, rounded up, for k from _LEAST on.
_LEAST, _GREATEST = -31, 45


def _first_64_bits(k: int) -> int:
    power: int = 10 ** abs(k)
    if k < 0:
        return -(-(1 << (power.bit_length() + 63)) // power)
    shift = power.bit_length() - 64
    return -(-power >> shift) if shift > 0 else power << -shift


_POWERS = np.array([_first_64_bits(k) for k in range(_LEAST, _GREATEST + 1)], np.uint64)

_NOT_SHORT = 0x15AE43FD  # 7.038531e-26
_IN_FULL = np.uint64(703853069), np.int64(-34)


@njit(**INLINED)
def _is_less(a, b):
    """1 if a < b, else 0; of int64 that are not far apart.

    As arithmetic: a comparison becomes a byte of a register whose rest, on some processors, is waited for, and if that
    is the digits of the number before, numbers are no longer computed side by side.
    """
    return np.int64(np.uint64(a - b) >> np.uint64(63))


@njit(**INLINED)
def _to_odd(power, x):
    """The high 64 bits of their product, the last of them set if anything but a little is cut off."""
    high, low = product(power, x)
    return np.int64(high) | _is_less(1, np.int64(low >> np.uint64(32)))


@njit(**INLINED)
def _shortest(bits, is_near):
    """The digits and the exponent k of ten, digits * 10^k, of a positive finite float32 that is not zero.

    `is_near` is 1 for powers of 2, whose neighbour below is nearer than the one above, but for the smallest normal one.
    """
    fraction, exponent = bits & 0x7FFFFF, bits >> 23
    is_normal = _is_less(0, exponent)
    c = fraction | is_normal << 23
    q = exponent - is_normal - 149
    # The float is c 2^q. It and the ends of what is rounded to it, in quarters:
    k = (q * 1262611 - is_near * 524031) >> 22
    power = _POWERS[np.uint64(-k - _LEAST)]
    shift = np.uint64(q + ((-k * 1741647) >> 19) + 1)
    is_odd = c & 1  # then the ends themselves are rounded away
    lower = _to_odd(power, np.uint64(4 * c - 2 + is_near) << shift) + is_odd
    value = _to_odd(power, np.uint64(4 * c) << shift)
    upper = _to_odd(power, np.uint64(4 * c + 2) << shift) - is_odd
    digits = value >> 2
    shorter = np.int64(np.uint64(digits) // np.uint64(10))
    is_out, is_up = _is_less(40 * shorter, lower), 1 - _is_less(upper, 40 * shorter + 40)
    if is_out == is_up and digits >= 10:  # one of the two that are a digit shorter is between the ends
        return np.uint64(shorter + is_up), k + 1
    is_out, is_up = _is_less(4 * digits, lower), 1 - _is_less(upper, 4 * digits + 4)
    if is_out != is_up:  # both are, or none: the nearer one, to even where both are as near
        is_up = _is_less(2, (value & 3) + (digits & 1))
    return np.uint64(digits + is_up), k


@njit(**INLINED)
def _eight_digits(x):
    """The eight digits of x < 10^8, a byte each, the first one the lowest."""
    x = x // np.uint64(10000) | x % np.uint64(10000) << np.uint64(32)
    hundreds = (x * np.uint64(10486) >> np.uint64(20)) & np.uint64(0x0000007F0000007F)
    x = hundreds | x - np.uint64(100) * hundreds << np.uint64(16)
    tens = (x * np.uint64(103) >> np.uint64(10)) & np.uint64(0x000F000F000F000F)
    return tens | x - np.uint64(10) * tens << np.uint64(8)


@njit(**INLINED)
def _put_two(p, x):
    """Put the one or two digits of x; returns where they end."""
    tens = x // np.uint64(10)
    put_byte(p, np.uint64(_ZERO) + tens)
    p += np.int64(tens > np.uint64(0))
    put_byte(p, np.uint64(_ZERO) + x - np.uint64(10) * tens)
    return p + 1


@njit(**INLINED)
def _put_fixed(p, first, others, length, point):
    """Put digits with a point after so many of them, from -5 (0.000001) to 13; returns where the text ends."""
    if point <= 0:
        put_eight_bytes(p, np.uint64(_ZERO_POINT))
        p += 2 - point
        put_byte(p, first)
        put_eight_bytes(p + 1, others)
        return p + length
    put_byte(p, first)
    put_eight_bytes(p + 1, others)
    if point < length:
        put_eight_bytes(p + point + 1, others >> np.uint64(8 * (point - 1)))
        put_byte(p + point, _POINT)
        return p + length + 1
    put_eight_bytes(p + 9, np.uint64(_ZEROS))
    put_byte(p + point, _POINT)
    put_byte(p + point + 1, _ZERO)
    return p + point + 2


@njit(**INLINED)
def _put_scientific(p, first, others, length, exponent):
    """Put digits as d.ddd, and an exponent of ten of one or two digits; returns where the text ends."""
    put_byte(p, first)
    put_byte(p + 1, _POINT)
    put_eight_bytes(p + 2, others)
    p += length + np.int64(length > 1)
    put_byte(p, _E)
    put_byte(p + 1, _MINUS if exponent < 0 else _PLUS)
    return _put_two(p + 2, np.uint64(abs(exponent)))


@njit(**INLINED)
def _put_float32(p, x):
    """Put a float32, null if it is not finite; returns where the text ends."""
    bits = np.int64(bits_of(x))
    magnitude = bits & 0x7FFFFFFF
    if magnitude >= 0x7F800000:
        put_eight_bytes(p, np.uint64(_NULL))
        return p + 4
    put_byte(p, _MINUS)
    p += bits >> 31
    if magnitude == 0:
        put_eight_bytes(p, np.uint64(_ZERO_POINT))
        return p + 3
    if magnitude == _NOT_SHORT:
        digits, k = _IN_FULL
    elif magnitude & 0x7FFFFF:
        digits, k = _shortest(magnitude, 0)
    else:
        digits, k = _shortest(magnitude, _is_less(1, magnitude >> 23))
    n = ((64 - leading_zeros(digits)) * 1233) >> 12
    n += np.int64(digits >= _TENS[np.uint64(n)])
    digits *= _TENS[np.uint64(9 - n)]  # nine, zeros behind those that there are
    first = digits // _TENS[8]
    others = _eight_digits(digits - first * _TENS[8])
    length = 9 - (leading_zeros(others) >> 3)
    others |= np.uint64(_ZEROS)
    first = np.int64(first) + _ZERO
    point = k + n
    if -6 < point <= 13:
        return _put_fixed(p, first, others, length, point)
    return _put_scientific(p, first, others, length, point - 1)


@njit(**INLINED)
def _put_int32(p, x):
    """Put an int32; returns where the text ends."""
    x = np.int64(x)
    put_byte(p, _MINUS)
    p += np.int64(x < 0)
    magnitude = np.uint64(abs(x))
    first = magnitude // _TENS[8]
    digits = _eight_digits(magnitude - first * _TENS[8])
    if first:
        p = _put_two(p, first)
        put_eight_bytes(p, digits | np.uint64(_ZEROS))
        return p + 8
    zeros = min(trailing_zeros(digits) >> 3, 7)
    put_eight_bytes(p, (digits | np.uint64(_ZEROS)) >> np.uint64(8 * zeros))
    return p + 8 - zeros


def _put_number(p: Any, x: Any) -> Any:
    """Put a number of either type; returns where the text ends. For compiled code alone."""
    raise NotImplementedError


@overload(_put_number, jit_options=INLINED)
def _put_number_of(p, x):
    put = _put_float32 if x is types.float32 else _put_int32
    return lambda p, x: put(p, x)


@njit(
    [types.int64(dtype[::1], types.int64, types.int64, types.uint8[::1]) for dtype in (types.float32, types.int32)],
    cache=kept(),
    **COMPILED,
)
def _write(values: Any, inner: Any, innermost: Any, out: Any) -> Any:
    """Writes values as a JSON array in three dimensions, the last of them `inner` and `innermost` long.

    `out` has NUMBER_BYTES for each value, ROW_BYTES for each row and SLACK_BYTES. Returns the length of the text.
    """
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
                p = _put_number(p, values[np.uint64(n)])
                put_byte(p, _COMMA)
                p, n = p + 1, n + 1
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
