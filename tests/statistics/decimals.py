"""The decimals of JSON answers, proven over every float32: each brings its bits back, and none is shorter.

python tests/statistics/decimals.py

Both oracles are orjson's. Its reader, through float64 as JSON readers go, must find the bits that were written. Its
writer of float32 must find the same significant digits: the shortest, and the nearest of those.
"""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import starmap

import numpy as np
import orjson
from gumball_server.kernels.json_text import write_array
from proof import Verdict, exit_status, report, timed

CHUNK = 1 << 16
END = 0x7F80_0000  # the bits of infinity
IN_FULL = {0x15AE43FD}  # its shortest decimal does not come back through a float64

Array = np.ndarray
Found = tuple[int, set[int]]  # how many did not come back, and the bits of those with other digits


def _significant(decimal: bytes) -> bytes:
    return decimal.split(b"e")[0].replace(b".", b"").strip(b"-0")


def examine(bits: Array) -> Found:
    """Of bits [n] uint32 of finite floats."""
    values = bits.view(np.float32)
    text = bytes(write_array(values))
    lost = np.array(orjson.loads(text), np.float64).astype(np.float32).view(np.uint32) != bits
    short = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
    if text == short:
        return int(lost.sum()), set()
    pairs = zip(text[1:-1].split(b","), short[1:-1].split(b","), strict=True)
    is_other = list(starmap(lambda a, b: a != b and _significant(a) != _significant(b), pairs))
    return int(lost.sum()), set(bits[is_other].tolist())


def merged(parts: Iterator[Found]) -> Found:
    lost, other = zip(*parts, strict=True)
    return sum(lost), set().union(*other)


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
    bits = np.unique(np.concatenate((spread.ravel(), near.ravel(), [*IN_FULL])))
    bits = bits[(bits >= 0) & (bits < END)].astype(np.uint32)
    return merged(map(examine, (bits, bits | np.uint32(1 << 31))))


def claim(found: Found, size: str) -> Verdict:
    """Of the floats in IN_FULL, and of no others, the digits are not the shortest."""
    lost, other = found
    return Verdict(
        "decimals: float32 come back from JSON, and are the shortest but for one",
        size,
        f"{lost} lost, {len(other - IN_FULL)} others longer",
        lost == 0 and {each & 0x7FFF_FFFF for each in other} == IN_FULL,
    )


def verdicts() -> Iterator[Verdict]:
    """Over all of them."""
    return timed([lambda: claim(everything(), f"{END:,} floats")])


if __name__ == "__main__":
    sys.exit(exit_status(report(verdicts())))
