"""Reads the logits out of a JSON body: from bytes to float32, at some 300 MB/s, without the GIL and without objects.

Only what is plainly right is read here: one member ``logits`` or ``probs`` with rows of equal length, and ``seed``, so
that what is left is the same text in many requests. Anything else is for a JSON parser to accept or to refuse.

A decimal becomes the nearest float64 (Lemire, Number Parsing at a Gigabyte per Second, 2021, with the shortened proof
of Mushtak and Lemire, Fast Number Parsing Without Fallback, 2023) and that the nearest float32, as for readers that go
through float64.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from gumball_server.kernels._memory import COMPILED, INLINED
from gumball_server.kernels.cache import kept

BODY = types.Array(types.uint8, 1, "C", readonly=True)
FOUND = types.UniTuple(types.int64, 8)

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

_QUOTE, _BACKSLASH, _COMMA, _COLON, _MINUS, _PLUS, _POINT, _ZERO, _ONE, _E = b'"\\,:-+.01e'
_BLANKS = tuple(b" \t\n\r")
_OPEN, _CLOSE, _OPEN_OBJECT, _CLOSE_OBJECT = b"[]{}"
_LOGITS, _PROBS, _SEED = (np.frombuffer(name, np.uint8) for name in (b'logits"', b'probs"', b'seed"'))
_NULL = np.frombuffer(b"null", np.uint8)


@intrinsic
def _product(typingctx, a, b):
    """a * b as its high and low 64 bits."""

    def codegen(context, builder, signature, args):
        wide, word = ir.IntType(128), ir.IntType(64)
        product = builder.mul(*(builder.zext(factor, wide) for factor in args))
        halves = builder.trunc(builder.lshr(product, wide(64)), word), builder.trunc(product, word)
        return context.make_tuple(builder, signature.return_type, halves)

    return types.UniTuple(types.uint64, 2)(types.uint64, types.uint64), codegen


@intrinsic
def _leading_zeros(typingctx, x):
    """Of 64 bits, not all zero."""

    def codegen(context, builder, signature, args):
        return builder.ctlz(args[0], ir.IntType(1)(1))

    return types.uint64(types.uint64), codegen


@intrinsic
def _eight_bytes(typingctx, address):
    """The 64 bits at an address, the first byte the lowest."""

    def codegen(context, builder, signature, args):
        return builder.load(builder.inttoptr(args[0], ir.IntType(64).as_pointer()), align=1)

    return types.uint64(types.uint64), codegen


@intrinsic
def _as_float64(typingctx, bits):
    """The float64 with these bits."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.uint64), codegen


@njit(**COMPILED)
def _float64_bits(digits, q):
    """The bits of the float64 nearest to digits * 10^q; of infinity where that is too large."""
    if digits == np.uint64(0) or q < _LEAST:
        return np.uint64(0)
    if q > _GREATEST:
        return np.uint64(0x7FF) << np.uint64(52)
    zeros = _leading_zeros(digits)
    w = digits << zeros
    high, low = _product(w, _POWERS[q - _LEAST, 0])
    if high & np.uint64(0x1FF) == np.uint64(0x1FF):  # the low half of the power may carry into what counts
        more, _ = _product(w, _POWERS[q - _LEAST, 1])
        low += more
        if low < more:
            high += np.uint64(1)
    upper = high >> np.uint64(63)
    shift = upper + np.uint64(9)
    mantissa = high >> shift  # 54 bits: one more than a float64 has
    exponent = ((217706 * q) >> 16) + 63 + np.int64(upper) - np.int64(zeros) + 1023
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
def _at(body, i):
    """The byte at i, or 0, which no JSON has, past the end."""
    return np.int64(body[i]) if i < body.shape[0] else np.int64(0)


@njit(**INLINED)
def _past_blanks(body, i):
    while True:
        byte = _at(body, i)
        if byte > 32 or not (byte == 32 or byte == 10 or byte == 13 or byte == 9):
            return i
        i += 1


@njit(**INLINED)
def _starts(body, i, word):
    """Whether a word starts at i."""
    if i + word.shape[0] > body.shape[0]:
        return False
    for k in range(word.shape[0]):  # noqa: SIM110 - Numba has no all() of a generator
        if body[i + k] != word[k]:
            return False
    return True


@njit(**INLINED)
def _are_digits(word):
    """Whether eight bytes are digits."""
    high = np.uint64(0xF0F0F0F0F0F0F0F0)
    carried = ((word + np.uint64(0x0606060606060606)) & high) >> np.uint64(4)
    return (word & high) | carried == np.uint64(0x3333333333333333)


@njit(**INLINED)
def _eight_digits(word):
    """The number that eight digits are: pairs, fours and eights of them are put together in one multiplication each."""
    word = (word & np.uint64(0x0F0F0F0F0F0F0F0F)) * np.uint64(2561) >> np.uint64(8)
    word = (word & np.uint64(0x00FF00FF00FF00FF)) * np.uint64(6553601) >> np.uint64(16)
    return (word & np.uint64(0x0000FFFF0000FFFF)) * np.uint64(42949672960001) >> np.uint64(32)


@njit(**INLINED)
def _digits(body, i, value):
    """Reads digits on from i: the value, modulo 2^64, and where they end."""
    while i + 8 <= body.shape[0]:
        word = _eight_bytes(np.uint64(body.ctypes.data + i))
        if not _are_digits(word):
            break
        value = value * np.uint64(100000000) + _eight_digits(word)
        i += 8
    while True:
        digit = np.uint64(_at(body, i) - _ZERO)
        if digit > np.uint64(9):
            return value, i
        value = value * np.uint64(10) + digit
        i += 1


@njit(**COMPILED)
def _significant(body, start, end):
    """How many digits there are between, from the first on that is not 0."""
    count = 0
    for i in range(start, end):
        if count > 0 or (body[i] != _ZERO and body[i] != _POINT):
            count += body[i] != _POINT
    return count


@njit(**INLINED)
def _number(body, i, masked):
    """The float32 of the number (or null: `masked`) at i, and where it ends: -1 where it is not plainly one."""
    if _starts(body, i, _NULL):
        return masked, i + 4
    negative = _at(body, i) == _MINUS
    start = i + np.int64(negative)
    value, i = _digits(body, start, np.uint64(0))
    if i == start or (i > start + 1 and body[start] == _ZERO):
        return masked, -1
    q = 0
    is_integer = _at(body, i) != _POINT
    if not is_integer:
        point = i + 1
        value, i = _digits(body, point, value)
        q = point - i
        if i == point:
            return masked, -1
    if i - start > _DIGITS and _significant(body, start, i) > _DIGITS:
        return masked, -1
    if _at(body, i) | 32 == _E:
        exponent, i = _exponent(body, i + 1)
        if i < 0:
            return masked, -1
        is_integer, q = False, q + exponent
    if negative and is_integer and value == np.uint64(0):
        negative = False  # JSON readers take -0 for the integer 0
    number = np.float32(_as_float64(_float64_bits(value, q)))
    if number == np.float32(np.inf):
        return masked, -1
    return -number if negative else number, i


@njit(**COMPILED)
def _exponent(body, i):
    """The exponent at i, and where it ends: -1 where it is not plainly one."""
    sign = _at(body, i)
    start = i + np.int64(sign in (_MINUS, _PLUS))
    exponent, i = _digits(body, start, np.uint64(0))
    if i == start or i > start + 6:
        return 0, -1
    return -np.int64(exponent) if sign == _MINUS else np.int64(exponent), i


@njit(**INLINED)
def _row(body, i, out, n, masked):
    """Reads the numbers of a row from after its bracket on into out[n:]: how many there are then, and the end of it."""
    while True:
        i = _past_blanks(body, i)
        number, i = _number(body, i, masked)
        if i < 0:
            return n, -1
        out[n] = number
        n += 1
        i = _past_blanks(body, i)
        byte = _at(body, i)
        i += 1
        if byte == _CLOSE:
            return n, i
        if byte != _COMMA:
            return n, -1


@njit(**INLINED)
def _rows(body, i, out, masked):
    """Reads [[...], ...] or [...] at i: how many rows (0: no outer list) and categories, and where it ends, or -1."""
    if _at(body, i) != _OPEN:
        return 0, 0, -1
    i = _past_blanks(body, i + 1)
    if _at(body, i) != _OPEN:
        categories, i = _row(body, i, out, 0, masked)
        return 0, categories, i
    rows = categories = n = 0
    while True:
        i = _past_blanks(body, i)
        if _at(body, i) != _OPEN:
            return 0, 0, -1
        end, i = _row(body, i + 1, out, n, masked)
        if i < 0 or (rows > 0 and end - n != categories):
            return 0, 0, -1
        rows, categories, n = rows + 1, end - n, end
        i = _past_blanks(body, i)
        byte = _at(body, i)
        i += 1
        if byte == _CLOSE:
            return rows, categories, i
        if byte != _COMMA:
            return 0, 0, -1


@njit(**INLINED)
def _past_string(body, i):
    """Where the string ends whose quote is before i."""
    while i < body.shape[0] and body[i] != _QUOTE:
        i += 2 if body[i] == _BACKSLASH else 1
    return i + 1


@njit(**INLINED)
def _past_value(body, i):
    """Where the value at i ends, in JSON that is right."""
    depth = 0
    while i < body.shape[0]:
        byte = body[i]
        if byte == _QUOTE:
            i = _past_string(body, i + 1) - 1
        elif byte in (_OPEN, _OPEN_OBJECT):
            depth += 1
        elif byte in (_CLOSE, _CLOSE_OBJECT):
            if depth == 0:
                return i
            depth -= 1
        elif byte == _COMMA and depth == 0:
            return i
        i += 1
    return i


@njit(**INLINED)
def _past_key(body, i):
    """Where the key of a member at i ends with its colon, or -1."""
    if _at(body, i) != _QUOTE:
        return -1
    end = _past_string(body, i + 1)
    for k in range(i, min(end, body.shape[0])):
        if body[k] == _BACKSLASH:  # it may spell any name
            return -1
    i = _past_blanks(body, end)
    return i + 1 if _at(body, i) == _COLON else -1


@njit(**INLINED)
def _seed(body, i):
    """The seed at i, digits alone or in quotes, and where it ends: -1 where it is not plainly one."""
    quoted = np.int64(_at(body, i) == _QUOTE)
    start = i + quoted
    value, end = _digits(body, start, np.uint64(0))
    length = end - start
    if length == 0 or length > 20 or (length > 1 and body[start] == _ZERO):
        return value, -1
    if length == 20 and (body[start] > _ONE or value < np.uint64(10**19)):  # past 2^64 the value begins anew
        return value, -1
    if quoted and _at(body, end) != _QUOTE:
        return value, -1
    after = _at(body, _past_blanks(body, end + quoted))
    return value, end + quoted if after in (_COMMA, _CLOSE_OBJECT) else -1


@njit(FOUND(BODY, types.float32[::1]), cache=kept(), **COMPILED)
def read_numbers(body: Any, out: Any) -> Any:
    """Finds and reads two members of a JSON object: logits or probs, into `out` as long as half the body, and seed.

    Returns where the numbers start and end, their rows (0: it is one row without an outer list) and categories, and
    whether they are probs; then where the seed starts and ends, and the seed. An end is 0 where there is none that
    could be read. The body with any numbers instead of these is right if and only if it is right as it is. null is
    -inf in logits and 0 in probs.
    """
    start = end = rows = categories = seed_start = seed_end = 0
    are_probs, seed = False, np.uint64(0)
    nothing = 0, 0, 0, 0, 0, 0, 0, np.int64(0)
    i = _past_blanks(body, 0)
    if _at(body, i) != _OPEN_OBJECT:
        return nothing
    while True:
        key = _past_blanks(body, i + 1)
        i = _past_key(body, key)
        if i < 0:
            return nothing
        i = _past_blanks(body, i)
        is_probs = _starts(body, key + 1, _PROBS)
        if is_probs or _starts(body, key + 1, _LOGITS):
            if end != 0:
                return nothing
            start, are_probs = i, is_probs
            rows, categories, end = _rows(body, i, out, np.float32(0.0) if is_probs else -np.float32(np.inf))
            if end < 0:
                return nothing
            i = end
        elif _starts(body, key + 1, _SEED):
            if seed_end != 0:
                return nothing
            seed_start = i
            seed, seed_end = _seed(body, i)
            if seed_end < 0:
                return nothing
            i = seed_end
        else:
            i = _past_value(body, i)
        i = _past_blanks(body, i)
        if _at(body, i) == _CLOSE_OBJECT:
            return start, end, rows, categories, np.int64(are_probs), seed_start, seed_end, np.int64(seed)
        if _at(body, i) != _COMMA:
            return nothing
