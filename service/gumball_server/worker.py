"""The worker: owns a device and draws whole batches on it."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from gumball.parameter_vectors import PARAMETER_VECTORS, ParameterVector
from gumball.vectors import VECTORS, Vector

from gumball_server.domain import (
    BFLOAT16,
    INTEGERS,
    LOGITS_DTYPES,
    PER_DRAW,
    PER_DRAW_AND_CATEGORY,
    Array,
    Mode,
    Output,
    Parameters,
    SampleRequest,
    SamplingError,
    Source,
    invalid,
)
from gumball_server.kernels.table import ROW, LogitsType, RowStatus
from gumball_server.validation import sample_request

# What a request has after it was drawn: its outputs, or why it has none.
Drawn = dict[Output, Array] | SamplingError

# Below this many elements, waking a second thread costs more than it saves.
SHARED_ELEMENTS = 1 << 18

_LOGITS_TYPES = dict(zip(LOGITS_DTYPES, LogitsType, strict=True))
_DTYPES = {output: np.int32 if output in INTEGERS else np.float32 for output in Output}
_WRONG_VALUES: dict[RowStatus, Callable[[Array], Array]] = {
    RowStatus.NAN: np.isnan,
    RowStatus.POSITIVE_INFINITY: np.isposinf,
    RowStatus.NEGATIVE: lambda values: values < 0,
}
_WRONG_WORDS = {RowStatus.NAN: "NaN", RowStatus.POSITIVE_INFINITY: "+inf", RowStatus.NEGATIVE: "negative"}


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
        """Draw every request; a request that cannot be drawn gets its error, alone."""
        outputs = [
            {output: np.empty(request.shape_of(output), _DTYPES[output]) for output in request.outputs}
            for request in requests
        ]
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
    published: list[Vector | ParameterVector] = [*VECTORS, *PARAMETER_VECTORS]
    requests = [*map(_request_of, VECTORS), *map(_request_of_parameters, PARAMETER_VECTORS)]
    for vector, drawn in zip(published, worker.run(requests), strict=True):
        if isinstance(drawn, SamplingError) or not _agrees(vector, drawn):
            raise RuntimeError(f"self-check: the kernels do not give the published bits of {vector.name!r}")


def _request_of(vector: Vector) -> SampleRequest:
    return sample_request(
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


def _request_of_parameters(vector: ParameterVector) -> SampleRequest:
    return sample_request(vector.values, Parameters(outputs=vector.outputs, **vector.parameters), Source(vector.source))


def _agrees(vector: Vector | ParameterVector, drawn: dict[Output, Array]) -> bool:
    if isinstance(vector, ParameterVector):
        return vector.agrees({output.value: array for output, array in drawn.items()})
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
    for output in Output:
        addresses = pieces[output.value]
        if output in PER_DRAW or output in PER_DRAW_AND_CATEGORY:
            width = pieces["distinct" if output in PER_DRAW else "categories"]
            addresses[addresses != 0] += (4 * skipped * width).astype(np.uint64)[addresses != 0]
        else:
            addresses[skipped > 0] = 0  # once a row is enough
    return pieces, origin


def shares(table: Array, count: int) -> list[Array]:
    """The table in up to `count` slices of about equal work."""
    done = np.cumsum(table["categories"] * table["draws"])
    cuts = np.searchsorted(done, done[-1] * np.arange(1, count) // count, side="left") + 1
    return [share for share in np.split(table, cuts) if share.size]


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
    bias = request.bias
    return (
        _address(request.logits),
        request.categories,
        _LOGITS_TYPES[request.logits.dtype],
        request.source is Source.PROBS,
        RowStatus.OK,
        0 if bias is None else bias.categories.size,
        0 if bias is None else _address(bias.categories),
        0 if bias is None else _address(bias.values),
        request.seed or 0,
        request.first_row,
        *(_scalar(request.first_draw), request.draws),
        *(_scalar(request.temperature), _scalar(request.tau)),
        *(_scalar(request.top_k), _scalar(request.top_p), _scalar(request.min_p)),
        request.without_replacement or 1,
        request.top_log_probs,
        *(address.get(output, 0) for output in Output),
    )


def _scalar(value: Any) -> Any:
    """A parameter of every row; what differs from row to row is written by `_spread`."""
    return 0 if isinstance(value, np.ndarray) else value


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
    for name in ("first_draw", "temperature", "tau", "top_k", "top_p", "min_p"):
        rows[name] = getattr(request, name)


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _judge(request: SampleRequest, outputs: dict[Output, Array], status: Array) -> Drawn:
    """The outputs of a request, or the error of its first row that could not be drawn from."""
    if not status.any():
        return outputs
    row = int((status != 0).argmax())
    found = RowStatus(int(status[row]))
    if found is RowStatus.TOO_FEW:
        return invalid("without_replacement", f"row {row} has fewer than {request.without_replacement} categories left")
    if found is RowStatus.NOTHING_FINITE:
        return invalid(f"{request.source}[{row}]", "no finite value" if request.bias is None else "nothing is left")
    wrong = np.flatnonzero(_WRONG_VALUES[found](_float32(request.logits[row])))
    if wrong.size:
        return invalid(f"{request.source}[{row}][{wrong[0]}]", _WRONG_WORDS[found])
    return invalid("logit_bias", f"makes a logit of row {row} infinite")


def _float32(logits: Array) -> Array:
    if logits.dtype == BFLOAT16:
        return (logits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return logits.astype(np.float32)
