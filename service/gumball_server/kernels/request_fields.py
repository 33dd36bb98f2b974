"""Finds what differs from call to call in a message `gumball.v1.SampleRequest`: its logits' data, id, seed and timeout.

What is left is then the same bytes in many requests. Only what is plainly right is found: each field in one place,
those four at most once; id, seed and timeout before all else, as our client writes them, or the seed after the logits,
as other programs do. Anything else is for a parser to accept or to refuse.
"""

from typing import Any

import numpy as np
from numba import njit, types

from gumball_server.kernels._memory import COMPILED
from gumball_server.kernels._text import byte_at
from gumball_server.kernels.cache import kept

BODY = types.Bytes(types.uint8, 1, "C", readonly=True)
FOUND = types.Tuple([types.int64] * 7 + [types.uint64] * 2)

# Tags: the number of the field and the type of its value.
_ID, _LOGITS, _DATA, _SEED, _TIMEOUT = 1 << 3, 2 << 3 | 2, 3 << 3 | 2, 6 << 3, 20 << 3 | 1
_OWN, _FOUND_ONCE = (1, 6, 20), (1, 2, 6, 20)  # numbers of these fields
_LAST_NUMBER = 20  # what comes after it, the trace, is of one request
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # types of values
_MOST_VARINT_BYTES = 10


@njit(**COMPILED)
def _varint(i, end):
    """The number at i and where it ends, or -1."""
    value = np.uint64(0)
    for k in range(min(_MOST_VARINT_BYTES, end - i)):
        byte = byte_at(i + k)
        value |= np.uint64(byte & 0x7F) << np.uint64(7 * k)
        if byte < 0x80:
            return value, -1 if k == _MOST_VARINT_BYTES - 1 and byte > 1 else i + k + 1
    return value, -1


@njit(**COMPILED)
def bytes_field(i, end):
    """Where the bytes start whose length is at i, and where they end, or -1."""
    length, i = _varint(i, end)
    return i, -1 if i < 0 or length > np.uint64(end - i) else i + np.int64(length)


@njit(**COMPILED)
def _past_value(i, end, kind):
    """Where the value at i ends, or -1."""
    if kind == _VARINT:
        return _varint(i, end)[1]
    if kind == _BYTES:
        return bytes_field(i, end)[1]
    size = 8 if kind == _FIXED64 else 4
    return i + size if kind in (_FIXED64, _FIXED32) and i + size <= end else -1


@njit(**COMPILED)
def _data(i, end):
    """Where the data of a tensor at i start, which are the last of it, and where they end, or -1."""
    while i < end and byte_at(i) != _DATA:
        tag, i = _varint(i, end)
        if i < 0 or tag >= _DATA:
            return i, -1
        i = _past_value(i, end, np.int64(tag & 7))
        if i < 0:
            return i, -1
    start, stop = bytes_field(i + 1, end)
    return start, stop if stop == end else -1


@njit(**COMPILED)
def fields_between(first, end):
    """What `find_fields` returns of the message between two addresses."""
    nothing = 0, 0, 0, 0, 0, 0, 0, np.uint64(0), np.uint64(0)
    i = own_end = first
    data = data_end = has_seed = np.int64(0)
    timeout, seed, seed_end = first, end, end
    id_value = seed_value = np.uint64(0)
    last = passed = np.uint64(0)  # the number of the last field, and a bit for that of each before it
    while i < end:
        start = i
        tag, i = _varint(i, end)
        number = tag >> np.uint64(3)
        if (
            i < 0
            or number > _LAST_NUMBER
            or passed >> number & np.uint64(1)
            or (number == last and number in _FOUND_ONCE)
        ):
            return nothing
        if number != last:
            passed |= np.uint64(1) << last
            last = number
        if tag == _LOGITS:
            inner, stop = bytes_field(i, end)
            if stop < 0:
                return nothing
            data, data_end = _data(inner, stop)
            i = data_end
        elif tag == _ID:
            id_value, i = _varint(i, end)
        elif tag == _SEED:
            seed_value, i = _varint(i, end)
            has_seed = np.int64(1)
        elif tag == _TIMEOUT:
            timeout = i
            i = _past_value(i, end, _FIXED64)
        elif number in _FOUND_ONCE:  # but not as programs write it
            return nothing
        else:
            i = _past_value(i, end, np.int64(tag & 7))
        if i < 0:
            return nothing
        if number in _OWN:
            if start == own_end:
                own_end = i
            elif tag == _SEED and data_end:
                seed, seed_end = start, i
            else:
                return nothing
    if data_end == 0:
        return nothing
    places = own_end - first, data - first, data_end - first, seed - first, seed_end - first
    return (*places, has_seed, timeout - first, id_value, seed_value)


@njit(FOUND(BODY), cache=kept(), **COMPILED)
def find_fields(body: Any) -> Any:
    """Returns where id, seed and timeout end that come first; where the data start and end; where a seed does that
    comes later; whether there is a seed; where the timeout is, a float64, or 0; and the id and the seed, or 0.

    The data end at 0 where not all of it could be read.
    """
    first = np.int64(np.frombuffer(body, np.uint8).ctypes.data)
    return fields_between(first, first + len(body))
