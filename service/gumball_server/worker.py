"""The worker: owns a device and draws whole batches on it."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from gumball.vectors import VECTORS, Vector

from gumball_server.domain import (
    BFLOAT16,
    LOGITS_DTYPES,
    Array,
    Mode,
    Output,
    Parameters,
    SampleRequest,
    SamplingError,
    invalid,
    sample_request,
)
from gumball_server.kernels.table import ROW, LogitsType, RowStatus

# What a request has after it was drawn: its outputs, or why it has none.
Drawn = dict[Output, Array] | SamplingError

# Below this many elements, waking a second thread costs more than it saves.
SHARED_ELEMENTS = 1 << 18

_LOGITS_TYPES = dict(zip(LOGITS_DTYPES, LogitsType, strict=True))
_WRONG_VALUES = {
    RowStatus.NAN: "NaN",
    RowStatus.POSITIVE_INFINITY: "+inf",
    RowStatus.NOTHING_FINITE: "no finite value",
}


class Worker:
    """Draws batches on the CPU; may be called from several threads at once."""

    device = "cpu"

    def __init__(
        self, sample_rows: Callable[[Array], None], threads: int, shared_elements: int = SHARED_ELEMENTS
    ) -> None:
        self._sample_rows = sample_rows
        self._threads = threads
        self._shared_elements = shared_elements
        # The calling thread takes a share itself.
        self._pool = ThreadPoolExecutor(threads - 1, "gumball-share") if threads > 1 else None

    def run(self, requests: Sequence[SampleRequest]) -> list[Drawn]:
        """Draw every request; a request with logits that cannot be drawn from gets its error, alone."""
        outputs = [_empty_outputs(request) for request in requests]
        table = _table(requests, outputs)
        self._draw(table)
        if not table["status"].any():
            return list(outputs)
        ends = np.cumsum([request.rows for request in requests])
        statuses = np.split(table["status"], ends[:-1])
        return [_judge(*each) for each in zip(requests, outputs, statuses, strict=True)]

    def _draw(self, table: Array) -> None:
        elements = table["categories"] * table["draws"]
        if self._pool is None or int(elements.sum()) < self._shared_elements:
            self._sample_rows(table)
            return
        pieces, origin = cut_draws(table, int(elements.sum()) // self._threads)
        first, *others = shares(pieces, self._threads)
        running = [self._pool.submit(self._sample_rows, share) for share in others]
        self._sample_rows(first)
        for share in running:
            share.result()
        np.maximum.at(table["status"], origin, pieces["status"])

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()


def open_worker(cache: Path, threads: int) -> Worker:
    """A worker whose kernels are compiled and have given the published vectors. Takes seconds when not cached."""
    from gumball_server.kernels.cache import use_cache

    use_cache(cache)
    from gumball_server.kernels import cpu  # only now: the place of the cache is settled at import

    worker = Worker(cpu.sample_rows, threads)
    check(worker)
    return worker


def check(worker: Worker) -> None:
    """Draw the published vectors; raises RuntimeError if the worker gives any other bits."""
    requests = [
        sample_request(
            vector.logits,
            Parameters(
                mode=Mode.STRAIGHT_THROUGH,
                seed=vector.seed,
                first_row=vector.row,
                first_draw=vector.draw,
                tau=vector.tau,
                temperature=vector.temperature,
            ),
        )
        for vector in VECTORS
    ]
    for vector, drawn in zip(VECTORS, worker.run(requests), strict=True):
        if isinstance(drawn, SamplingError) or not _agrees(vector, drawn):
            raise RuntimeError(f"self-check: the kernels do not give the published bits of {vector.name!r}")


def _agrees(vector: Vector, drawn: dict[Output, Array]) -> bool:
    index, soft = drawn[Output.INDEX][0, 0], drawn[Output.SOFT][0, 0]
    return bool(index == vector.index) and vector.agrees("soft", soft)


def cut_draws(table: Array, limit: int) -> tuple[Array, Array]:
    """Rows cut by their draws into pieces of about `limit` elements at most, and the row each piece is of."""
    limits = np.maximum(limit // table["categories"], 1)  # [rows] draws of a piece
    counts = -(-table["draws"] // limits)  # [rows] pieces of a row
    origin = np.repeat(np.arange(table.size), counts)
    pieces = table[origin]
    skipped = (np.arange(origin.size) - (np.cumsum(counts) - counts)[origin]) * limits[origin]
    pieces["first_draw"] += skipped.astype(np.uint32)
    pieces["draws"] = np.minimum(pieces["draws"] - skipped, limits[origin])
    skipped_bytes = 4 * skipped.astype(np.uint64)
    for output, width in (("index", 1), ("one_hot", pieces["categories"]), ("soft", pieces["categories"])):
        wanted = pieces[output] != 0
        pieces[output] += np.where(wanted, skipped_bytes * np.asarray(width, np.uint64), np.uint64(0))
    return pieces, origin


def shares(table: Array, count: int) -> list[Array]:
    """The table in up to `count` slices of about equal work."""
    done = np.cumsum(table["categories"] * table["draws"])
    cuts = np.searchsorted(done, done[-1] * np.arange(1, count) // count, side="left") + 1
    return [share for share in np.split(table, cuts) if share.size]


def _empty_outputs(request: SampleRequest) -> dict[Output, Array]:
    sparse = (request.rows, request.draws)
    dense = (*sparse, request.categories)
    return {
        output: np.empty(sparse, np.int32) if output is Output.INDEX else np.empty(dense, np.float32)
        for output in request.outputs
    }


def _table(requests: Sequence[SampleRequest], outputs: Sequence[dict[Output, Array]]) -> Array:
    """The records of all rows of a batch. The arrays they point to must outlive it."""
    firsts = np.array([_first_record(*each) for each in zip(requests, outputs, strict=True)], ROW)
    if all(request.is_one_plain_row for request in requests):
        return firsts
    table = np.repeat(firsts, [request.rows for request in requests])
    start = 0
    for request, arrays in zip(requests, outputs, strict=True):
        _spread(table[start : start + request.rows], request, arrays)
        start += request.rows
    return table


def _first_record(request: SampleRequest, outputs: dict[Output, Array]) -> tuple[Any, ...]:
    """The record of row 0, in the order of ROW. A tuple: on small requests, NumPy would cost more than the draw."""
    address = {output: _address(array) for output, array in outputs.items()}
    return (
        _address(request.logits),
        request.categories,
        _LOGITS_TYPES[request.logits.dtype],
        RowStatus.OK,
        request.seed or 0,
        request.first_row,
        request.first_draw if isinstance(request.first_draw, int) else 0,
        request.draws,
        request.temperature if isinstance(request.temperature, float) else 0,
        request.tau if isinstance(request.tau, float) else 0,
        *(address.get(output, 0) for output in (Output.INDEX, Output.ONE_HOT, Output.SOFT)),
    )


def _spread(rows: Array, request: SampleRequest, outputs: dict[Output, Array]) -> None:
    """Turn copies of row 0 into the rows of a request."""
    number = np.arange(request.rows, dtype=np.uint64)
    rows["logits"] += number * request.logits.strides[0]
    for output, array in outputs.items():
        rows[output.value] += number * array.strides[0]
    if request.seeds is None:
        rows["row"] += number.astype(np.uint32)
    else:
        rows["seed"] = request.seeds  # every row stands alone, as row 0
    rows["first_draw"] = request.first_draw
    rows["temperature"] = request.temperature
    rows["tau"] = request.tau


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _judge(request: SampleRequest, outputs: dict[Output, Array], status: Array) -> Drawn:
    """The outputs of a request, or the error of its first row that could not be drawn from."""
    if not status.any():
        return outputs
    row = int((status != 0).argmax())
    found = RowStatus(int(status[row]))
    values = _float32(request.logits[row])
    if found is RowStatus.NOTHING_FINITE:
        return invalid(f"logits[{row}]", _WRONG_VALUES[found])
    wrong = np.isnan(values) if found is RowStatus.NAN else np.isposinf(values)
    return invalid(f"logits[{row}][{int(wrong.argmax())}]", _WRONG_VALUES[found])


def _float32(logits: Array) -> Array:
    if logits.dtype == BFLOAT16:
        return (logits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return logits.astype(np.float32)
