"""Every parameter and output of the CPU kernels against the NumPy contract, bit for bit."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from gumball import reference
from gumball._codec import SampleRequest
from gumball.parameter_vectors import PARAMETER_VECTORS, ParameterVector
from gumball_server.domain import Parameters, Source
from gumball_server.kernels.cpu import sample_rows
from gumball_server.kernels.table import LogitsType, RowStatus
from gumball_server.validation import sample_request
from gumball_server.worker import Worker
from kernel_rows import ALL_OUTPUTS, NEED_NOISE, Row, Table, random_parameters, random_rows, stored

LENGTHS = [1, 2, 7, 8, 63, 64, 65, 127, 129, 1000, 1025, 4100]
EVERYTHING = tuple(name for name in ALL_OUTPUTS if name != "one_hot")
DISTRIBUTION = ("index", "log_prob", "probs", "entropy", "top_index", "top_log_prob")


def normal(n: int, seed: int = 0, scale: float = 2) -> np.ndarray:
    return (scale * np.random.default_rng([seed, n]).standard_normal(n)).astype(np.float32)


def draw(*rows: Row) -> Table:
    """The rows, drawn in one table, with the outputs as the contract has them."""
    table = Table(rows)
    sample_rows(table.records)
    assert table.mismatches() == []
    return table


def full(logits: np.ndarray, **parameters) -> Row:
    """A row that wants every output there is beside one_hot."""
    parameters = {"wanted": EVERYTHING, "draws": 2, "top": min(3, logits.size), "seed": logits.size} | parameters
    return Row(logits.astype(np.float32) if logits.dtype == np.float64 else logits, **parameters)


@pytest.mark.parametrize("vector", PARAMETER_VECTORS, ids=lambda vector: vector.name)
def test_published_vectors_come_out_bit_for_bit(vector: ParameterVector):
    """From the kernels by way of a request, and from the reference."""
    parameters = Parameters(outputs=vector.outputs, **vector.parameters)
    (drawn,) = Worker(sample_rows, 1).run([sample_request(vector.values, parameters, Source(vector.source))])
    assert vector.agrees({output.value: array for output, array in drawn.items()})
    defaults = {"mode": "hard", "tau": 1.0, "temperature": 1.0, "seed": None, "seeds": None, "first_row": 0}
    defaults |= {"draws": 1, "first_draw": 0, "logits": None, "outputs": vector.outputs, vector.source: vector.values}
    assert vector.agrees(reference.answer(SampleRequest.of(**(defaults | vector.parameters))))


@pytest.mark.parametrize(("longest", "categories"), [(60, 80_000), (3000, 1_200_000), (1 << 18, 3_000_000)])
def test_random_rows_with_any_parameters_equal_the_contract(longest: int, categories: int):
    """Every kind of row, good and bad, every type, all parameters and outputs in any combination, in one table."""
    draw(*random_rows(np.random.default_rng(longest), categories, longest, random_parameters))


@pytest.mark.parametrize("logits_type", LogitsType, ids=lambda kind: kind.name)
@pytest.mark.parametrize("output", ALL_OUTPUTS)
def test_every_output_alone(output: str, logits_type: LogitsType):
    """At every length where a kernel takes a turn, plain and filtered."""
    rows = [Row(stored(normal(n), logits_type), n, 4, 9, draws=3, wanted=(output,), top=(n + 1) // 2) for n in LENGTHS]
    draw(*rows, *(replace(row, top_p=0.9) for row in rows))


@pytest.mark.parametrize(
    "make",
    [
        lambda n: np.zeros(n),
        lambda n: np.where(np.arange(n) % 3, 0.0, 1.0),
        lambda n: np.where(np.arange(n) == n - 1, 3.0, -np.inf),
        lambda n: np.where(np.arange(n) % 2, -np.inf, 0.25),
        lambda n: np.where(np.arange(n) % 5, -200.0, 0.0),
        lambda n: -np.arange(n) % 97 / 8.0,
        lambda n: -1e-3 * np.arange(n),
        lambda n: np.where(np.arange(n) % 3, -3e38, 3e38),
        lambda n: np.resize([2.0**-60, -(2.0**-60), 1e-45, 0.0, -0.0], n),
        lambda n: np.where(np.arange(n) == n // 2, 0.0, -28.4 - np.arange(n) % 7 * 0.02),
    ],
    ids=[
        "equal",
        "two values",
        "one left",
        "half masked",
        "few near",
        "ties",
        "close",
        "ends",
        "tiny",
        "edge of weight",
    ],
)
@pytest.mark.parametrize("temperature", [2.0**-40, 0.3, 1.0, 2.0**40])
def test_filters_of_awkward_rows(make: Callable[[int], np.ndarray], temperature: float):
    """Every rank, share and probability at which such a row takes a turn."""
    rows = []
    for n in (1, 5, 64, 200, 1100):
        row = full(make(n), temperature=temperature, draws=1)
        rows += [replace(row, top_k=k) for k in sorted({1, 2, n // 2 + 1, max(n - 1, 1), n, n + 5})]
        rows += [replace(row, top_p=p) for p in (5e-324, 1 / n / 2, 0.25, 0.5, 0.75, 0.999, 1 - 2.0**-53, 1.0)]
        rows += [replace(row, min_p=p) for p in (1e-40, 2.0**-126, 1e-12, 0.1, float(np.exp(-0.125)), 1.0)]
        rows += [replace(row, top_k=max(n // 3, 1), top_p=0.7, min_p=0.2), replace(row, top=n)]
    draw(*rows)


def test_top_p_at_exact_boundaries():
    """Shares that the weights of equal categories reach to the last bit, and the neighbours of these shares."""
    shares = [k / 64 for k in range(1, 64)]
    near = [np.nextafter(share, side) for share in shares for side in (0, 1)]
    draw(*(full(np.zeros(64), top_p=float(share), draws=1) for share in shares + near))


def test_top_p_of_a_sum_above_2_to_53():
    """16384 equal categories weigh 2^54: the double of the sum rounds, and so may the share."""
    for n in (1 << 14, (1 << 14) + 1, 50_000):
        rows = [Row(np.zeros(n, np.float32), n, top_p=p, wanted=("entropy", "index", "log_prob")) for p in (0.1, 0.9)]
        draw(*rows, replace(rows[0], top_p=1 - 2.0**-53), replace(rows[0], top_p=1e-300))


@pytest.mark.parametrize("logits_type", LogitsType, ids=lambda kind: kind.name)
def test_probs(logits_type: LogitsType):
    """Zeros, both of them, subnormals and the smallest normal mask or weigh; sums are free."""
    kinds = [0.0, -0.0, 1e-45, 1.1754942e-38, 2.0**-126, 2.0**-20, 0.5, 1.0, 3e4]
    rows = [Row(stored(np.resize(kinds, n).astype(np.float32), logits_type), n, are_probs=True) for n in LENGTHS]
    draw(*(replace(row, wanted=EVERYTHING, top=1, draws=2) for row in rows))


def test_biases():
    """Added to any categories, of logits so small that they count as zero too; masking all leaves nothing."""
    for n in (1, 10, 130, 3000):
        tiny = np.resize([1e-19, -1e-19, 0.1, -0.1], n)
        masks = dict.fromkeys(range(n))
        some = {n - 1: float(np.float32(-0.1)), n // 2: float(np.float32(0.1)), 0: 1e-19}
        rows = [full(tiny, bias=some), full(normal(n), bias={n // 2: 50.0}, top_p=0.9), full(tiny, bias=masks)]
        masked_value = full(np.where(np.arange(n) == n // 2, np.nan, tiny), bias={n // 2: None, 0: 1.0})
        overflow = full(np.full(n, 3e38), bias={n - 1: 3e38})
        table = draw(*rows, masked_value, overflow)
        assert table.records["status"][2] == RowStatus.NOTHING_FINITE
        assert table.records["status"][4] == RowStatus.POSITIVE_INFINITY


@pytest.mark.parametrize("n", [1, 2, 10, 64, 129, 1000, 5000])
def test_without_replacement(n: int):
    """Any number of categories, up to all; one more than are left is refused."""
    ks = sorted({2, 3, n // 2, n - 1, n} & set(range(2, n + 1)))
    logits = np.where(np.arange(n) % 2, -np.inf, normal(n))
    rows = [full(normal(n), distinct=k) for k in ks]
    rows += [full(logits, distinct=k) for k in ks]
    rows += [full(normal(n), distinct=k, top_k=left) for k in ks for left in (k - 1, k)]
    table = draw(*rows)
    if ks:
        assert RowStatus.TOO_FEW in table.records["status"]


@pytest.mark.parametrize("n", [1, 10, 128, 129, 5000])
def test_temperature_zero_is_a_point_mass(n: int):
    """For every output that needs no noise, under any filters."""
    wanted = tuple(name for name in ALL_OUTPUTS if name not in NEED_NOISE)
    row = full(np.round(normal(n)), temperature=0.0, wanted=wanted, top=n)
    draw(row, replace(row, top_k=1, top_p=0.5, min_p=1.0), replace(row, bias={n - 1: 100.0}))
    if n > 1:
        (status,) = draw(replace(row, distinct=2, wanted=DISTRIBUTION)).records["status"]
        assert status == RowStatus.TOO_FEW


def test_the_longest_row():
    """2^22 categories, filtered."""
    draw(Row(normal(1 << 22), 5, top_p=0.9, wanted=("index", "log_prob", "top_index"), top=5))


@pytest.mark.parametrize(
    ("bad", "are_probs", "status"),
    [
        (np.nan, False, RowStatus.NAN),
        (-np.nan, True, RowStatus.NAN),
        (np.inf, False, RowStatus.POSITIVE_INFINITY),
        (np.inf, True, RowStatus.POSITIVE_INFINITY),
        (-1e-45, True, RowStatus.NEGATIVE),
        (-np.inf, True, RowStatus.NEGATIVE),
    ],
)
def test_a_row_that_cannot_be_drawn_disturbs_no_other(bad: float, are_probs: bool, status: RowStatus):
    """Wherever the value stands, the row gets its status and its neighbours their draws."""
    rows = []
    for n in LENGTHS:
        values = np.abs(normal(n))
        values[n // 2] = bad
        rows += [full(normal(n), top_p=0.9), full(values, are_probs=are_probs, top_p=0.9), full(normal(n), top_k=3)]
    assert {row.status for row in rows} == {RowStatus.OK, status}
    draw(*rows)


def test_a_table_may_be_drawn_by_several_threads():
    """Slices of one table, all at once."""
    table = Table(list(random_rows(np.random.default_rng(4), 400_000, 20_000, random_parameters)))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(sample_rows, np.array_split(table.records, 16)))
    assert table.mismatches() == []
