"""Requests of a stream's message that ask alike, as columns, and their responses, from columns.

A message is its items in a row, each behind a tag and its length (see `gumball.framing`). Python's work for one item
takes longer than drawing it; a kernel reads and writes as many as there are while Python does one.
"""

from typing import Any

import numpy as np
from numba import njit, types

from gumball_server.kernels._memory import COMPILED
from gumball_server.kernels._text import as_float64, byte_at, put_byte
from gumball_server.kernels.addresses import address_of as address_of
from gumball_server.kernels.cache import kept
from gumball_server.kernels.request_fields import BODY, bytes_field, fields_between

MOST_OWN_BYTES = 33  # of a response beside what it shares with the others: tags, its length, its id and its seed

_ITEM, _ID, _SEED = 1 << 3 | 2, 1 << 3, 3 << 3  # tags
_PLACES = types.UniTuple(types.int64, 2)
_WORDS, _BYTES, _ADDRESSES = types.uint64[::1], types.uint8[::1], types.int64[::1]


@njit(**COMPILED)
def _address(body):
    return np.int64(np.frombuffer(body, np.uint8).ctypes.data)


@njit(**COMPILED)
def _item(i, end):
    """Where the item at i starts, and where it ends, or -1."""
    return bytes_field(i + 1, end) if i < end and byte_at(i) == _ITEM else (i, np.int64(-1))


@njit(_PLACES(BODY, types.int64), cache=kept(), **COMPILED)
def find_item(body: Any, at: Any) -> Any:
    """Where the item at a place of a message starts, and where it ends; it ends at 0 where there is none."""
    first = _address(body)
    start, end = _item(first + at, first + len(body))
    return start - first, max(end - first, 0)


@njit(**COMPILED)
def _are_equal(i, end, other, other_end):
    """Whether two parts have the same bytes."""
    if end - i != other_end - other:
        return False
    for k in range(end - i):  # noqa: SIM110 - Numba has no all() of a generator
        if byte_at(i + k) != byte_at(other + k):
            return False
    return True


@njit(**COMPILED)
def _float64_at(i):
    bits = np.uint64(0)
    for k in range(8):
        bits |= np.uint64(byte_at(i + k)) << np.uint64(8 * k)
    return as_float64(bits)


@njit(_PLACES(BODY, types.int64, _WORDS, _WORDS, types.uint8[:, ::1]), cache=kept(), **COMPILED)
def read_alike(body: Any, at: Any, ids: Any, seeds: Any, data: Any) -> Any:
    """Read the requests from a place on that are alike but for their id, seed, timeout and data.

    Reads at most `len(ids)` of them, each with `data.shape[1]` bytes of data, into the three columns. Returns how many
    there were, and where they end. One without a seed, or with a timeout that is none, is not like any other.
    """
    first = _address(body)
    i, end = first + at, first + len(body)
    count = np.int64(0)
    # The parts of the first one that the others must have: before its data, between these and the seed, and after that.
    a = a_end = b = b_end = c = c_end = np.int64(0)
    while count < len(ids):
        start, stop = _item(i, end)
        if stop < 0:
            break
        own_end, found, found_end, seed, seed_end, has_seed, timeout, request_id, seed_value = fields_between(
            start, stop
        )
        if found_end - found != data.shape[1] or not has_seed:
            break
        if timeout and not 0.0 < _float64_at(start + timeout) < np.inf:
            break
        if count == 0:
            a, a_end = start + own_end, start + found
            b, b_end = start + found_end, start + seed
            c, c_end = start + seed_end, stop
        elif not (
            _are_equal(start + own_end, start + found, a, a_end)
            and _are_equal(start + found_end, start + seed, b, b_end)
            and _are_equal(start + seed_end, stop, c, c_end)
        ):
            break
        ids[count], seeds[count] = request_id, seed_value
        for k in range(data.shape[1]):
            data[count, k] = byte_at(start + found + k)
        count += 1
        i = stop
    return count, i - first


@njit(**COMPILED)
def _put_varint(i, value):
    """Put a number at i; returns where it ends."""
    while value >= np.uint64(0x80):
        put_byte(i, value & np.uint64(0x7F) | np.uint64(0x80))
        value >>= np.uint64(7)
        i += 1
    put_byte(i, value)
    return i + 1


@njit(**COMPILED)
def _put_bytes(i, start, size):
    for k in range(size):
        put_byte(i + k, byte_at(start + k))
    return i + size


@njit(**COMPILED)
def _varint_bytes(value):
    size = 1
    while value >= np.uint64(0x80):
        value >>= np.uint64(7)
        size += 1
    return size


@njit(types.int64(_WORDS, _WORDS, BODY, BODY, _ADDRESSES, _ADDRESSES, _ADDRESSES, _BYTES), cache=kept(), **COMPILED)
def write_alike(
    ids: Any, seeds: Any, common: Any, starts: Any, start_bytes: Any, data: Any, data_bytes: Any, message: Any
) -> Any:
    """Write the message of responses that differ in their id, seed and data; returns how long it is.

    Each has the fields `common`, and for each output, of which `starts` has one after another what comes before the
    data, so many bytes of data: those of the first response at an address, those of the others behind them.
    """
    common_at, starts_at, i = _address(common), _address(starts), np.int64(message.ctypes.data)
    begin = i
    shared = len(common) + len(starts) + data_bytes.sum()
    for k in range(len(ids)):
        put_byte(i, _ITEM)
        i = _put_varint(i + 1, np.uint64(2 + _varint_bytes(ids[k]) + _varint_bytes(seeds[k]) + shared))
        put_byte(i, _ID)
        i = _put_varint(i + 1, ids[k])
        put_byte(i, _SEED)
        i = _put_varint(i + 1, seeds[k])
        i = _put_bytes(i, common_at, len(common))
        start = starts_at
        for output in range(len(data)):
            i = _put_bytes(i, start, start_bytes[output])
            start += start_bytes[output]
            i = _put_bytes(i, data[output] + k * data_bytes[output], data_bytes[output])
    return i - begin
