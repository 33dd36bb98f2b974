"""The worker: owns a device and draws whole batches on it."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
from gumball.parameter_vectors import PARAMETER_VECTORS, ParameterVector
from gumball.vectors import VECTORS, Vector

from gumball_server.domain import (
    BFLOAT16,
    INTEGERS,
    Array,
    Output,
    Parameters,
    Plan,
    SampleRequest,
    SamplingError,
    Source,
    invalid,
)
from gumball_server.kernels.table import RowStatus
from gumball_server.tables import cut_draws, places_of, shares, table_of_like, tables
from gumball_server.validation import sample_request

# What a request has after it was drawn: its outputs, or why it has none.
Drawn = dict[Output, Array] | SamplingError

# Below this many elements, the copies to a GPU and the launches cost more than drawing on the CPU.
WORTH_THE_WAY = 1 << 17
# Below this many elements, waking a second thread costs more than it saves.
SHARED_ELEMENTS = 1 << 18
# From so many requests on, with outputs of at most so many bytes, what they share is cheaper made once: Python's work
# for a request takes longer than drawing it.
MANY, SMALL_BYTES = 4, 1 << 12

DTYPES = {output: np.int32 if output in INTEGERS else np.float32 for output in Output}
_WRONG_VALUES: dict[RowStatus, Callable[[Array], Array]] = {
    RowStatus.NAN: np.isnan,
    RowStatus.POSITIVE_INFINITY: np.isposinf,
    RowStatus.NEGATIVE: lambda values: values < 0,
}
_WRONG_WORDS = {RowStatus.NAN: "NaN", RowStatus.POSITIVE_INFINITY: "+inf", RowStatus.NEGATIVE: "negative"}


class DeviceLostError(Exception):
    """A device does not draw any more, and will not in this process or over this link."""


class AnyWorker(Protocol):
    """What draws batches, on whatever device; may be called from several threads at once."""

    @property
    def device(self) -> str: ...

    def run(self, requests: Sequence[SampleRequest]) -> list[Drawn]:
        """Draw every request; a request that cannot be drawn gets its error, alone."""

    def close(self) -> None: ...


class DeviceWorker(AnyWorker, Protocol):
    """A worker for what can fail where the CPU goes on. Its `run` raises DeviceLostError when it has."""

    @property
    def at_once(self) -> int:
        """How many batches it draws at once, from as many threads; more would wait in it."""

    def watch(self, told: Callable[[bool], None]) -> None:
        """Call `told`, from any thread, when the device can compute, and whenever that changes."""


class Worker:
    """Draws batches on the CPU; may be called from several threads at once."""

    device = "cpu"

    def __init__(
        self, sample_rows: Callable[[Array], bool], threads: int, shared_elements: int = SHARED_ELEMENTS
    ) -> None:
        self._sample_rows = sample_rows
        self._threads = threads
        self._shared_elements = shared_elements
        # The calling thread takes a share itself; a pool without work has no threads.
        self._pool = ThreadPoolExecutor(max(1, threads - 1), "gumball-share")

    def run(self, requests: Sequence[SampleRequest]) -> list[Drawn]:
        """Draw every request; a request that cannot be drawn gets its error, alone."""
        plan = requests[0].plan
        if (
            len(requests) >= MANY
            and plan.rows == 1
            and plan.layout.result_bytes <= SMALL_BYTES
            and all(request.plan is plan for request in requests)
        ):
            return self._run_like(requests, plan)
        outputs = [
            {output: np.empty(shape, DTYPES[output]) for output, shape in request.plan.layout.shapes.items()}
            for request in requests
        ]
        draw = self._drawer(sum([request.plan.layout.elements for request in requests]))
        statuses, all_are_drawn = [], True
        for table in tables(requests, [*map(places_of, outputs)]):
            all_are_drawn &= draw(table)
            statuses.append(table["status"].copy())  # the table itself can go
        if all_are_drawn:
            return list(outputs)
        ends = np.cumsum([request.plan.rows for request in requests])
        status = np.split(np.concatenate(statuses), ends[:-1])
        return [judge(*each) for each in zip(requests, outputs, status, strict=True)]

    def _run_like(self, requests: Sequence[SampleRequest], plan: Plan) -> list[Drawn]:
        """The same for requests that share a plan of one row, as those of one client do: their outputs lie together."""
        shapes = plan.layout.shapes
        together = {output: np.empty((len(requests), *shape), DTYPES[output]) for output, shape in shapes.items()}
        table = table_of_like(requests, together)
        all_are_drawn = self._drawer(len(requests) * plan.layout.elements)(table)
        outputs = [dict(zip(shapes, arrays, strict=True)) for arrays in zip(*together.values(), strict=True)]
        if all_are_drawn:
            return list(outputs)
        status = table["status"].reshape(-1, 1)
        return [judge(*each) for each in zip(requests, outputs, status, strict=True)]

    def _drawer(self, elements: int) -> Callable[[Array], bool]:
        """What draws a batch of so many elements."""
        is_shared = self._threads > 1 and elements >= self._shared_elements
        return self._draw_shared if is_shared else self._sample_rows

    def _draw_shared(self, table: Array) -> bool:
        """Draw a table on several threads."""
        elements = table["categories"] * table["draws"]
        share = -(-int(elements.sum()) // self._threads)
        if elements.max() <= share:
            return self._share(table)
        pieces, origin = cut_draws(table, share)
        all_are_drawn = self._share(pieces)
        np.maximum.at(table["status"], origin, pieces["status"])
        return all_are_drawn

    def _share(self, table: Array) -> bool:
        """Draw a table on all threads."""
        first, *others = shares(table, self._threads)
        running = [self._pool.submit(self._sample_rows, rows) for rows in others]
        mine = self._sample_rows(first)
        return all([mine, *(rows.result() for rows in running)])

    def close(self) -> None:
        self._pool.shutdown()


def open_worker(cache: Path, threads: int) -> Worker:
    """A worker whose kernels are compiled and have given the published vectors. Takes seconds when not cached."""
    from gumball_server.kernels.cache import compiled_beside, use_cache

    with compiled_beside(cache, "gumball_server.kernels._shaped_rows"):
        use_cache(cache)  # before what is compiled is imported, and Numba asks where to keep it
        from gumball_server.kernels import (  # noqa: F401 - compiled on import
            _plain_rows,
            addresses,
            json_numbers,
            json_text,
            request_fields,
            stream_columns,
        )
    from gumball_server.kernels import cpu

    worker = Worker(cpu.sample_rows, threads)
    check(worker)
    return worker


def check(worker: AnyWorker) -> None:
    """Draw the published vectors; raises RuntimeError if the worker gives any other bits."""
    vectors: list[Vector | ParameterVector] = [*VECTORS, *PARAMETER_VECTORS]
    for vector, drawn in zip(vectors, worker.run([_request_of(vector) for vector in vectors]), strict=True):
        if isinstance(drawn, SamplingError) or not _agrees(vector, drawn):
            raise RuntimeError(f"self-check: the kernels do not give the published bits of {vector.name!r}")


def _request_of(vector: Vector | ParameterVector) -> SampleRequest:
    if isinstance(vector, ParameterVector):
        given = Parameters(outputs=vector.outputs, **vector.parameters)
        return sample_request(vector.values, given, Source(vector.source))
    return sample_request(vector.logits, Parameters(**vector.parameters))


def _agrees(vector: Vector | ParameterVector, drawn: dict[Output, Array]) -> bool:
    if isinstance(vector, ParameterVector):
        return vector.agrees({output.value: array for output, array in drawn.items()})
    index, soft = drawn[Output.INDEX][0, 0], drawn[Output.SOFT][0, 0]
    return bool(index == vector.index) and vector.agrees("soft", soft)


def judge(request: SampleRequest, outputs: dict[Output, Array], status: Array) -> Drawn:
    """The outputs of a request, or the error of its first row that could not be drawn from."""
    if not status.any():
        return outputs
    plan = request.plan
    row = int((status != 0).argmax())
    found = RowStatus(int(status[row]))
    if found is RowStatus.TOO_FEW:
        return invalid("without_replacement", f"row {row} has fewer than {plan.without_replacement} categories left")
    if found is RowStatus.NOTHING_FINITE:
        return invalid(f"{plan.source}[{row}]", "no finite value" if plan.bias is None else "nothing is left")
    wrong = np.flatnonzero(_WRONG_VALUES[found](_float32(request.logits[row])))
    if wrong.size:
        return invalid(f"{plan.source}[{row}][{wrong[0]}]", _WRONG_WORDS[found])
    return invalid("logit_bias", f"makes a logit of row {row} infinite")


def _float32(logits: Array) -> Array:
    if logits.dtype == BFLOAT16:
        return (logits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return logits.astype(np.float32)
