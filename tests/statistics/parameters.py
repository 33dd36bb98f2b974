"""The kernels in place of the NumPy contract, for the proofs of filters, probabilities and lack of replacement."""

from collections.abc import Iterator

import numpy as np
from gumball_server.domain import Output
from samplers import DRAWS_AT_A_TIME, Array, Kernels, pieces


class ParameterKernels(Kernels):
    """What `Contract` gives, by the service's own kernels; to be passed where it is passed."""

    def without_replacement(self, logits: Array, seed: int, draws: int, k: int) -> Iterator[Array]:
        """[n, k] int32 of the draws from 0 on, in the order drawn, in pieces."""
        for first, n in pieces(draws, DRAWS_AT_A_TIME // k):
            outputs = self.outputs(logits, seed=seed, first_draw=first, draws=n, without_replacement=k)
            yield outputs[Output.INDEX][0]

    def kept(self, logits: Array, temperature: float = 1.0, **filters: float) -> Array:
        """[categories] bool: what top_k, top_p and min_p leave."""
        return np.isfinite(self.log_probs(logits, temperature, **filters))

    def log_probs(self, logits: Array, temperature: float = 1.0, **filters: float) -> Array:
        """[categories] float32."""
        top = self.outputs(logits, seed=0, temperature=temperature, top_log_probs=logits.size, **filters)
        log_probs = np.empty(logits.size, np.float32)
        log_probs[top[Output.TOP_INDEX][0]] = top[Output.TOP_LOG_PROB][0]
        return log_probs

    def probs(self, logits: Array, temperature: float = 1.0) -> Array:
        """[categories] float32."""
        return self.outputs(logits, seed=0, temperature=temperature, outputs=["probs"])[Output.PROBS][0]

    def entropy(self, logits: Array, temperature: float = 1.0) -> float:
        """In nats."""
        return float(self.outputs(logits, seed=0, temperature=temperature, outputs=["entropy"])[Output.ENTROPY][0])
