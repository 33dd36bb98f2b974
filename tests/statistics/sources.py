"""Sources of noise that are wrong on purpose, as samplers have been, to show that a test would notice."""

from collections.abc import Callable

import numpy as np
from gumball import contract
from gumball_server.domain import Output
from independence import Array, KernelSource, Key
from samplers import Kernels


class Rekeyed(KernelSource):
    """Wrong: the key is not used as it is given."""

    def __init__(self, change: Callable[[Key], Key]) -> None:
        self._change = change

    def bits(self, key: Key, n: int) -> Array:
        return super().bits(self._change(key), n)

    def noise(self, key: Key, n: int) -> Array:
        return super().noise(self._change(key), n)

    def firsts(self, seeds: Array, rows: Array, draws: Array) -> Array:
        keys = (self._change(Key(*key)) for key in zip(seeds.tolist(), rows.tolist(), draws.tolist(), strict=True))
        columns = np.array(list(keys), np.uint64).T
        return super().firsts(*np.ascontiguousarray(columns))


def high_seed_lost(key: Key) -> Key:
    """Only the low half of the seed is used."""
    return key._replace(seed=key.seed % 2**32)


def low_bit_lost(key: Key) -> Key:
    """Seeds that differ by one are the same."""
    return key._replace(seed=key.seed & ~1)


def rows_shared(key: Key) -> Key:
    """Every row has the noise of row 0."""
    return key._replace(row=0)


def draws_shared(key: Key) -> Key:
    """Draws beyond 2^16 begin again."""
    return key._replace(draw=key.draw % 2**16)


def row_plus_draw(key: Key) -> Key:
    """Row and draw are added into one counter."""
    return key._replace(row=0, draw=(key.row + key.draw) % 2**32)


class FewRounds(KernelSource):
    """Wrong: Philox with too few rounds."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds

    def bits(self, key: Key, n: int) -> Array:
        coarse, fine = (self._halves(*key, np.arange((n + 7) // 8), stream)[:n] for stream in (0, 1))
        return coarse << np.uint32(16) | fine

    def noise(self, key: Key, n: int) -> Array:
        bits = self.bits(key, n)
        return contract.gumbel_from_bits(bits >> np.uint32(16), bits & np.uint32(0xFFFF), np.uint32(1 << 31))

    def firsts(self, seeds: Array, rows: Array, draws: Array) -> Array:
        zeros = np.zeros_like(seeds)
        coarse, fine = (self._halves(seeds, rows, draws, zeros, stream)[::8] for stream in (0, 1))
        return coarse << np.uint32(16) | fine

    def _halves(self, seed: Array, row: Array, draw: Array, block: Array, stream: int) -> Array:
        low, high = np.uint64(0xFFFFFFFF), np.uint64(32)
        a, b, c, d, s = np.broadcast_arrays(*(np.asarray(x, np.uint64) for x in (block, draw, row, stream, seed)))
        k0, k1 = s & low, s >> high
        for _ in range(self._rounds):
            p0, p1 = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
            a, b, c, d = (p1 >> high) ^ b ^ k0, p1 & low, (p0 >> high) ^ d ^ k1, p0 & low
            k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
        words = np.stack((a, b, c, d), axis=-1).astype(np.uint32).reshape(-1)
        return np.stack((words & np.uint32(0xFFFF), words >> np.uint32(16)), axis=-1).reshape(-1)


class SharedByBlock(KernelSource):
    """Wrong: the categories of a block have the noise of those of the block before."""

    def bits(self, key: Key, n: int) -> Array:
        return super().bits(key, n).reshape(-1, 2, 8)[:, [0, 0]].reshape(-1)

    def noise(self, key: Key, n: int) -> Array:
        return super().noise(key, n).reshape(-1, 2, 8)[:, [0, 0]].reshape(-1)


class FineFromCoarse(KernelSource):
    """Wrong: the fine stream is the coarse one again."""

    def bits(self, key: Key, n: int) -> Array:
        coarse = super().bits(key, n) >> np.uint32(16)
        return coarse << np.uint32(16) | coarse


class Mersenne16(KernelSource):
    """Wrong: words that hold 16 random bits twice."""

    def bits(self, key: Key, n: int) -> Array:
        return np.random.default_rng(key.seed).integers(0, 2**16, n, np.uint32) * np.uint32(0x10001)

    def firsts(self, seeds: Array, rows: Array, draws: Array) -> Array:
        return self.bits(Key(int(seeds[0]), 0, 0), seeds.size)


class SharedDraws(Kernels):
    """Wrong: rows, seeds or draws one apart are drawn with one noise every other time."""

    def outputs(self, logits: Array, **parameters: object) -> dict[Output, Array]:
        if "seeds" in parameters:
            parameters["seeds"] = parameters["seeds"] & ~np.uint64(1)
        if "seed" in parameters:
            parameters["seed"] &= ~1
        index = super().outputs(logits, **parameters)[Output.INDEX].copy()
        index[1::2] = index[: index.shape[0] // 2 * 2 : 2]
        index[:, 1::2] = index[:, : index.shape[1] // 2 * 2 : 2]
        return {Output.INDEX: index}
