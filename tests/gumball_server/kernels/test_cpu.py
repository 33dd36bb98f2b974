"""The CPU kernels against the NumPy contract, bit for bit."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import numpy as np
import pytest
from gumball.vectors import VECTORS, Vector
from gumball_server.kernels.cpu import sample_rows
from gumball_server.kernels.table import LogitsType, RowStatus
from kernel_rows import OUTPUTS, Row, Table, random_rows, stored

COMBINATIONS = [wanted for n in (1, 2, 3) for wanted in combinations(OUTPUTS, n)]
LENGTHS = [1, 2, 7, 8, 9, 10, 63, 64, 65, 127, 128, 129, 511, 513, 1024, 1025, 4000]  # where the kernels take a turn


def normal(n: int, seed: int = 0, scale: float = 2) -> np.ndarray:
    return (scale * np.random.default_rng([seed, n]).standard_normal(n)).astype(np.float32)


def draw(*rows: Row) -> Table:
    """The rows, drawn in one table, with the outputs as the contract has them."""
    table = Table(rows)
    sample_rows(table.records)
    assert table.mismatches() == []
    return table


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_published_vectors_come_out_bit_for_bit(vector: Vector):
    """Index and soft sample of every published draw."""
    row = Row(vector.logits, vector.seed, vector.row, vector.draw, 1, vector.temperature, vector.tau)
    table = draw(row)
    assert table.outputs[0]["index"][0] == vector.index
    assert vector.agrees("soft", table.outputs[0]["soft"][0])


def test_ten_million_random_categories_equal_the_contract():
    """Rows of every kind, length, type and parameters, in tables of many."""
    rows = list(random_rows(np.random.default_rng(20), 10_000_000, longest=1 << 18))
    for first in range(0, len(rows), 500):
        draw(*rows[first : first + 500])


@pytest.mark.parametrize("wanted", COMBINATIONS, ids="+".join)
@pytest.mark.parametrize("logits_type", LogitsType, ids=lambda kind: kind.name)
def test_any_outputs_of_any_type_come_from_the_same_noise(wanted: tuple[str, ...], logits_type: LogitsType):
    """Every combination of outputs, at every length where a kernel takes a turn, several draws each."""
    draw(*(Row(stored(normal(n), logits_type), n, 4, 9, draws=3, wanted=wanted) for n in LENGTHS))


@pytest.mark.parametrize("temperature", [0.0, 2.0**-40, 0.05, 1.0, 30.0, 2.0**40])
def test_any_temperature(temperature: float):
    """From a plain argmax to noise alone."""
    draw(*(Row(normal(n), n, temperature=temperature, draws=2, wanted=("index",)) for n in LENGTHS))


@pytest.mark.parametrize("tau", [2.0**-40, 0.05, 1.0, 30.0, 2.0**40])
def test_any_tau(tau: float):
    """From a one-hot vector to a uniform one."""
    draw(*(Row(normal(n), n, tau=tau) for n in LENGTHS))


@pytest.mark.parametrize(
    "make",
    [
        lambda n: np.zeros(n),
        lambda n: np.where(np.arange(n) % 2, -0.0, 0.0),
        lambda n: np.where(np.arange(n) == n - 1, 3.0, -np.inf),
        lambda n: np.full(n, -3e38),
        lambda n: np.where(np.arange(n) % 3, -3e38, 3e38),
        lambda n: np.where(np.arange(n) % 5, -200.0, 0.0),
        lambda n: np.full(n, 1e-45),
        lambda n: np.resize([2.0**-60, -(2.0**-60), np.nextafter(np.float32(2.0**-60), 0), -1e-45, 0.0, -0.0], n),
    ],
    ids=["equal", "signed zeros", "one finite", "lowest", "both ends", "few near", "subnormal", "around 2^-60"],
)
@pytest.mark.parametrize("temperature", [0.0, 2.0**-40, 1.0])
def test_awkward_logits(make: Callable[[int], np.ndarray], temperature: float):
    """Ties, masks, extremes and the values that count as zero, hard and (but for temperature 0) soft."""
    wanted = OUTPUTS if temperature else ("index", "one_hot")
    rows = [Row(make(n).astype(np.float32), n, temperature=temperature, draws=2) for n in LENGTHS]
    draw(*(Row(row.logits, row.seed, draws=2, temperature=temperature, wanted=wanted) for row in rows))
    draw(*(Row(row.logits, row.seed, draws=2, temperature=temperature, wanted=("index",)) for row in rows))


def test_the_last_draws_a_request_can_have():
    """Draw numbers up to 2^32 - 1."""
    draw(*(Row(normal(n), n, row=2**32 - 1, first_draw=2**32 - 3, draws=3) for n in LENGTHS))


def test_the_longest_row():
    """2^22 categories, hard from the tail: uniform logits leave everything to the noise."""
    draw(Row(np.zeros(1 << 22, np.float32), 5), Row(np.zeros(1 << 22, np.float32), 5, wanted=("index",)))


def test_every_float16_is_upcast_exactly():
    """All finite ones and -inf, as the logits of one row; temperature 0 and a soft sample see them all."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves) | np.isneginf(halves)]
    draw(Row(halves, temperature=2.0**15), *(Row(halves[i : i + 100].copy(), i) for i in range(0, 31000, 100)))


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (np.nan, RowStatus.NAN),
        (-np.nan, RowStatus.NAN),
        (np.inf, RowStatus.POSITIVE_INFINITY),
        (-np.inf, RowStatus.NOTHING_FINITE),
    ],
)
@pytest.mark.parametrize("wanted", [("index",), ("soft",)])
@pytest.mark.parametrize("logits_type", LogitsType, ids=lambda kind: kind.name)
def test_a_row_that_cannot_be_drawn_disturbs_no_other(
    bad: float, status: RowStatus, wanted: tuple[str, ...], logits_type: LogitsType
):
    """Wherever the value stands, the row gets its status and its neighbours their draws."""
    rows = []
    for n in LENGTHS:
        for place in {0, n // 2, n - 1}:
            values = np.full(n, bad) if status is RowStatus.NOTHING_FINITE else normal(n)
            values[place] = bad
            rows += [Row(normal(n), n, wanted=wanted), Row(stored(values, logits_type), n, wanted=wanted)]
    assert {row.status for row in rows} == {RowStatus.OK, status}
    draw(*rows)


def test_rows_of_a_table_may_come_in_any_order():
    """The same rows, shuffled, get the same draws."""
    random = np.random.default_rng(3)
    rows = list(random_rows(random, 100_000, longest=5000))
    for _ in range(3):
        random.shuffle(rows)
        draw(*rows)


def test_a_table_may_be_drawn_by_several_threads():
    """Slices of one table, all at once."""
    table = Table(list(random_rows(np.random.default_rng(4), 300_000, longest=20_000)))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(sample_rows, np.array_split(table.records, 16)))
    assert table.mismatches() == []


def test_an_empty_table_is_drawn_at_once():
    """No rows, no work."""
    sample_rows(Table([]).records)
