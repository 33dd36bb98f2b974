"""Neighbours share nothing: noise and draws of seeds, rows, draws, categories and streams that lie one apart.

python tests/statistics/independence.py              the battery
python tests/statistics/independence.py --dieharder  the raw streams through Debian's dieharder (apt install dieharder)

Each family of comparisons gives many p-values. It holds if none is below LIMIT, and if together they are as uniform as
p-values of independent numbers must be. Seeds come from names, as in ``distribution``, where LIMIT is reasoned for.
"""

import argparse
import contextlib
import functools
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
from distribution import LIMIT, fits, probabilities, seed_of, spread_logits, two_sided
from gumball_server.domain import Output
from gumball_server.kernels._memory import COMPILED
from gumball_server.kernels._philox import TAIL, coarse_halfwords, tile_bits, word
from gumball_server.kernels._soft import _chunk_noise
from gumball_server.kernels._vectors import TILE
from numba import njit
from proof import Proof, Verdict, exit_status, report, timed
from samplers import Kernels
from scipy import stats

Array = np.ndarray


class Key(NamedTuple):
    """What the noise of a draw depends on."""

    seed: int
    row: int
    draw: int


class Source(Protocol):
    """Random bits and noise."""

    def bits(self, key: Key, n: int) -> Array:
        """[n] uint32: the coarse and the fine halfword of the first n categories, coarse high."""

    def noise(self, key: Key, n: int) -> Array:
        """[n] float32: the noise of the first n categories."""

    def tail(self, key: Key, n: int) -> Array:
        """[n] uint32: the first n words of the tail stream."""

    def firsts(self, seeds: Array, rows: Array, draws: Array) -> Array:
        """[n] uint32: the bits of category 0 of many keys [n] uint64."""


@njit(**COMPILED)
def _noise(seed, row, draw, bits, noise):
    _chunk_noise(0, noise.shape[0], (seed, row, draw), bits, noise)


@njit(**COMPILED)
def _bits(seed, row, draw, bits):
    for tile in range(bits.shape[0] // TILE):
        tile_bits(tile, (seed, row, draw), bits, TILE * tile)


@njit(**COMPILED)
def _coarse(seed, row, draw, first_tile, halfwords):
    for tile in range(halfwords.shape[0] // TILE):
        coarse_halfwords(first_tile + tile, (seed, row, draw), halfwords[TILE * tile : TILE * (tile + 1)])


@njit(**COMPILED)
def _tail(seed, row, draw, words):
    for k in range(words.shape[0]):
        words[k] = np.uint32(word(np.uint64(TAIL), k, (seed, row, draw)))


@njit(**COMPILED)
def _firsts(seeds, rows, draws, scratch, bits):
    for i in range(bits.shape[0]):
        tile_bits(0, (seeds[i], rows[i], draws[i]), scratch, 0)
        bits[i] = scratch[0]


def _uint64(key: Key) -> tuple[np.uint64, ...]:
    return tuple(np.uint64(part) for part in key)


class KernelSource:
    """The kernels' own functions. n is a multiple of the tile."""

    def bits(self, key: Key, n: int) -> Array:
        bits = np.empty(n, np.uint32)
        _bits(*_uint64(key), bits)
        return bits

    def noise(self, key: Key, n: int) -> Array:
        noise = np.empty(n, np.float32)
        _noise(*_uint64(key), np.empty(n, np.uint32), noise)
        return noise

    def tail(self, key: Key, n: int) -> Array:
        words = np.empty(n, np.uint32)
        _tail(*_uint64(key), words)
        return words

    def firsts(self, seeds: Array, rows: Array, draws: Array) -> Array:
        bits = np.empty(seeds.size, np.uint32)
        _firsts(seeds, rows, draws, np.empty(TILE, np.uint32), bits)
        return bits


# Families of p-values


def uniform(claim: str, size: str, p_values: list[float]) -> Verdict:
    """Whether p-values are those of numbers that have nothing in common."""
    together = float(stats.kstest(p_values, "uniform").pvalue)
    least = min(p_values)
    found = f"least of {len(p_values)} p = {least:.2g}, all p = {together:.2g}"
    return Verdict(claim, size, found, min(least, together) >= LIMIT)


def noise_p_values(a: Array, b: Array) -> Iterator[float]:
    """Of two arrays of noise: correlation of their uniform numbers, and of what decides, the large ones."""
    x, y = (np.exp(-np.exp(-g.astype(np.float64))) - 0.5 for g in (a, b))
    normal = stats.norm()
    yield two_sided(normal, 12 * float((x * y).sum()) / np.sqrt(x.size))
    yield two_sided(normal, 180 * float(((x * x - 1 / 12) * (y * y - 1 / 12)).sum()) / np.sqrt(x.size))
    yield two_sided(stats.binom(x.size, 2.0**-10), int(((x > 0.5 - 2.0**-5) & (y > 0.5 - 2.0**-5)).sum()))


def bit_p_values(a: Array, b: Array) -> Iterator[float]:
    """Of two arrays of words: how many bits agree, and whether each of the 32 does as often as the others."""
    agreeing = np.unpackbits((~(a ^ b)).view(np.uint8)).reshape(-1, 32).sum(axis=0, dtype=np.int64)
    yield two_sided(stats.binom(32 * a.size, 0.5), int(agreeing.sum()))
    yield two_sided(stats.chi2(32), float(((2 * agreeing - a.size) ** 2 / a.size).sum()))


def compared(source: Source, pairs: list[tuple[Key, Key]], n: int) -> list[float]:
    """The p-values of the noise and of the bits of pairs of draws."""
    noise, bits = (functools.lru_cache(4)(functools.partial(each, n=n)) for each in (source.noise, source.bits))
    return [p for a, b in pairs for p in (*noise_p_values(noise(a), noise(b)), *bit_p_values(bits(a), bits(b)))]


def neighbours(field: str) -> list[tuple[Key, Key]]:
    """Pairs of keys that differ in one field: by 1, at several places, and in each of its bits."""
    base = Key(seed_of(f"neighbours by {field}"), 12345, 678)
    width = 64 if field == "seed" else 32
    flipped = [(base, base._replace(**{field: getattr(base, field) ^ 1 << bit})) for bit in range(width)]
    starts = (0, 1, 41, 2**16 - 1, 2**31 - 1, 2**width - 2)
    return flipped + [(base._replace(**{field: x}), base._replace(**{field: x + 1})) for x in starts]


def swapped() -> list[tuple[Key, Key]]:
    """Pairs of keys that hold the same numbers in other fields, or the same sum."""
    small = [Key(a, b, c) for a, b, c in itertools.permutations((1, 2, 3))]
    sums = [(Key(7, r, d), Key(7, r + 1, d - 1)) for r, d in ((0, 1), (5, 9), (100, 100))]
    halves = [(Key(a << 32 | b, 0, 0), Key(b << 32 | a, 0, 0)) for a, b in ((1, 0), (1, 2), (77, 78))]
    carried = [(Key(s, r, 0), Key(s + 1, r - 1, 0)) for s, r in ((5, 1), (2**32 - 1, 1))]
    return list(itertools.combinations(small, 2)) + sums + halves + carried


def fields_apart(source: Source, field: str, n: int) -> Verdict:
    """Noise and bits of draws whose seed, row or draw differs by one or in one bit."""
    pairs = neighbours(field)
    claim = f"independence: {field}s one apart, or one bit"
    return uniform(claim, f"{len(pairs)} pairs of {n:,}", compared(source, pairs, n))


def fields_swapped(source: Source, n: int) -> Verdict:
    """Noise and bits of draws that have the same numbers as seed, row and draw, but not in the same places."""
    pairs = swapped()
    claim = "independence: seed, row and draw changed about"
    return uniform(claim, f"{len(pairs)} pairs of {n:,}", compared(source, pairs, n))


def categories_apart(source: Source, n: int) -> Verdict:
    """Noise and bits of categories of one draw, at distances that blocks, words and tiles are made of."""
    claim, lags = "independence: categories apart", (1, 2, 3, 4, 7, 8, 16, 32, 63, 64, 512, 1024, 4096)
    key = Key(seed_of(claim), 3, 5)
    noise, bits = source.noise(key, n), source.bits(key, n)
    p_values = [
        p for lag in lags for p in (*noise_p_values(noise[:-lag], noise[lag:]), *bit_p_values(bits[:-lag], bits[lag:]))
    ]
    return uniform(claim, f"{len(lags)} lags of {n:,}", p_values)


def streams_apart(source: Source, n: int) -> Verdict:
    """Coarse, fine and tail words of the same categories."""
    claim = "independence: streams of one draw"
    p_values: list[float] = []
    for i in range(16):
        key = Key(seed_of(claim) + i, i, 2 * i)
        bits, tail = source.bits(key, n), source.tail(key, n)
        coarse, fine = ((bits >> np.uint32(shift)) & np.uint32(0xFFFF) for shift in (16, 0))
        # Two 16-bit halves beside two others, so that there are words of 32 bits to compare.
        p_values += bit_p_values(_pairs(coarse), _pairs(fine))
        p_values += bit_p_values(bits, tail)
        p_values += bit_p_values(_pairs(coarse), tail[: n // 2])
    return uniform(claim, f"16 draws of {n:,}", p_values)


def _pairs(halves: Array) -> Array:
    return halves[::2] | halves[1::2] << np.uint32(16)


# Sequences of words along each axis, as if it were a generator


def along(source: Source, axis: str, n: int) -> Array:
    """[n] uint32: the words met when one thing counts up and the rest stays."""
    key = Key(seed_of(f"along {axis}"), 17, 4)
    if axis == "category":
        return source.bits(key, n)
    columns = {name: np.full(n, getattr(key, name), np.uint64) for name in Key._fields}
    columns[axis] += np.arange(n, dtype=np.uint64)
    return source.firsts(columns["seed"], columns["row"], columns["draw"])


def collisions(words: Array) -> float:
    """The p-value of how many of the words are met again."""
    return two_sided(stats.poisson(words.size**2 / 2**33), words.size - np.unique(words).size)


def birthday_spacings(words: Array) -> float:
    """Marsaglia's test: of 4096 birthdays in a year of 2^32 days, equal spacings are Poisson of mean 4."""
    years = words[: words.size // 4096 * 4096].reshape(-1, 4096)
    spacings = np.sort(np.diff(np.sort(years, axis=1), axis=1), axis=1)
    return two_sided(stats.poisson(4.0 * len(years)), int((np.diff(spacings, axis=1) == 0).sum()))


def runs_of_bits(words: Array) -> Iterator[float]:
    """The p-values of how often each of four bits changes from one word to the next."""
    for bit in (0, 15, 16, 31):
        changes = int(np.count_nonzero(np.diff(words >> np.uint32(bit) & np.uint32(1))))
        yield two_sided(stats.binom(words.size - 1, 0.5), changes)


def runs_up(words: Array) -> float:
    """Wald and Wolfowitz's count of runs up and down."""
    n = words.size
    rising = words[1:] > words[:-1]
    runs = 1 + int(np.count_nonzero(rising[1:] != rising[:-1]))
    return two_sided(stats.norm((2 * n - 1) / 3, np.sqrt((16 * n - 29) / 90)), runs)


def uniform_words(words: Array) -> Iterator[float]:
    """The p-values of the high, middle and low 12 bits being equally often anything."""
    for shift in (20, 10, 0):
        counts = np.bincount(words >> np.uint32(shift) & np.uint32(0xFFF), minlength=4096)
        expected = words.size / 4096
        yield two_sided(stats.chi2(4095), float(((counts - expected) ** 2 / expected).sum()))


def serial_pairs(words: Array) -> float:
    """The p-value of neighbours' high 5 bits filling a table of 1024 evenly."""
    high = words[: words.size // 2 * 2] >> np.uint32(27)
    counts = np.bincount(high[::2] * np.uint32(32) + high[1::2], minlength=1024)
    expected = words.size // 2 / 1024
    return two_sided(stats.chi2(1023), float(((counts - expected) ** 2 / expected).sum()))


def sequence(source: Source, axis: str, n: int) -> Verdict:
    """The words along an axis as a sequence: collisions, birthdays, runs, cells, pairs."""
    words = along(source, axis, n)
    p_values = [
        collisions(words),
        birthday_spacings(words),
        runs_up(words),
        serial_pairs(words),
        *runs_of_bits(words),
        *uniform_words(words),
    ]
    return uniform(f"independence: words as the {axis} counts up", f"{n:,} words", p_values)


# Tables of what is drawn

GROUPS = 8  # of categories, in a table of two draws


def joint_table(kernels: Kernels, axis: str, categories: int, draws: int) -> Verdict:
    """A G-test of the table of two draws whose seed, row or draw is one apart, against the product of probabilities."""
    claim = f"joint draws: {axis}s one apart, {categories} categories"
    logits, seed = spread_logits(categories, claim), seed_of(claim)
    group = np.arange(categories) % GROUPS
    if axis == "row":
        first, second = kernels.outputs(np.stack((logits, logits)), seed=seed, draws=draws)[Output.INDEX]
    elif axis == "seed":
        first, second = (kernels.outputs(logits, seed=s, draws=draws)[Output.INDEX][0] for s in (seed, seed + 1))
    else:
        both = kernels.outputs(logits, seed=seed, draws=2 * draws)[Output.INDEX][0]
        first, second = both[::2], both[1::2]
    p = np.bincount(group, probabilities(logits), GROUPS)
    observed = np.bincount(group[first] * GROUPS + group[second], minlength=GROUPS**2)
    return fits(claim, observed, np.outer(p, p).ravel())


def changes_of(p: float, n: int) -> stats.rv_continuous:
    """How often n independent draws change between a category of probability p and the others: nearly normal."""
    pq = p * (1 - p)
    # Neighbouring changes share a draw: their covariance is pq (1 - 4 pq).
    variance = 2 * pq * (1 - 2 * pq) * (n - 1) + 2 * pq * (1 - 4 * pq) * (n - 2)
    return stats.norm(2 * pq * (n - 1), np.sqrt(variance))


def runs_of_draws(kernels: Kernels, axis: str, n: int) -> Verdict:
    """How often neighbours along an axis differ in having drawn the most likely category."""
    claim = f"runs: draws as the {axis} counts up"
    logits, seed = np.array([0.4, 0.0, -0.3, -1.0], np.float32), seed_of(claim)
    many = np.broadcast_to(logits, (n, 4))
    if axis == "row":
        index = kernels.outputs(many, seed=seed)[Output.INDEX][:, 0]
    elif axis == "seed":
        index = kernels.outputs(many, seeds=np.uint64(seed) + np.arange(n, dtype=np.uint64))[Output.INDEX][:, 0]
    else:
        index = kernels.outputs(logits, seed=seed, draws=n)[Output.INDEX][0]
    changes = int(np.count_nonzero(np.diff(index == 0)))
    p_value = two_sided(changes_of(probabilities(logits)[0], n), changes)
    return Verdict(claim, f"{n:,} draws", f"{changes} changes, p = {p_value:.3g}", p_value >= LIMIT)


def proofs(source: Source, kernels: Kernels) -> tuple[Proof, ...]:
    """The battery, in full size."""
    each = functools.partial
    return (
        *(each(fields_apart, source, field, 1 << 20) for field in Key._fields),
        each(fields_swapped, source, 1 << 20),
        each(categories_apart, source, 1 << 22),
        each(streams_apart, source, 1 << 20),
        *(each(sequence, source, axis, 1 << 22) for axis in ("category", *Key._fields)),
        *(each(joint_table, kernels, axis, k, 1 << 21) for axis in Key._fields for k in (8, 1024)),
        *(each(runs_of_draws, kernels, axis, 1 << 20) for axis in Key._fields),
    )


# dieharder

# Those that it calls good, and that together take minutes.
DIEHARDER_TESTS = (0, 1, 2, 3, 8, 9, 15, 16, 100, 101, 102, 202, 203, 204, 205, 209)


def coarse_stream() -> Iterator[Array]:
    """Words of stream 0 in order: 2^22 categories of a draw, then of the next."""
    seed, halfwords = np.uint64(seed_of("dieharder coarse")), np.empty(1 << 16, np.uint16)
    for draw in itertools.count():
        for first in range(0, 1 << 22, 1 << 16):
            _coarse(seed, np.uint64(0), np.uint64(draw), first // TILE, halfwords)
            yield halfwords


def joined_stream() -> Iterator[Array]:
    """The bits of 64 categories, coarse and fine, of row after row and seed after seed: short rows of a batch."""
    bits, seed = np.empty((1024, TILE), np.uint32), seed_of("dieharder joined") >> 1
    for s in itertools.count(seed):
        for row in range(1024):
            _bits(np.uint64(s), np.uint64(row), np.uint64(0), bits[row])
        yield bits


def _pour(stream: Iterator[Array], pipe: BinaryIO) -> None:
    """Writes the words of a stream until nobody reads them."""
    with contextlib.suppress(BrokenPipeError):
        pipe.writelines(words.tobytes() for words in stream)


def assessments(stream: Iterator[Array], test: int) -> list[tuple[str, str]]:
    """(assessment, line) of each p-value that a test of dieharder gives a stream."""
    command = ("dieharder", "-g", "200", "-d", str(test))
    reading, writing = os.pipe()
    with open(writing, "wb", buffering=0) as pipe:
        with subprocess.Popen(command, stdin=reading, stdout=subprocess.PIPE, text=True) as process:
            os.close(reading)
            pouring = threading.Thread(target=_pour, args=(stream, pipe))
            pouring.start()
            told, _ = process.communicate()
            pouring.join()
        if process.returncode:
            raise RuntimeError(f"dieharder: exit status {process.returncode}")
    lines = [" ".join(line.split("|")).split() for line in told.splitlines()]
    return [(words[-1], " ".join(words)) for words in lines if words and words[-1] in ("PASSED", "WEAK", "FAILED")]


def dieharder(name: str, make: Callable[[], Iterator[Array]]) -> Verdict:
    """The raw stream through dieharder; a FAILED fails. A WEAK is expected of one p-value in a hundred."""
    told = []
    for test in DIEHARDER_TESTS:
        for assessment, line in assessments(make(), test):
            print(f"  {name}: {line}", flush=True)
            told.append(assessment)
    counts = {each: told.count(each) for each in ("PASSED", "WEAK", "FAILED")}
    found = ", ".join(f"{count} {each}" for each, count in counts.items())
    holds = counts["FAILED"] == 0 and counts["PASSED"] > 0
    return Verdict(f"dieharder: {name}", f"{len(DIEHARDER_TESTS)} tests", found, holds)


def dieharder_verdicts() -> Iterator[Verdict]:
    """Of both streams."""
    each = functools.partial
    return timed(
        (
            each(dieharder, "coarse stream of long rows", coarse_stream),
            each(dieharder, "bits of short rows", joined_stream),
        )
    )


def verdicts() -> Iterator[Verdict]:
    """Of the battery."""
    return timed(proofs(KernelSource(), Kernels()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dieharder", action="store_true", help="the raw streams through dieharder, not the battery")
    return exit_status(report(dieharder_verdicts() if parser.parse_args().dieharder else verdicts()))


if __name__ == "__main__":
    sys.exit(main())
