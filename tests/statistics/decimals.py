"""The decimals of JSON answers, proven over every float32: each brings its bits back, and hardly any could be shorter.

python tests/statistics/decimals.py

Both oracles are orjson's. Its reader, through float64 as JSON readers go, must find the bits that were written. Its
writer of float32 finds the shortest decimals, some of which are half way between two float32. Where they are, ours are
longer; and they may be for powers of 2 and subnormals, whose neighbours are not alike. Of two that are equally near
either will do.
"""

import os
import sys
from collections import ChainMap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import orjson
from gumball_server.kernels.json_text import write_array
from numba import njit
from proof import Verdict, exit_status, report, timed

CHUNK = 1 << 16
END = 0x7F80_0000  # the bits of infinity
SUBNORMAL_END, OFTEN_HALF_WAY = 0x0080_0000, 0x4C00_0000  # that is 2^25
AMBIGUOUS = [0x15AE43FD]  # its shortest decimal does not come back through a float64
NEARLY = Fraction(1, 1 << 23)

Array = np.ndarray
Found = tuple[int, dict[int, str]]  # how many did not come back, and by their bits those that are not the shortest


@njit
def significant_digits(text: Array, out: Array) -> None:
    """Of the numbers in a list of JSON, [n] uint64, without zeros at the end."""
    n = value = 0
    is_exponent = False
    for byte in text:
        if byte in (44, 93):  # comma, bracket
            while value and value % 10 == 0:
                value //= 10
            out[n] = value
            n, value, is_exponent = n + 1, 0, False
        elif byte == 101:  # e
            is_exponent = True
        elif 48 <= byte <= 57 and not is_exponent:
            value = 10 * value + byte - 48


def digits_of(text: bytes | memoryview, size: int) -> Array:
    out = np.zeros(size, np.uint64)
    significant_digits(np.frombuffer(text, np.uint8), out)
    return out


def examine(bits: Array) -> Found:
    """Of bits [n] uint32 of finite floats."""
    values = bits.view(np.float32)
    text = write_array(values)
    lost = np.array(orjson.loads(text), np.float64).astype(np.float32).view(np.uint32) != bits
    short = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
    other = bits[digits_of(text, bits.size) != digits_of(short, bits.size)] & 0x7FFF_FFFF
    is_expected = (other < SUBNORMAL_END) | (other >= OFTEN_HALF_WAY) | (other & 0x7F_FFFF == 0)
    unexpected = other[~is_expected]
    decimals = bytes(write_array(unexpected.view(np.float32)))[1:-1].decode().split(",") if unexpected.size else ()
    return int(lost.sum()), dict(zip(unexpected.tolist(), decimals, strict=True))


def merged(parts: Iterator[Found]) -> Found:
    lost, other = zip(*parts, strict=True)
    return sum(lost), dict(ChainMap(*other))


def everything() -> Found:
    """Of every positive float32."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        starts = range(0, END, CHUNK)
        return merged(pool.map(lambda s: examine(np.arange(s, min(s + CHUNK, END), dtype=np.uint32)), starts))


def strata() -> Found:
    """Of some in every binade and all about its ends, of either sign."""
    ends = np.arange(0, END, 1 << 23)[:, None]
    spread = ends + (np.arange(1024) << 13)
    near = ends + np.arange(-100, 101)
    bits = np.unique(np.concatenate((spread.ravel(), near.ravel(), AMBIGUOUS)))
    bits = bits[(bits >= 0) & (bits < END)].astype(np.uint32)
    return merged(map(examine, (bits, bits | np.uint32(1 << 31))))


def is_tie(bits: int, decimal: str) -> bool:
    """Whether a decimal of a float32 is hardly less near than the shortest, or that hardly nearer than to another."""
    below, value, above = (np.uint32(bits + step).view(np.float32) for step in (-1, 0, 1))
    shortest, exact, half = Fraction(str(value)), Fraction(float(value)), Fraction(float(above - below)) / 4
    distance = abs(shortest - exact)
    return min(abs(abs(Fraction(decimal) - exact) - distance), abs(half - distance)) < NEARLY * half


def claim(found: Found, size: str) -> Verdict:
    """All come back, and none could be shorter but those named above."""
    lost, other = found
    longer = [decimal for bits, decimal in other.items() if not is_tie(bits, decimal)]
    return Verdict(
        "decimals: float32 come back from JSON, and are as short as they can be",
        size,
        f"{lost} lost, {len(longer)} longer",
        lost == 0 and not longer,
    )


def verdicts() -> Iterator[Verdict]:
    """Over all of them."""
    return timed([lambda: claim(everything(), f"{END:,} floats")])


if __name__ == "__main__":
    sys.exit(exit_status(report(verdicts())))
