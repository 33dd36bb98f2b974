"""The NumPy contract against the published vectors and Random123's known answers."""

import numpy as np
import pytest
from gumball import contract
from gumball.vectors import DOCUMENT, VECTORS, Vector

by_name = pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v.name)


@pytest.mark.parametrize("case", DOCUMENT["philox4x32_10"])
def test_philox_gives_the_known_answers_of_random123(case):
    """The three known-answer vectors published with Random123."""
    counter = [int(word, 16) for word in case["counter"]]
    low, high = (int(word, 16) for word in case["key"])
    words = contract.philox4x32_10(*counter, seed=np.uint64(high << 32 | low))
    assert [f"{int(word):08x}" for word in words] == case["output"]


@by_name
def test_contract_gives_the_published_bits(vector: Vector):
    """Noise, scores, index and soft sample of every published draw."""
    key = (vector.seed, vector.row, vector.draw)
    assert vector.agrees("noise", contract.gumbel_noise(vector.logits.size, *key)[0])
    assert vector.agrees("scores", contract.scores(vector.logits, *key, vector.temperature)[0])
    sample = contract.straight_through(vector.logits, *key, vector.temperature, vector.tau)
    assert vector.agrees("soft", sample.soft[0])
    assert sample.index[0] == vector.index == contract.hard(vector.logits, *key, vector.temperature)[0]
    assert sample.soft[0].argmax() == vector.index


def test_temperature_zero_takes_the_first_largest_logit():
    """No noise, ties to the lowest category, tiny values equal zero."""
    logits = [[0.0, 2.0, 2.0], [-0.0, 1e-30, -np.inf]]
    assert contract.hard(logits, seed=3, row=[0, 1], temperature=0).tolist() == [1, 0]


@pytest.mark.parametrize("row", [[np.nan, 1.0], [np.inf, 1.0], [-np.inf, -np.inf]])
def test_a_row_that_cannot_be_drawn_from_is_refused(row):
    """NaN, +inf and all -inf have no sample."""
    with pytest.raises(contract.InvalidLogitsError):
        contract.hard([[0.0, 0.0], row], seed=1)
