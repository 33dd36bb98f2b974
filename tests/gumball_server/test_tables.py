"""Requests cut into tables, and tables cut for threads: every row and draw is drawn once, from its own numbers."""

import numpy as np
import pytest
from gumball_server.domain import Output, Parameters
from gumball_server.kernels import cpu
from gumball_server.tables import cut_draws, places_of, shares, tables
from gumball_server.validation import sample_request
from gumball_server.worker import Worker


def drawn(requests, max_rows: int) -> list[dict]:
    """Requests drawn by way of tables of at most `max_rows`."""
    outputs = [
        {o: np.empty(shape, np.int32 if o == "index" else np.float32) for o, shape in r.plan.layout.shapes.items()}
        for r in requests
    ]
    for table in tables(requests, [places_of(arrays) for arrays in outputs], max_rows):
        assert table.size <= max_rows
        cpu.sample_rows(table)
    return outputs


PER_ROW = {
    "tau": [0.5, 1.0, 2.0, 3.0, 4.0],
    "temperature": [1.0, 2.0, 0.5, 1.0, 3.0],
    "top_k": [1, 2, 3, 4, 5],
    "first_draw": [9, 8, 7, 6, 5],
}


@pytest.mark.parametrize(
    "parameters", [{"seed": 3, "first_row": 7}, {"seeds": [5, 4, 3, 2, 1]}, {"seed": 1, **PER_ROW}]
)
@pytest.mark.parametrize("max_rows", [1, 2, 3, 7])
def test_tables_of_any_size_hold_the_same_draws(parameters: dict, max_rows: int):
    """A request that is cut by its rows keeps their seeds, numbers and parameters."""
    logits = np.random.default_rng(1).standard_normal((5, 9)).astype(np.float32)
    given = Parameters(mode="straight_through", draws=2, **parameters)
    requests = [sample_request(logits, given), sample_request(logits[2], Parameters(seed=8, mode="soft"))]
    whole = Worker(cpu.sample_rows, threads=1).run(requests)
    for expected, got in zip(whole, drawn(requests, max_rows), strict=True):
        assert all(expected[output].tobytes() == got[output].tobytes() for output in expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint16])
@pytest.mark.parametrize("given", [{}, {"seeds": [3]}, {"mode": "straight_through", "draws": 3, "top_log_probs": 2}])
def test_requests_that_share_a_plan_are_drawn_as_each_alone(dtype, given: dict):
    """Those with seeds up to the largest, and one that cannot be drawn, which harms no neighbour."""
    logits = np.random.default_rng(2).standard_normal((9, 1, 7)).astype(np.float32)
    logits = (logits.view(np.uint32) >> 16).astype(dtype) if dtype is np.uint16 else logits.astype(dtype)
    logits[4, 0, 2] = 0x7FC0 if dtype is np.uint16 else np.nan
    first = sample_request(logits[0], Parameters(seed=None if "seeds" in given else 0, **given))
    seeds = [None] * 9 if "seeds" in given else [0, 1, 2**63, 2**64 - 1, 7, 7, 2**53, 5, 2**32]
    requests = [first._replace(logits=row, seed=seed) for row, seed in zip(logits, seeds, strict=True)]
    worker = Worker(cpu.sample_rows, threads=1)
    together, alone = worker.run(requests), [worker.run([request])[0] for request in requests]
    assert str(together[4]) == str(alone[4]) == "logits[0][2]: NaN"
    for number in (0, 1, 2, 3, 5, 6, 7, 8):
        assert list(together[number]) == list(alone[number])
        for output, expected in alone[number].items():
            assert together[number][output].shape == expected.shape
            assert together[number][output].tobytes() == expected.tobytes()


@pytest.mark.parametrize("limit", [1, 100, 1000, 10**9])
def test_a_row_is_cut_by_its_draws(limit: int):
    """The pieces together have all its draws, in order, and what is one a row is written once."""
    outputs = ["index", "soft", "entropy"]
    request = sample_request(np.zeros((2, 10), np.float32), Parameters(seed=1, draws=33, outputs=outputs))
    arrays = {o: np.zeros(shape, np.float32) for o, shape in request.plan.layout.shapes.items()}
    (table,) = tables([request], [places_of(arrays)])
    pieces, origin = cut_draws(table, limit)
    for row in range(2):
        mine = pieces[origin == row]
        assert mine["draws"].sum() == 33
        assert mine["first_draw"].tolist() == [0, *np.cumsum(mine["draws"])[:-1].tolist()]
        skipped = mine["first_draw"].astype(np.uint64)
        assert (mine["index"] == table["index"][row] + 4 * skipped).all()
        assert (mine["soft"] == table["soft"][row] + 40 * skipped).all()
        assert mine["entropy"].tolist() == [table["entropy"][row]] + [0] * (mine.size - 1)


def test_threads_get_about_the_same_work():
    """Whatever the rows' lengths are, in order and without a gap."""
    lengths = [1, 1000, 3, 500, 400, 7, 90]
    requests = [sample_request(np.zeros(k, np.float32), Parameters(seed=1)) for k in lengths]
    (table,) = tables(requests, [[0] * len(Output)] * len(requests))
    parts = shares(table, 3)
    assert np.concatenate(parts)["categories"].tolist() == lengths
    assert max(part["categories"].sum() for part in parts) <= sum(lengths) / 3 + max(lengths)
