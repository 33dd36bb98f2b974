"""The worker: owns a device and draws whole batches on it."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
    table = np.zeros(sum(request.rows for request in requests), ROW)
    start = 0
    for request, arrays in zip(requests, outputs, strict=True):
        _fill(table[start : start + request.rows], request, arrays)
        start += request.rows
    return table


def _fill(rows: Array, request: SampleRequest, outputs: dict[Output, Array]) -> None:
    """Write the records of a request; its arrays must outlive the table."""
    number = np.arange(request.rows, dtype=np.uint64)
    rows["logits"] = _address(request.logits) + number * request.logits.strides[0]
    rows["categories"] = request.categories
    rows["logits_type"] = _LOGITS_TYPES[request.logits.dtype]
    if request.seeds is None:
        rows["seed"] = request.seed
        rows["row"] = number + request.first_row
    else:
        rows["seed"] = request.seeds  # every row stands alone, as row 0
    rows["first_draw"] = request.first_draw
    rows["draws"] = request.draws
    rows["temperature"] = request.temperature
    rows["tau"] = request.tau
    for output, array in outputs.items():
        rows[output.value] = _address(array) + number * array.strides[0]


def _address(array: Array) -> np.uint64:
    return np.uint64(array.__array_interface__["data"][0])


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
