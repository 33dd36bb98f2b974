"""Requests for the kernels of any device, each with what the NumPy contract says to it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gumball import contract
from gumball_server.domain import Parameters, SampleRequest, SamplingError, Source
from gumball_server.validation import sample_request

HARD = ("index", "score")
DENSE = ("index", "score", "soft", "log_soft", "one_hot")
DISTRIBUTION = ("index", "log_prob", "probs", "entropy")
DISTINCT = ("index", "score", "log_prob")


@dataclass
class Case:
    """A request, and what the contract says to it."""

    logits: Any  # [rows, categories], in whatever type they are stored; bfloat16 as uint16
    outputs: tuple[str, ...] = HARD
    source: Source = Source.LOGITS
    given: dict[str, Any] = field(default_factory=dict)

    def request(self) -> SampleRequest:
        seed = {} if "seeds" in self.given else {"seed": 7}
        return sample_request(
            np.atleast_2d(self.logits), Parameters(outputs=self.outputs, **(seed | self.given)), self.source
        )

    def log_odds(self) -> np.ndarray:
        values = np.atleast_2d(self.logits)
        if values.dtype == np.uint16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        if self.source is Source.PROBS:
            values = contract.log_weights(values)
        values = contract.biased(values, self.given.get("logit_bias", {}))
        filters = {name: self.given[name] for name in ("top_k", "top_p", "min_p") if name in self.given}
        return contract.filtered(contract.log_odds(values, self.given.get("temperature", 1.0)), **filters)

    def expected(self) -> dict[str, np.ndarray]:
        """Every output, by name."""
        request, d = self.request(), self.log_odds()
        plan = request.plan
        seed, row = (plan.seeds, 0) if plan.seeds is not None else (request.seed, np.arange(plan.rows))
        row = row + plan.first_row
        by_draw: dict[str, list[np.ndarray]] = {}
        for draw in range(plan.draws):
            scores = contract.scores_of(d, seed, row, plan.first_draw + np.uint32(draw))
            index, score = contract.best(scores, plan.without_replacement or 1)
            log_prob = np.take_along_axis(contract.log_probs(d), index, axis=1)
            if plan.without_replacement is None:
                index, score, log_prob = index[:, 0], score[:, 0], log_prob[:, 0]
            answer = {
                "index": index,
                "score": score,
                "log_prob": log_prob,
                "soft": contract.soft_of(scores, plan.tau),
                "log_soft": contract.log_soft_of(scores, plan.tau),
                "one_hot": (np.arange(plan.categories) == scores.argmax(axis=1)[:, None]).astype(np.float32),
            }
            for name, values in answer.items():
                by_draw.setdefault(name, []).append(values)
        top_index, top_log_prob = contract.most_likely(d, plan.top_log_probs)
        of_rows = {"probs": contract.probs(d), "entropy": contract.entropy(d)}
        of_rows |= {"top_index": top_index, "top_log_prob": top_log_prob}
        return {name: np.stack(values, axis=1) for name, values in by_draw.items()} | of_rows

    def check(self, drawn: Any) -> None:
        assert not isinstance(drawn, SamplingError), drawn
        expected = self.expected()
        for output, values in drawn.items():
            np.testing.assert_array_equal(_bits(values), _bits(expected[output]), err_msg=f"{output} of {self.given}")


def _bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(np.int32)


def normal(*shape: int, scale: float = 3.0) -> np.ndarray:
    random = np.random.default_rng(sum(shape))
    return (scale * random.standard_normal(shape)).astype(np.float32)


def bfloat16(values: np.ndarray) -> np.ndarray:
    return (values.view(np.uint32) >> 16).astype(np.uint16)
