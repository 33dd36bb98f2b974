"""Sampling defects of peers that take a filter, a bias or a logarithm to show: none of them shows here.

The rest are in ``test_peer_defects``, and so is what both need.
"""

import itertools
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from test_peer_defects import refused, sample, sample_binary


@pytest.fixture(scope="module")
def http(server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.http, timeout=60) as client:
        yield client


def normal(name: int, *shape: int) -> np.ndarray:
    return 3 * np.random.default_rng(name).standard_normal(shape).astype(np.float32)


# Noise belongs to a category, not to a rank


@pytest.mark.parametrize("filters", [{"top_k": [3, 40, 1]}, {"top_p": [0.5, 0.99, 1.0]}, {"min_p": [0.3, 0.0, 0.01]}])
@pytest.mark.parametrize("categories", [60, 3000])
def test_sglang_35697_a_batchmates_filter_does_not_change_a_row(http, filters: dict, categories: int):
    """Noise was keyed by the rank in a sorted batch, so a batchmate's top-k changed your token."""
    logits, seeds = normal(35697, 3, categories), [35697, 1, 2]
    ((name, values),) = filters.items()
    alone = [
        sample(http, logits[r].tolist(), seed=seeds[r], draws=50, **{name: values[r]})["index"][0] for r in range(3)
    ]
    for order in itertools.permutations(range(3)):
        together = sample(
            http,
            logits[list(order)].tolist(),
            seeds=[seeds[r] for r in order],
            draws=50,
            **{name: [values[r] for r in order]},
        )
        assert together["index"] == [alone[r] for r in order]


@pytest.mark.parametrize("filters", [{"top_k": 20}, {"top_p": 0.9}, {"min_p": 0.05}, {"top_k": 1000}])
def test_sglang_35697_a_filter_does_not_change_a_draw_that_it_keeps(http, filters: dict):
    """Wherever the unfiltered draw is among what a filter keeps, the filtered draw is the same."""
    logits = normal(1, 1, 3000)
    plain = sample_binary(http, logits, seed=6, draws=2000)[0]
    filtered = sample_binary(http, logits, seed=6, draws=2000, **filters)[0]
    kept = np.array(sample(http, logits[0].tolist(), outputs=["probs"], **filters)["probs"][0]) > 0
    assert kept[filtered].all()
    assert kept[plain].any()
    assert (plain == filtered)[kept[plain]].all()


# Exactly k


@pytest.mark.parametrize(("k", "categories"), [(1, 10), (3, 10), (10, 10), (64, 500), (50, 4000), (129, 4000)])
@pytest.mark.parametrize("ties", ["all", "at the border"])
def test_flashinfer_3774_top_k_keeps_exactly_k_of_equals(http, k: int, categories: int, ties: str):
    """All that was equal to the k-th was kept, so top_k = 1 could draw any of thousands."""
    logits = np.zeros(categories, np.float32)
    if ties == "at the border":
        logits[1:k:2] = 1.0  # in places that the lower ones come before, between and after
    answer = sample(http, [logits.tolist()], seed=3774, top_k=k, outputs=["index", "probs"], draws=500)
    kept = np.flatnonzero(np.array(answer["probs"][0]))
    expected = np.sort(np.argsort(-logits, kind="stable")[:k])  # the lower categories of equals
    assert kept.tolist() == expected.tolist()
    assert np.isin(answer["index"][0], expected).all()


@pytest.mark.parametrize("k", [1, 7, 30])
def test_flashinfer_3774_without_replacement_gives_k_distinct_of_equals(http, k: int):
    """Equal logits leave nothing to sort by but the noise."""
    answer = sample(http, [[0.0] * 30], seed=3, without_replacement=k, draws=300)
    assert all(len(set(outcome)) == k for outcome in answer["index"][0])
    assert len({tuple(outcome) for outcome in answer["index"][0]}) > min(300, 30**k) // 20


# Nothing left


def test_vllm_53665_a_bias_that_leaves_nothing_is_refused(http):
    """An empty mask was answered with token 0, or with an internal error."""
    bias = {str(category): None for category in range(3)}
    body = {"logits": [[0.0, 1.0, 2.0], [5.0, None, None]], "logit_bias": bias}
    assert refused(http.post("/sample", json=body)) == "logits[0]"
    only_second = {"logits": [[0.0, 1.0, 2.0], [5.0, None, None]], "logit_bias": {"0": None}}
    assert refused(http.post("/sample", json=only_second)) == "logits[1]"


def test_vllm_53665_weights_that_are_all_0_are_refused(http):
    """There is nothing to draw, and 0 is not an answer."""
    assert refused(http.post("/sample", json={"probs": [[0.5, 0.5], [0.0, 0.0]]})) == "probs[1]"


def test_vllm_53665_more_without_replacement_than_are_left_is_refused(http):
    """Masked categories were given out when the others were used up."""
    body = {"logits": [[0.0, 1.0, 2.0, 3.0]], "without_replacement": 3, "top_k": 2}
    assert refused(http.post("/sample", json=body)).startswith(("without_replacement", "logits"))
    body = {"logits": [[0.0, None, None, 3.0]], "without_replacement": 3}
    assert refused(http.post("/sample", json=body)).startswith(("without_replacement", "logits"))


@pytest.mark.parametrize("filters", [{"top_p": 5e-324}, {"top_k": 1}, {"min_p": 1.0}])
def test_vllm_53665_no_filter_leaves_nothing(http, filters: dict):
    """The most likely category is always kept, the lowest of equals where only one is."""
    assert sample(http, [[0.0, 2.0, 1.0]], seed=1, draws=50, **filters)["index"] == [[1] * 50]
    assert set(sample(http, [[0.0, 0.0]], seed=1, draws=50, **filters)["index"][0]) <= {0, 1}


# Weights of 0


@pytest.mark.parametrize("probs", [[0.33, 0.34, 0.0, 0.33], [0.0, 1.0, 1e-30, 0.0]])
def test_pytorch_192812_and_91863_a_weight_of_0_is_never_drawn(http, probs: list[float]):
    """A category whose weight was 0 came up once in some ten million draws."""
    masked = [category for category, weight in enumerate(probs) if weight == 0]
    body = {"probs": [probs], "draws": 2_000_000}
    for part in range(5):
        response = http.post("/sample", json=body | {"seed": part})
        assert not np.isin(response.json()["index"][0], masked).any()


def test_pytorch_192812_and_91863_weights_of_0_are_not_drawn_when_the_others_are_used_up(http):
    """More draws without replacement than weights above 0 were given categories of weight 0; here they are refused."""
    body = {"probs": [[0.0, 10.0, 3.0, 0.0]], "without_replacement": 4, "seed": 1}
    assert refused(http.post("/sample", json=body)).startswith(("without_replacement", "probs"))
    outcome = http.post("/sample", json=body | {"without_replacement": 2}).json()["index"][0][0]
    assert sorted(outcome) == [1, 2]


# Biases


@pytest.mark.parametrize("category", ["3", "-1", "4294967296", "99999999999999999999", "151936", "x", "1.5", ""])
def test_vllm_16529_a_bias_for_what_is_no_category_is_refused_alone(http, category: str):
    """A logit_bias for a token beyond the vocabulary killed the engine, for everyone."""
    response = http.post("/sample", json={"logits": [0.0, 1.0, 2.0], "logit_bias": {category: 5.0}})
    assert response.status_code in (400, 422)
    assert response.json()["reason"] == "INVALID_ARGUMENT"
    assert "logit_bias" in response.json()["detail"]
    assert sample(http, [0.0, 1.0, 2.0], logit_bias={"2": 1e30}, seed=1)["index"] == [[2]]


@pytest.mark.parametrize("amount", [1e39, -1e39])
def test_vllm_16529_a_bias_beyond_float32_is_refused(http, amount: float):
    """It would be an infinite logit."""
    response = http.post("/sample", json={"logits": [0.0, 1.0, 2.0], "logit_bias": {"1": amount}})
    assert refused(response).startswith("logit_bias")


def test_vllm_16529_a_bias_that_overflows_a_logit_is_refused(http):
    """The sum of two finite numbers may be +inf, which no row may hold."""
    response = http.post("/sample", json={"logits": [3e38, 0.0], "logit_bias": {"0": 3e38}})
    assert refused(response).startswith("logit_bias")


# What JSON cannot hold


def test_sglang_5984_logarithms_of_0_are_null(http):
    """-inf was written into the answer as -Infinity, which is no JSON."""
    answer = sample(
        http,
        [[None, 0.0, 1.0, -1e38]],
        outputs=["index", "soft", "log_soft", "score", "log_prob", "probs", "entropy"],
        top_log_probs=4,
        top_k=2,
        seed=5984,
    )
    assert [x is None for x in answer["log_soft"][0][0]] == [True, False, False, True]
    assert answer["top_index"] == [[2, 1, 0, 3]]
    assert [x is None for x in answer["top_log_prob"][0]] == [False, False, True, True]
    assert answer["probs"][0][::3] == [0.0, 0.0]
    assert all(isinstance(answer[name][0][0], float) for name in ("score", "log_prob"))


def test_sglang_5984_the_logarithms_of_a_certain_draw_are_numbers(http):
    """A single category that is left has log-probability 0 and entropy 0, also at temperature 0."""
    for parameters in ({"top_k": 1}, {"temperature": 0.0}, {"logit_bias": {"0": None, "1": None}}):
        answer = sample(http, [0.0, 1.0, 2.0], outputs=["index", "log_prob", "entropy"], seed=1, **parameters)
        assert (answer["index"], answer["log_prob"], answer["entropy"]) == ([[2]], [[0.0]], [0.0])
