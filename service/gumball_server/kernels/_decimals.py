"""From a decimal to the nearest float64, and that to the nearest float32, as for readers that go through float64.

Numbers as programs write them, with a point and no exponent, are taken 32 bytes at a time. The rest goes byte by byte
and by Lemire, Number Parsing at a Gigabyte per Second, 2021, with the shortened proof of Mushtak and Lemire, Fast
Number Parsing Without Fallback, 2023.
"""

from typing import Any

import numpy as np
from numba import njit

from gumball_server.kernels._memory import COMPILED, INLINED
from gumball_server.kernels._text import (
    as_bits,
    as_float64,
    byte_at,
    decimal_before,
    leading_zeros,
    not_digits_at,
    product,
    starts,
    trailing_zeros,
)

# The numbers 5^q, their first 128 bits, for q from _LEAST on.
_LEAST, _GREATEST = -342, 308
_DIGITS = 19  # of a decimal, as many as fit 64 bits


def _first_128_bits(q: int) -> int:
    """The first 128 bits of 5^q, cut off, but rounded up where a tie could depend on them."""
    power: int = 5 ** abs(q)
    if q < 0:
        length = power.bit_length()
        if q >= -27:
            return (1 << (length + 127)) // power + 1
        power = (1 << (2 * length + 128)) // power
    shift = power.bit_length() - 128
    return power >> shift if shift > 0 else power << -shift


def _halves() -> np.ndarray[Any, np.dtype[np.uint64]]:
    mask = (1 << 64) - 1
    powers = [_first_128_bits(q) for q in range(_LEAST, _GREATEST + 1)]
    return np.array([(power >> 64, power & mask) for power in powers], np.uint64)


_POWERS = _halves()  # [q - _LEAST, (high, low)]
_HALF_WAY, _NEAR = np.uint64(1 << 28), np.uint64(4)  # between two float32, in the bits that a float64 has besides
_EXACT_TENS = 10.0 ** np.arange(23)  # those that a float64 holds exactly

_MINUS, _PLUS, _POINT, _ZERO, _E = b"-+.0e"
_NULL = np.frombuffer(b"null", np.uint8)


@njit(**INLINED)
def at(i, end):
    """The byte at i, or 0, which no JSON has, past the end."""
    return byte_at(i) if i < end else 0


@njit(**COMPILED)
def _float64_bits(digits, q):
    """The bits of the float64 nearest to digits * 10^q; of infinity where that is too large."""
    if digits == np.uint64(0) or q < _LEAST:
        return np.uint64(0)
    if q > _GREATEST:
        return np.uint64(0x7FF) << np.uint64(52)
    zeros = leading_zeros(digits)
    w = digits << np.uint64(zeros)
    high, low = product(w, _POWERS[np.uint64(q - _LEAST), 0])
    if high & np.uint64(0x1FF) == np.uint64(0x1FF):  # the low half of the power may carry into what counts
        more, _ = product(w, _POWERS[np.uint64(q - _LEAST), 1])
        low += more
        if low < more:
            high += np.uint64(1)
    upper = high >> np.uint64(63)
    shift = upper + np.uint64(9)
    mantissa = high >> shift  # 54 bits: one more than a float64 has
    exponent = ((217706 * q) >> 16) + 63 + np.int64(upper) - zeros + 1023
    if exponent <= 0:  # subnormal
        if exponent <= -63:
            return np.uint64(0)
        mantissa >>= np.uint64(1 - exponent)
        # Should it round up to 2^52, that is the exponent of the first normal number.
        return (mantissa + (mantissa & np.uint64(1))) >> np.uint64(1)
    if low <= np.uint64(1) and -4 <= q <= 23 and mantissa & np.uint64(3) == np.uint64(1) and mantissa << shift == high:
        mantissa &= ~np.uint64(1)  # exactly half way: to even
    mantissa = (mantissa + (mantissa & np.uint64(1))) >> np.uint64(1)
    if mantissa >> np.uint64(53):
        mantissa >>= np.uint64(1)
        exponent += 1
    if exponent >= 0x7FF:
        return np.uint64(0x7FF) << np.uint64(52)
    return (np.uint64(exponent) << np.uint64(52)) | (mantissa & np.uint64((1 << 52) - 1))


@njit(**INLINED)
def _rounded(digits, q):
    """The float32 nearest to the float64 nearest to digits * 10^q."""
    if -len(_EXACT_TENS) < q <= 0 and digits >> np.uint64(53) == np.uint64(0):
        return np.float32(np.float64(np.int64(digits)) / _EXACT_TENS[np.uint64(-q)])  # of two exact numbers
    return np.float32(as_float64(_float64_bits(digits, q)))


@njit(**INLINED)
def plain_number(i, stop):
    """The float32 of the number from i to `stop`, and whether it is plainly one: digits, a point and digits.

    There must be 32 bytes before i and behind it.
    """
    is_negative = np.int64(byte_at(i) == _MINUS)
    start = i + is_negative
    stops = not_digits_at(start)
    before = trailing_zeros(stops)
    after = stop - start - before - 1
    if not (
        byte_at(start + before) == _POINT
        and trailing_zeros(stops & (stops - np.uint64(1))) == stop - start
        and before >= 1
        and 1 <= after <= _DIGITS - before
        and (before == 1 or byte_at(start) != _ZERO)
    ):
        return np.float32(0.0), False
    digits = np.int64(decimal_before(stop, before, after))
    nearly = np.float64(digits) / _EXACT_TENS[np.uint64(after)]  # within two units of its last place
    # What a float32 lacks of its bits says whether that matters. In one comparison: of two, one would be a coin's toss.
    is_clear = digits >= 0 and (as_bits(nearly) & np.uint64(2**29 - 1)) - (_HALF_WAY - _NEAR) > _NEAR + _NEAR
    number = np.float32(nearly)
    return -number if is_negative else number, is_clear


@njit(**INLINED)
def digits_at(i, end, value):
    """Reads digits on from i: the value, modulo 2^64, and where they end."""
    while True:
        digit = np.uint64(at(i, end) - _ZERO)
        if digit > np.uint64(9):
            return value, i
        value = value * np.uint64(10) + digit
        i += 1


@njit(**COMPILED)
def _significant(start, end):
    """How many digits there are between, from the first on that is not 0."""
    count = 0
    for i in range(start, end):
        if count > 0 or (byte_at(i) != _ZERO and byte_at(i) != _POINT):
            count += byte_at(i) != _POINT
    return count


@njit(**COMPILED)
def number_at(i, end, masked):
    """The float32 of the number (or null: `masked`) at i, and where it ends: -1 where it is not plainly one."""
    if starts(i, end, _NULL):
        return masked, i + 4
    negative = at(i, end) == _MINUS
    start = i + np.int64(negative)
    value, i = digits_at(start, end, np.uint64(0))
    if i == start or (i > start + 1 and byte_at(start) == _ZERO):
        return masked, -1
    q = 0
    is_integer = at(i, end) != _POINT
    if not is_integer:
        point = i + 1
        value, i = digits_at(point, end, value)
        q = point - i
        if i == point:
            return masked, -1
    if i - start > _DIGITS and _significant(start, i) > _DIGITS:
        return masked, -1
    if at(i, end) | 32 == _E:
        exponent, i = _exponent_at(i + 1, end)
        if i < 0:
            return masked, -1
        is_integer, q = False, q + exponent
    if negative and is_integer and value == np.uint64(0):
        negative = False  # JSON readers take -0 for the integer 0
    number = _rounded(value, q)
    if number == np.float32(np.inf):
        return masked, -1
    return -number if negative else number, i


@njit(**COMPILED)
def _exponent_at(i, end):
    """The exponent at i, and where it ends: -1 where it is not plainly one."""
    sign = at(i, end)
    start = i + np.int64(sign in (_MINUS, _PLUS))
    exponent, i = digits_at(start, end, np.uint64(0))
    if i == start or i > start + 6:
        return 0, -1
    return -np.int64(exponent) if sign == _MINUS else np.int64(exponent), i
