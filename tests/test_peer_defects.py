"""Sampling defects that other services and libraries had, by the numbers of their trackers: none of them shows here.

Each trigger goes in over HTTP, as the caller who found it would send it.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from gumball import contract
from gumball_server.domain import Output, Parameters, SamplingError
from gumball_server.kernels import cpu
from gumball_server.validation import sample_request
from gumball_server.worker import Worker
from scipy import stats

LIMIT = 1e-6  # of a p-value; what is drawn depends on the seeds here alone, so a test passes always or never


@pytest.fixture(scope="module")
def http(server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.http, timeout=60) as client:
        yield client


def sample(http: httpx.Client, logits: list, **parameters: Any) -> dict[str, Any]:
    """The answer to a JSON request, read as strictly as JSON is defined."""
    response = http.post("/sample", json={"logits": logits, **parameters})
    assert response.status_code == 200, response.text
    return json.loads(response.content, parse_constant=_refuse)


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


def sample_binary(http: httpx.Client, logits: np.ndarray, output: str = "index", **parameters: Any) -> np.ndarray:
    """One output of float32 logits [rows, categories], [rows, draws] or [rows, draws, categories]."""
    response = post_binary(http, logits, outputs=output, **parameters)
    assert response.status_code == 200, response.text
    (told,) = json.loads(response.headers["gumball-outputs"])
    return np.frombuffer(response.content, told["dtype"]).reshape(told["shape"])


def post_binary(http: httpx.Client, logits: np.ndarray, **parameters: Any) -> httpx.Response:
    query = {"shape": ",".join(map(str, logits.shape)), "dtype": "float32"} | parameters
    headers = {"content-type": "application/octet-stream"}
    return http.post("/sample", params=query, content=logits.astype("<f4").tobytes(), headers=headers)


def refused(response: httpx.Response) -> str:
    """The field that a refusal is about."""
    assert response.status_code == 422, response.text
    problem = response.json()
    assert problem["reason"] == "INVALID_ARGUMENT"
    return problem["field"]


def listed(seeds: np.ndarray) -> str:
    return ",".join(map(str, seeds.tolist()))


# Seeds and batches


def test_flashinfer_4861_every_seed_of_a_batch_is_used(http):
    """A kernel read an array of seeds at [0] only, so that all rows but the first ignored theirs."""
    row = [0.0] * 1000
    seeds = [7, 2**64 - 1, 8, 0, 7]
    together = sample(http, [row] * 5, seeds=[str(seed) for seed in seeds])["index"]
    alone = [sample(http, row, seed=str(seed))["index"][0] for seed in seeds]
    assert together == alone
    assert together[0] == together[4]
    assert len({index for (index,) in together}) == 4


def test_vllm_50440_rows_of_one_seed_do_not_share_noise(http):
    """One seed was broadcast over the rows of a request, so equal rows drew equal tokens."""
    answer = sample(http, [[0.0] * 64] * 512, seed=11, mode="straight_through")
    index = np.array(answer["index"])[:, 0]
    counts = np.bincount(index, minlength=64)
    assert stats.chisquare(counts).pvalue >= LIMIT
    assert len({tuple(soft[0]) for soft in answer["soft"]}) == 512


def test_vllm_omni_5229_seeds_one_apart_are_not_correlated(http):
    """Seeds that differed by one gave correlated draws."""
    index = np.concatenate([sample_seeds(http, batch) for batch in np.arange(1 << 16).reshape(-1, 512)])
    table = np.bincount(8 * index[:-1:2] + index[1::2], minlength=64)
    assert stats.chisquare(table).pvalue >= LIMIT
    shifted = np.bincount(8 * index[1:-1:2] + index[2::2], minlength=64)
    assert stats.chisquare(shifted).pvalue >= LIMIT


def sample_seeds(http: httpx.Client, seeds: np.ndarray) -> np.ndarray:
    return sample_binary(http, np.zeros((seeds.size, 8), np.float32), seeds=listed(seeds))[:, 0]


@pytest.mark.parametrize("categories", [50, 2000])
def test_vllm_50979_a_row_does_not_change_with_the_size_of_its_batch(http, categories: int):
    """From eight rows on, the same row drew another token than by itself."""
    random = np.random.default_rng(50979)
    logits = 3 * random.standard_normal((65, categories)).astype(np.float32)
    seeds = np.arange(100, 165)
    soft = [sample_binary(http, logits[r], "soft", seed=int(seeds[r]))[0] for r in range(65)]
    index = [sample_binary(http, logits[r], seed=int(seeds[r]))[0] for r in range(65)]
    for rows in (1, 2, 7, 8, 9, 16, 64, 65):
        given = {"seeds": listed(seeds[:rows])}
        assert sample_binary(http, logits[:rows], "soft", **given).tobytes() == np.array(soft[:rows]).tobytes()
        assert sample_binary(http, logits[:rows], **given).tobytes() == np.array(index[:rows]).tobytes()


# The ends of the noise


def test_vllm_51367_and_43150_the_tail_is_drawn_as_often_as_it_should_be(http):
    """A float32 uniform has 24 bits, so categories 17 or more below the largest could hardly win, and 20 below never.

    262,144 categories 17.7 below the largest, 6,000 draws: 32.2 of them are expected; 24 bits give about five. The race
    at 20.5, with its 100,000 draws, is one of the proofs of ``statistics/distribution.py``.
    """
    logits = np.full((1, 262_145), -17.7, np.float32)
    logits[0, 1000] = 0
    index = [sample_binary(http, logits, seed=51367, draws=1000, first_draw=1000 * i) for i in range(6)]
    won = sum(int((drawn != 1000).sum()) for drawn in index)
    share = 262_144 * np.exp(-17.7)
    expected = stats.poisson(6000 * share / (1 + share))
    assert min(expected.cdf(won), expected.sf(won - 1)) >= LIMIT / 2


def halfword(stream: int, category: int, draw: int, seed: int) -> int:
    words = contract.philox4x32_10(category >> 3, draw, 0, stream, seed)
    return int(words[category >> 1 & 3]) >> 16 * (category & 1) & 0xFFFF


@pytest.mark.parametrize(("draw", "category"), [(456, 2_117_221), (598, 2_267_817)])
@pytest.mark.parametrize("logit", [-40.0, -np.inf])
def test_sglang_25106_the_most_extreme_word_is_not_infinite_noise(http, draw: int, category: int, logit: float):
    """One hash in 2^32 became u = 1 and so infinite noise, which won whatever the logits were, and where masked.

    For the seed 25106, the random words of these draws and categories are the ones that would do so here: all zeros.
    """
    assert [halfword(stream, category, draw, 25106) for stream in (contract.COARSE, contract.FINE)] == [0, 0]
    logits = np.full((1, category + 1), -np.inf, np.float32)
    logits[0, [0, category]] = 0, logit
    assert sample_binary(http, logits, seed=25106, first_draw=draw).item() == 0


@pytest.mark.parametrize("categories", [64, 4096])
def test_sglang_25106_no_number_of_draws_makes_an_impossible_category_win(http, categories: int):
    """Nor do 2^28 numbers, in which a uniform of 24 bits is 0 or 1 many times."""
    logits = np.full((1, categories), -40.0, np.float32)
    logits[0, 5] = 0
    for part in range(4):
        draws = 2**26 // categories
        assert (sample_binary(http, logits, seed=25106, draws=draws, first_draw=part * draws) == 5).all()


@pytest.mark.parametrize("tau", [2.0**-40, 1e-3, 0.1, 1.0, 1e3, 2.0**40])
@pytest.mark.parametrize("categories", [10, 1500])
def test_pytorch_22442_and_kin_a_soft_sample_is_never_nan(http, tau: float, categories: int):
    """-log(-log(u)) of a u that was 0 or 1 is infinite, and softmax made NaN of it (22442, 22586, 41663, 159103)."""
    logits = np.random.default_rng(22442).standard_normal((2, categories)).astype(np.float32) * 20
    soft = sample_binary(http, logits, "soft", seed=22442, tau=tau, draws=1_000_000 // categories)
    assert np.isfinite(soft).all()
    assert soft.min() >= 0
    assert abs(soft.sum(axis=2, dtype=np.float64) - 1).max() < 1e-6


@pytest.mark.parametrize("temperature", [0.0, 2.0**-40, 1.0, 2.0**40])
@pytest.mark.parametrize("categories", [7, 129, 5000])
def test_pytorch_192812_and_91863_a_category_of_probability_0_is_never_drawn(http, categories: int, temperature: float):
    """Categories of probability 0 were drawn: the first or last, or where a cumulative sum was rounded."""
    logits = np.full((1, categories), -np.inf, np.float32)
    allowed = np.arange(1, categories - 1, 3)
    logits[0, allowed] = np.linspace(-5, 5, allowed.size)
    index = sample_binary(http, logits, seed=192812, draws=min(200_000, 2**26 // categories), temperature=temperature)
    assert np.isin(index, allowed).all()


def test_pytorch_91863_a_masked_category_has_a_share_of_exactly_0(http):
    """In the soft sample too, at any tau."""
    for tau in (2.0**-40, 1.0, 2.0**40):
        soft = np.array(sample(http, [None, 1.0, None, 2.0, None], mode="soft", seed=1, tau=tau)["soft"])
        assert (soft[0, 0, ::2] == 0).all()


@pytest.mark.parametrize("tau", [0, -0.0, -1.0, 2.0**-41])
def test_pytorch_184031_tau_0_is_refused_by_name(http, tau: float):
    """tau = 0 divided by zero, and the answer was NaN."""
    assert refused(http.post("/sample", json={"logits": [0.5, 1.0], "mode": "soft", "tau": tau})) == "tau"


def test_pytorch_184031_the_least_tau_gives_the_one_hot_vector(http):
    """So that tau may fall as far as a schedule takes it."""
    answer = sample(http, [[0.5, 1.0, 0.0]] * 100, mode="straight_through", tau=2.0**-40, seed=3)
    assert [soft[0].index(1.0) for soft in answer["soft"]] == [index for (index,) in answer["index"]]
    assert all(sorted(soft[0]) == [0.0, 0.0, 1.0] for soft in answer["soft"])


@pytest.mark.parametrize("temperature", [0.0, 2.0**-40, 1.0, 2.0**40])
@pytest.mark.parametrize("categories", [2, 100, 3000])
def test_ties_do_not_make_a_vector_with_several_ones(http, categories: int, temperature: float):
    """One-hot vectors made as (score == max score) had a one for each of equal scores."""
    logits = np.zeros((1, categories), np.float32)
    one_hot = sample_binary(http, logits, "one_hot", seed=5, draws=1 + 500_000 // categories, temperature=temperature)
    assert (one_hot.sum(axis=2) == 1).all()
    assert ((one_hot == 0) | (one_hot == 1)).all()
    if temperature == 0:
        assert (one_hot[..., 0] == 1).all()  # the lowest of equals


# Rows that cannot be drawn from


@pytest.mark.parametrize("mode", ["hard", "soft", "straight_through"])
def test_vllm_53665_a_row_with_nothing_left_is_refused_and_not_answered_with_0(http, mode: str):
    """A mask that left nothing was answered with token 0, and then with HTTP 500."""
    rows = [[0.0, 1.0, 2.0], [None, None, None], [1.0, None, 1.0]]
    assert refused(http.post("/sample", json={"logits": rows, "mode": mode})) == "logits[1]"
    assert refused(http.post("/sample", json={"logits": [None], "mode": mode, "temperature": 1})) == "logits[0]"
    one_left = sample(http, [[None, None, 1.0]] * 20, mode="hard", seed=1)
    assert one_left["index"] == [[2]] * 20


def test_sglang_5984_an_answer_to_masked_logits_is_json(http):
    """-inf was written into the answer as -Infinity, which is no JSON."""
    answer = sample(http, [[None, 0.0, None, -1e38]], outputs=["index", "one_hot", "soft"], seed=2, tau=0.01)
    assert answer["soft"] == [[[0.0, 1.0, 0.0, 0.0]]]


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf])
@pytest.mark.parametrize("categories", [10, 700])
def test_flashinfer_2402_vllm_53029_and_infinity_609_a_nan_row_harms_no_neighbour(value: float, categories: int):
    """A NaN in one request of a batch read memory out of bounds, or spoilt the answers of the others."""
    random = np.random.default_rng(2402)
    good = random.standard_normal((8, 3, categories)).astype(np.float32)
    bad = good[0].copy()
    bad[1, categories // 2] = value
    parameters = Parameters(mode="straight_through", seed=9)
    requests = [sample_request(logits, parameters) for logits in good]
    worker = Worker(cpu.sample_rows, threads=1)
    alone = [worker.run([request])[0] for request in requests]
    for place in range(9):
        batch = worker.run([*requests[:place], sample_request(bad, parameters), *requests[place:]])
        refusal = batch.pop(place)
        assert isinstance(refusal, SamplingError)
        assert refusal.field == f"logits[1][{categories // 2}]"
        for drawn, expected in zip(batch, alone, strict=True):
            assert all(drawn[name].tobytes() == expected[name].tobytes() for name in (Output.INDEX, Output.SOFT))


def test_infinity_609_nan_rows_among_concurrent_requests_are_refused_alone(http):
    """One bad input stopped the batch handler until a restart; here its sender is told, and nobody else notices."""
    good = np.random.default_rng(609).standard_normal((4, 300)).astype(np.float32)
    bad = good.copy()
    bad[2, 7] = np.nan
    expected = sample_binary(http, good, seed=609).tobytes()

    def ask(number: int) -> httpx.Response:
        return post_binary(http, bad if number % 3 == 0 else good, seed=609)

    with ThreadPoolExecutor(16) as callers:
        answers = list(callers.map(ask, range(150)))
    assert all(refused(answer) == "logits[2][7]" for answer in answers[::3])
    assert all(answer.content == expected for number, answer in enumerate(answers) if number % 3)
