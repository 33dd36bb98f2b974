"""What the statistical proofs draw from: the kernels, the NumPy contract where the kernels lack something, and
samplers that are wrong on purpose, to show that a test would notice."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from gumball import contract
from gumball_server.domain import Output
from gumball_server.local import LocalSampler

Array = np.ndarray

DRAWS_AT_A_TIME = 1 << 24
SOFT_AT_A_TIME = 1 << 24  # numbers of soft samples


class Sampler(Protocol):
    """Draws one row of logits [categories] float32."""

    def index(self, logits: Array, seed: int, draws: int, temperature: float = 1.0) -> Iterator[Array]:
        """[n] int32 of the draws from 0 on, in pieces."""

    def straight_through(
        self, logits: Array, seed: int, draws: int, tau: float, temperature: float = 1.0
    ) -> Iterator[tuple[Array, Array]]:
        """index [n] int32 and soft [n, categories] float32 of the draws from 0 on, in pieces."""


def pieces(draws: int, size: int) -> Iterator[tuple[int, int]]:
    """(first draw, how many) of pieces of about equal size."""
    for first in range(0, draws, size):
        yield first, min(size, draws - first)


class Kernels:
    """The service's own worker and kernels, in this process."""

    def __init__(self) -> None:
        self._sampler = LocalSampler()

    def outputs(self, logits: Array, **parameters: object) -> dict[Output, Array]:
        """The outputs of logits [rows, categories] or [categories] by name."""
        return self._sampler.sample(logits, **parameters).outputs

    def index(self, logits: Array, seed: int, draws: int, temperature: float = 1.0) -> Iterator[Array]:
        for first, n in pieces(draws, DRAWS_AT_A_TIME):
            outputs = self.outputs(logits, seed=seed, first_draw=first, draws=n, temperature=temperature)
            yield outputs[Output.INDEX][0]

    def straight_through(
        self, logits: Array, seed: int, draws: int, tau: float, temperature: float = 1.0
    ) -> Iterator[tuple[Array, Array]]:
        for first, n in pieces(draws, max(1, SOFT_AT_A_TIME // logits.size)):
            outputs = self.outputs(
                logits,
                mode="straight_through",
                seed=seed,
                first_draw=first,
                draws=n,
                tau=tau,
                temperature=temperature,
            )
            yield outputs[Output.INDEX][0], outputs[Output.SOFT][0]


class Contract:
    """What the NumPy contract specifies and the kernels do not draw yet. Each method can be any other's of its kind."""

    def without_replacement(self, logits: Array, seed: int, draws: int, k: int) -> Iterator[Array]:
        """[n, k] int32 of the draws from 0 on, in the order drawn, in pieces."""
        d = contract.log_odds(logits)
        for first, n in pieces(draws, 1 << 18):
            draw = np.arange(first, first + n, dtype=np.uint64)
            scores = contract.scores_of(np.broadcast_to(d, (n, d.shape[1])), seed, 0, draw)
            yield contract.best(scores, k)[0]

    def kept(self, logits: Array, temperature: float = 1.0, **filters: float) -> Array:
        """[categories] bool: what top_k, top_p and min_p leave."""
        return np.isfinite(contract.filtered(contract.log_odds(logits, temperature), **filters)[0])

    def log_probs(self, logits: Array, temperature: float = 1.0) -> Array:
        """[categories] float32."""
        return contract.log_probs(contract.log_odds(logits, temperature))[0]

    def probs(self, logits: Array, temperature: float = 1.0) -> Array:
        """[categories] float32."""
        return contract.probs(contract.log_odds(logits, temperature))[0]

    def entropy(self, logits: Array, temperature: float = 1.0) -> float:
        """In nats."""
        return float(contract.entropy(contract.log_odds(logits, temperature))[0])


class FewBits:
    """Wrong: Gumbel noise -log(-log u) of a uniform u with few bits, as torch.rand gives 24 of them in float32.

    Equal logits are drawn together, by the largest of their uniforms, so that a race of many is quick to run.
    """

    def __init__(self, bits: int) -> None:
        self._scale = 2.0**bits

    def index(self, logits: Array, seed: int, draws: int, temperature: float = 1.0) -> Iterator[Array]:
        random = np.random.default_rng(seed)
        values, firsts, counts = np.unique(logits, return_index=True, return_counts=True)
        for _, n in pieces(draws, (1 << 22) // values.size + 1):
            u = np.floor(random.random((n, values.size)) ** (1 / counts) * self._scale) / self._scale
            with np.errstate(divide="ignore"):
                scores = values / temperature - np.log(-np.log(u))
            yield firsts[scores.argmax(axis=1)].astype(np.int32)


class OffByOnePercent:
    """Wrong: the odds of the most likely category are 1 % too high."""

    def __init__(self, right: Sampler) -> None:
        self._right = right

    def index(self, logits: Array, seed: int, draws: int, temperature: float = 1.0) -> Iterator[Array]:
        logits = logits.copy()
        logits[logits.argmax()] += np.float32(np.log(1.01) * temperature)
        return self._right.index(logits, seed, draws, temperature)


class NoTemperature:
    """Wrong: temperature is ignored."""

    def __init__(self, right: Sampler) -> None:
        self._right = right

    def index(self, logits: Array, seed: int, draws: int, temperature: float = 1.0) -> Iterator[Array]:
        return self._right.index(logits, seed, draws)

    def straight_through(
        self, logits: Array, seed: int, draws: int, tau: float, temperature: float = 1.0
    ) -> Iterator[tuple[Array, Array]]:
        return self._right.straight_through(logits, seed, draws, tau)


class TauOnLogitsOnly:
    """Wrong: softmax(logits / tau + noise), which also lets tau change the winner."""

    def __init__(self, right: Sampler) -> None:
        self._right = right

    def straight_through(
        self, logits: Array, seed: int, draws: int, tau: float, temperature: float = 1.0
    ) -> Iterator[tuple[Array, Array]]:
        return self._right.straight_through(logits / np.float32(tau), seed, draws, 1.0, temperature)


class ShiftedIndex:
    """Wrong: the index is of one draw and the soft sample of the next."""

    def __init__(self, right: Sampler) -> None:
        self._right = right

    def straight_through(
        self, logits: Array, seed: int, draws: int, tau: float, temperature: float = 1.0
    ) -> Iterator[tuple[Array, Array]]:
        for index, soft in self._right.straight_through(logits, seed, draws, tau, temperature):
            yield np.roll(index, 1), soft


class SortedOutcome(Contract):
    """Wrong: the right set, in the order of categories and not in that of the draws."""

    def without_replacement(self, logits: Array, seed: int, draws: int, k: int) -> Iterator[Array]:
        return (np.sort(outcome, axis=1) for outcome in super().without_replacement(logits, seed, draws, k))


class FirstThenMostLikely(Contract):
    """Wrong: one fair draw, then the most likely of the rest."""

    def without_replacement(self, logits: Array, seed: int, draws: int, k: int) -> Iterator[Array]:
        order = np.argsort(-logits, kind="stable")
        for outcome in super().without_replacement(logits, seed, draws, 1):
            rest = np.array([[c for c in order if c != first][: k - 1] for first in range(logits.size)])
            yield np.concatenate((outcome, rest[outcome[:, 0]]), axis=1)


class LeavesOutTheCrossing(Contract):
    """Wrong: top_p stops before the category that carries the sum past p; min_p is a share of 1, not of the largest."""

    def kept(self, logits: Array, temperature: float = 1.0, **filters: float) -> Array:
        p = self.probs(logits, temperature).astype(np.float64)
        if "min_p" in filters:
            return p >= filters["min_p"]
        order = np.argsort(-p, kind="stable")
        kept = np.zeros(p.size, bool)
        kept[order[np.cumsum(p[order]) <= filters["top_p"]]] = True
        return kept


class Float16Logits(Contract):
    """Wrong: probabilities of logits that were rounded to float16."""

    def log_probs(self, logits: Array, temperature: float = 1.0) -> Array:
        return super().log_probs(logits.astype(np.float16), temperature)

    def entropy(self, logits: Array, temperature: float = 1.0) -> float:
        return super().entropy(logits.astype(np.float16), temperature)


class KeepsTies(Contract):
    """Wrong: top_k keeps everything as likely as the k-th, which may be more than k."""

    def kept(self, logits: Array, temperature: float = 1.0, **filters: float) -> Array:
        least = np.sort(logits)[-min(int(filters["top_k"]), logits.size)]
        return (logits >= least) & np.isfinite(logits)
