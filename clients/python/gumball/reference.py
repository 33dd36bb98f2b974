"""A whole request answered by the NumPy contract: slow, and what every other way must equal bit for bit."""

from collections.abc import Callable
from functools import partial

import numpy as np

from gumball import contract
from gumball._codec import Array, SampleRequest
from gumball.errors import InvalidArgument


def answer(request: SampleRequest) -> dict[str, Array]:
    """Every array that an answer to the request holds, by name and in order.

    The request must say its seed (or seeds) and its tau, as an answer tells them. Raises InvalidArgument.
    """
    if request.seed is None and request.seeds is None:
        raise InvalidArgument("is needed to redo a draw", "seed")
    if request.parameters.tau is None:
        raise InvalidArgument("is needed to redo a draw; a schedule's is in the answer", "tau")
    try:
        d = log_odds(request)
    except contract.InvalidLogitsError as error:
        raise InvalidArgument(str(error), request.parameters.source) from error
    k = 1 if request.parameters.without_replacement is None else request.parameters.without_replacement
    if int(np.isfinite(d).sum(axis=1).min()) < k:
        raise InvalidArgument(f"a row has fewer than {k} categories left", "without_replacement")
    return {output.name: _output(request, d, output.name).reshape(output.shape) for output in request.form.arrays}


def float32_of(request: SampleRequest) -> contract.Float32Array:
    """The logits (or probs) as float32, which holds every type of them exactly."""
    if request.dtype == "bfloat16":
        return (request.logits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return request.logits.astype(np.float32)


def log_odds(request: SampleRequest) -> contract.Float32Array:
    """d of the request: scaled, biased and filtered, [rows, categories]."""
    logits = float32_of(request)
    if request.parameters.source == "probs":
        logits = contract.log_weights(logits)
    d = contract.log_odds(contract.biased(logits, request.parameters.logit_bias or {}), request.parameters.temperature)
    return contract.filtered(
        d,
        top_k=request.parameters.top_k,
        top_p=1.0 if request.parameters.top_p is None else request.parameters.top_p,
        min_p=0.0 if request.parameters.min_p is None else request.parameters.min_p,
    )


def _output(request: SampleRequest, d: contract.Float32Array, name: str) -> Array:
    if name in _OF_DISTRIBUTION:
        return _OF_DISTRIBUTION[name](d)
    if name in ("top_index", "top_log_prob"):
        return contract.most_likely(d, request.parameters.top_log_probs or 0)[name == "top_log_prob"]
    return np.stack([_of_draw(request, d, name, draw) for draw in range(request.parameters.draws)], axis=1)


_OF_DISTRIBUTION: dict[str, Callable[[contract.Float32Array], Array]] = {
    "probs": contract.probs,
    "entropy": contract.entropy,
}


def _of_draw(request: SampleRequest, d: contract.Float32Array, name: str, draw: int) -> Array:
    """One output of one draw, [rows, ...]."""
    numbers = request.parameters.first_row + np.arange(request.shape.rows) if request.seeds is None else 0
    seed = request.seed if request.seeds is None else request.seeds
    s = contract.scores_of(d, 0 if seed is None else seed, numbers, request.parameters.first_draw + np.uint64(draw))
    index, score = contract.best(s, request.parameters.without_replacement or 1)
    tau = 1.0 if request.parameters.tau is None else request.parameters.tau
    outputs: dict[str, Callable[[], Array]] = {
        "index": lambda: index,
        "score": lambda: score,
        "log_prob": lambda: np.take_along_axis(contract.log_probs(d), index, axis=1),
        "one_hot": lambda: (np.arange(d.shape[1]) == index).astype(np.float32),
        "soft": partial(contract.soft_of, s, tau),
        "log_soft": partial(contract.log_soft_of, s, tau),
    }
    return outputs[name]()
