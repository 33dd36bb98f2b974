"""Finds what differs from call to call in a message `gumball.v1.SampleRequest`: id, the data of its logits, and seed.

What is left is then the same bytes in many requests. Only what is plainly right is found: fields in the order of their
numbers, as programs write them, those three at most once. Anything else is for a parser to accept or to refuse.
"""

from typing import Any

import numpy as np
from numba import njit, types

from gumball_server.kernels._memory import COMPILED
from gumball_server.kernels._text import byte_at
from gumball_server.kernels.cache import kept

BODY = types.Bytes(types.uint8, 1, "C", readonly=True)
FOUND = types.Tuple([types.int64] * 5 + [types.uint64] * 2)

# Tags of one byte: the number of the field and the type of its value.
_ID, _LOGITS, _DATA, _SEED = 1 << 3, 2 << 3 | 2, 3 << 3 | 2, 6 << 3
_NUMBERS_FOUND = (1, 2, 6)
_LAST_NUMBER = 19  # what comes after it is of one request: how long it may take, and its trace
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
def _bytes(i, end):
    """Where the bytes start whose length is at i, and where they end, or -1."""
    length, i = _varint(i, end)
    return i, -1 if i < 0 or length > np.uint64(end - i) else i + np.int64(length)


@njit(**COMPILED)
def _past_value(i, end, kind):
    """Where the value at i ends, or -1."""
    if kind == _VARINT:
        return _varint(i, end)[1]
    if kind == _BYTES:
        return _bytes(i, end)[1]
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
    start, stop = _bytes(i + 1, end)
    return start, stop if stop == end else -1


@njit(FOUND(BODY), cache=kept(), **COMPILED)
def find_fields(body: Any) -> Any:
    """Returns where the id ends, which comes first if it is there; where the data start and end; where the seed does.

    Then the id and the seed, 0 where there is none. The data end at 0 where not all of it could be read.
    """
    first = np.int64(np.frombuffer(body, np.uint8).ctypes.data)
    end = first + len(body)
    nothing = 0, 0, 0, 0, 0, np.uint64(0), np.uint64(0)
    i = id_end = first
    data = data_end = seed = seed_end = np.int64(0)
    id_value = seed_value = np.uint64(0)
    last = np.uint64(0)
    while i < end:
        byte = byte_at(i)
        start = i
        tag, i = _varint(i, end)
        number = tag >> np.uint64(3)
        if i < 0 or number < last or number > _LAST_NUMBER or (number == last and number in _NUMBERS_FOUND):
            return nothing
        last = number
        if byte == _ID:
            id_value, i = _varint(i, end)
            id_end = i
        elif byte == _LOGITS:
            inner, stop = _bytes(i, end)
            if stop < 0:
                return nothing
            data, data_end = _data(inner, stop)
            i = data_end
        elif byte == _SEED:
            seed = start
            seed_value, i = _varint(i, end)
            seed_end = i
        elif number in _NUMBERS_FOUND:  # but not as programs write it
            return nothing
        else:
            i = _past_value(i, end, np.int64(tag & 7))
        if i < 0:
            return nothing
    if data_end == 0:
        return nothing
    if seed_end == 0:
        seed = seed_end = end
    return id_end - first, data - first, data_end - first, seed - first, seed_end - first, id_value, seed_value
