"""Reads the logits out of a JSON body: from bytes to float32, without the GIL and without objects.

Only what is plainly right is read here: one member ``logits`` or ``probs`` with rows of equal length, and ``seed``, so
that what is left is the same text in many requests. Anything else is for a JSON parser to accept or to refuse.
"""

from typing import Any

import numpy as np
from numba import njit, types

from gumball_server.kernels._decimals import at, digits_at, number_at, plain_number
from gumball_server.kernels._memory import COMPILED, INLINED, int64_at, stack
from gumball_server.kernels._text import byte_at, commas_at, put_float32, starts, trailing_zeros
from gumball_server.kernels.cache import kept

BODY = types.Array(types.uint8, 1, "C", readonly=True)
FOUND = types.UniTuple(types.int64, 8)
TWICE = -1
_MOST_MEMBERS = 32  # more than there are names
_NAME_BYTES = 8 * _MOST_MEMBERS

_QUOTE, _BACKSLASH, _COMMA, _COLON, _ZERO, _ONE, _BLANK = b'"\\,:01 '
_OPEN, _CLOSE, _OPEN_OBJECT, _CLOSE_OBJECT = b"[]{}"
_LOGITS, _PROBS, _SEED = (np.frombuffer(name, np.uint8) for name in (b'logits"', b'probs"', b'seed"'))


@njit(**INLINED)
def _past_blanks(i, end):
    while True:
        byte = at(i, end)
        if byte > 32 or not (byte == 32 or byte == 10 or byte == 13 or byte == 9):
            return i
        i += 1


@njit(**INLINED)
def _plain_numbers(i, first, end, out):
    """Reads plain numbers, each up to its comma: where it stopped to do so, and where they end in `out`.

    Where 64 bytes have commas is found at once: to find each from the one before would take as long as all else.
    """
    while i - 32 >= first and i + 128 <= end:
        start, commas = i, commas_at(i)
        stop = start + trailing_zeros(commas)
        while commas:
            i += np.int64(byte_at(i) == _BLANK)
            number, is_plain = plain_number(i, stop)
            if not is_plain:
                return i, out
            put_float32(out, number)
            out += 4
            i = stop + 1
            commas &= commas - np.uint64(1)
            stop = start + trailing_zeros(commas)
        if i == start:
            return i, out
    return i, out


@njit(**COMPILED)
def _row(i, first, end, out, masked):
    """Reads the numbers of a row from after its bracket on: where they end in `out`, and where the row does, or -1."""
    while True:
        i, out = _plain_numbers(i, first, end, out)
        number, i = number_at(_past_blanks(i, end), end, masked)
        if i < 0:
            return out, -1
        put_float32(out, number)
        out += 4
        i = _past_blanks(i, end)
        byte = at(i, end)
        i += 1
        if byte != _COMMA:
            return out, i if byte == _CLOSE else -1


@njit(**COMPILED)
def _rows(i, first, end, out, masked):
    """Reads [[...], ...] or [...] at i: how many rows (0: no outer list) and categories, and where it ends, or -1."""
    if at(i, end) != _OPEN:
        return 0, 0, -1
    i = _past_blanks(i + 1, end)
    if at(i, end) != _OPEN:
        last, i = _row(i, first, end, out, masked)
        return 0, (last - out) >> 2, i
    rows = categories = 0
    while True:
        i = _past_blanks(i, end)
        if at(i, end) != _OPEN:
            return 0, 0, -1
        last, i = _row(i + 1, first, end, out, masked)
        if i < 0 or (rows > 0 and (last - out) >> 2 != categories):
            return 0, 0, -1
        rows, categories, out = rows + 1, (last - out) >> 2, last
        i = _past_blanks(i, end)
        byte = at(i, end)
        i += 1
        if byte == _CLOSE:
            return rows, categories, i
        if byte != _COMMA:
            return 0, 0, -1


@njit(**INLINED)
def _past_string(i, end):
    """Where the string ends whose quote is before i."""
    while i < end and byte_at(i) != _QUOTE:
        i += 2 if byte_at(i) == _BACKSLASH else 1
    return i + 1


@njit(**COMPILED)
def _past_value(i, end):
    """Where the value at i ends, in JSON that is right."""
    depth = 0
    while i < end:
        byte = byte_at(i)
        if byte == _QUOTE:
            i = _past_string(i + 1, end) - 1
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


@njit(**COMPILED)
def _past_key(i, end):
    """Where the key of a member at i ends with its colon, or -1."""
    if at(i, end) != _QUOTE:
        return -1
    stop = _past_string(i + 1, end)
    for k in range(i, min(stop, end)):
        if byte_at(k) == _BACKSLASH:  # it may spell any name
            return -1
    i = _past_blanks(stop, end)
    return i + 1 if at(i, end) == _COLON else -1


@njit(**COMPILED)
def _was_given(name, names, count):
    """Whether a name is one of `count`; they are addresses of text that ends with a quote."""
    for earlier in names[:count]:
        length = 0
        while byte_at(earlier + length) == byte_at(name + length):
            if byte_at(name + length) == _QUOTE:
                return True
            length += 1
    return False


@njit(**COMPILED)
def _seed(i, end):
    """The seed at i, digits alone or in quotes, and where it ends: -1 where it is not plainly one."""
    quoted = np.int64(at(i, end) == _QUOTE)
    start = i + quoted
    value, stop = digits_at(start, end, np.uint64(0))
    length = stop - start
    if length == 0 or length > 20 or (length > 1 and byte_at(start) == _ZERO):
        return value, -1
    if length == 20 and (byte_at(start) > _ONE or value < np.uint64(10**19)):  # past 2^64 the value begins anew
        return value, -1
    if quoted and at(stop, end) != _QUOTE:
        return value, -1
    after = at(_past_blanks(stop + quoted, end), end)
    return value, stop + quoted if after in (_COMMA, _CLOSE_OBJECT) else -1


@njit(FOUND(BODY, types.float32[::1]), cache=kept(), **COMPILED)
def read_numbers(body: Any, out: Any) -> Any:
    """Finds and reads two members of a JSON object: logits or probs, into `out` as long as half the body, and seed.

    Returns where the numbers start and end, their rows (0: it is one row without an outer list) and categories, and
    whether they are probs; then where the seed starts and ends, and the seed. An end is 0 where there is none that
    could be read. The body with any numbers instead of these is right if and only if it is right as it is. null is
    -inf in logits and 0 in probs. Where a member is given twice, its name starts at the first number and the second is
    TWICE.
    """
    names, members = int64_at(stack(_NAME_BYTES), _MOST_MEMBERS), 0
    first = np.int64(body.ctypes.data)
    end = first + body.shape[0]
    numbers = numbers_end = first  # that is, none
    seed_start = seed_end = first
    rows = categories = 0
    are_probs = np.int64(0)
    seed = np.uint64(0)
    nothing = 0, 0, 0, 0, 0, 0, 0, np.int64(0)
    i = _past_blanks(first, end)
    if at(i, end) != _OPEN_OBJECT:
        return nothing
    while True:
        name = _past_blanks(i + 1, end)
        i = _past_key(name, end)
        if i < 0:
            return nothing
        name += 1
        if _was_given(name, names, members):
            return name - first, TWICE, 0, 0, 0, 0, 0, np.int64(0)
        if members == _MOST_MEMBERS:
            return nothing
        names[members] = name
        members += 1
        i = _past_blanks(i, end)
        is_probs = starts(name, end, _PROBS)
        if is_probs or starts(name, end, _LOGITS):
            if numbers_end != first:
                return nothing
            numbers, are_probs = i, np.int64(is_probs)
            masked = np.float32(0.0) if is_probs else -np.float32(np.inf)
            rows, categories, i = _rows(i, first, end, np.int64(out.ctypes.data), masked)
            numbers_end = i
        elif starts(name, end, _SEED):
            seed_start = i
            seed, i = _seed(i, end)
            seed_end = i
        else:
            i = _past_value(i, end)
        if i < 0:
            return nothing
        i = _past_blanks(i, end)
        byte = at(i, end)
        if byte == _CLOSE_OBJECT:
            where = numbers - first, numbers_end - first, rows, categories
            return *where, are_probs, seed_start - first, seed_end - first, np.int64(seed)
        if byte != _COMMA:
            return nothing
