"""A batch as it travels to a CUDA device and back: in one buffer each way.

The buffer that goes in holds the logits, the biases, the table of rows and the lists of programs; the one that comes
back holds the status of every row and the outputs. Rows are padded to whole blocks, which kernels read and write at
once.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gumball_server.domain import PER_DRAW_AND_CATEGORY, TOP, Array, Output, Plan, SampleRequest, Source
from gumball_server.kernels import cuda
from gumball_server.kernels.table import LogitsType
from gumball_server.tables import LOGITS_TYPES
from gumball_server.worker import DTYPES, Drawn, judge

SECTION = 128  # bytes: sections of a buffer begin at its multiples

_DENSE = {Output.SOFT, Output.LOG_SOFT}
_PROBABILITIES = {Output.LOG_PROB, Output.PROBS, Output.ENTROPY, *TOP}
_OF_CATEGORIES = {*PER_DRAW_AND_CATEGORY, Output.PROBS}


class _Sections:
    """The layout of a buffer: arrays side by side."""

    def __init__(self) -> None:
        self.bytes = 0

    def place(self, size: int) -> int:
        """The first byte of a new section of `size` bytes."""
        start = self.bytes
        self.bytes = -(-(start + size) // SECTION) * SECTION
        return start


@dataclass(frozen=True)
class _Part:
    """Where a request lies in the buffers of a batch."""

    request: SampleRequest
    logits: int  # first byte, in the buffer that goes in; likewise:
    biased: int
    bias: int
    prepared: int | None  # first element of its prepared logits, if it has them
    status: int  # first element of 4 bytes, in the buffer that comes out; likewise:
    outputs: dict[Output, int]
    scores: int | None  # where a dense sample keeps its scores: the place of an output, or behind all that comes back

    @property
    def way(self) -> cuda.Way:
        """How it is drawn."""
        plan = self.request.plan
        is_prepared = self.prepared is not None
        return cuda.Way(
            logits_type=LogitsType.FLOAT32 if is_prepared else self.logits_type,
            is_prepared=is_prepared,
            is_filtered=_is_filtered(plan),
            is_dense=_is_dense(plan),
            is_distinct=plan.without_replacement is not None,
            has_probabilities=not _PROBABILITIES.isdisjoint(plan.outputs),
        )

    @property
    def preparation(self) -> cuda.Way:
        """How it is read, if it has to be prepared."""
        return cuda.Way(
            self.logits_type,
            is_prepared=False,
            is_filtered=False,
            is_dense=False,
            is_distinct=False,
            has_probabilities=False,
        )

    @property
    def logits_type(self) -> LogitsType:
        return LOGITS_TYPES[self.request.logits.dtype]

    def table(self, *, as_prepared: bool) -> npt.NDArray[Any]:
        """[rows] RECORD, but for what `cuda.group` sets; of the logits that came, or of those prepared from them."""
        request, plan = self.request, self.request.plan
        number = np.arange(plan.rows)
        table = np.zeros(plan.rows, cuda.RECORD)
        table["logits"] = self.logits // request.logits.itemsize + number * cuda.padded(plan.categories)
        if self.prepared is not None:
            table["prepared"] = self.prepared + number * cuda.padded(plan.categories)
        if as_prepared:
            table["logits"] = table["prepared"]
        table["categories"] = plan.categories
        self._set_key(table, number)
        self._set_parameters(table)
        table["status"] = self.status + number
        for output in Output:
            table[output.value] = self._places(output, number)
        if self.scores is not None:
            table["scores"] = self.scores + number * plan.draws * cuda.padded(plan.categories)
        return table

    def _set_key(self, table: npt.NDArray[Any], number: npt.NDArray[np.int64]) -> None:
        request, plan = self.request, self.request.plan
        if plan.seeds is None:
            table["seed"] = np.array(request.seed, np.uint64).view(np.int64)
            table["row"] = plan.first_row + number
        else:
            table["seed"] = plan.seeds.view(np.int64)
        table["first_draw"] = plan.first_draw

    def _set_parameters(self, table: npt.NDArray[Any]) -> None:
        plan = self.request.plan
        is_greedy = np.equal(plan.temperature, 0)  # the most likely category is all there is, whatever it is over
        table["inv_temperature"] = _bits_of_inverse(np.where(is_greedy, 1.0, plan.temperature))
        table["inv_tau"] = _bits_of_inverse(plan.tau)
        table["are_probs"] = plan.source is Source.PROBS
        if plan.bias is not None:
            table["biases"] = plan.bias.categories.size
            table["biased"], table["bias"] = self.biased // 4, self.bias // 4
        table["top_k"] = np.where(is_greedy, 1, plan.top_k)
        table["top_p"] = np.asarray(plan.top_p, np.float64).view(np.int64)
        table["distinct"] = plan.without_replacement or 1
        table["top"] = plan.top_log_probs
        table["min_p"] = np.asarray(plan.min_p, np.float64).astype(np.float32).view(np.int32)

    def _places(self, output: Output, number: npt.NDArray[np.int64]) -> Any:
        start = self.outputs.get(output)
        if start is None:
            return cuda.NOT_WANTED
        return start + number * _elements_of_row(output, self.request.plan)

    def fill(self, buffer: npt.NDArray[np.uint8]) -> None:
        """Copy the logits to their place, each row padded to whole blocks."""
        logits, plan = self.request.logits, self.request.plan
        rows, stride = plan.rows, cuda.padded(plan.categories)
        place = buffer[self.logits : self.logits + rows * stride * logits.itemsize]
        place.view(logits.dtype).reshape(rows, stride)[:, : plan.categories] = logits
        if bias := plan.bias:
            buffer[self.biased : self.biased + bias.categories.nbytes] = bias.categories.view(np.uint8)
            buffer[self.bias : self.bias + bias.values.nbytes] = bias.values.view(np.uint8)

    def drawn(self, buffer: npt.NDArray[np.int32]) -> Drawn:
        """The outputs of the request, copied out of the buffer that came back, or its error."""
        plan = self.request.plan
        outputs = {output: self._output(output, buffer) for output in plan.outputs}
        return judge(self.request, outputs, buffer[self.status : self.status + plan.rows])

    def _output(self, output: Output, buffer: npt.NDArray[np.int32]) -> Array:
        plan, start = self.request.plan, self.outputs[output]
        values = buffer[start : start + plan.rows * _elements_of_row(output, plan)]
        if output in _OF_CATEGORIES:  # without the padding
            values = values.reshape(-1, cuda.padded(plan.categories))[:, : plan.categories]
        return values.reshape(plan.layout.shapes[output]).view(DTYPES[output]).copy()


def _is_filtered(plan: Plan) -> bool:
    """Whether a row has a filter, or temperature 0, which leaves what a top_k of 1 leaves."""
    return bool(
        not np.all(plan.temperature)
        or np.any(np.less(plan.top_k, plan.categories))
        or np.any(np.less(plan.top_p, 1))
        or np.any(plan.min_p)
    )


def _elements_of_row(output: Output, plan: Plan) -> int:
    """Elements that an output takes for a row."""
    if output in _OF_CATEGORIES:
        return cuda.padded(plan.categories) * (1 if output is Output.PROBS else plan.draws)
    return math.prod(plan.shape_of(output)[1:])


def _bits_of_inverse(x: float | npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """The bits of float32 1/x, divided in float64."""
    return (1.0 / np.asarray(x, np.float64)).astype(np.float32).view(np.int32)


class Batch:
    """Requests laid out in the two buffers that travel, and in one of prepared logits that stays on the device."""

    def __init__(self, requests: Sequence[SampleRequest]) -> None:
        self._in, self._prepared, self._out = _Sections(), _Sections(), _Sections()
        self.rows = sum(request.plan.rows for request in requests)
        self._statuses = self._out.place(4 * self.rows) // 4  # together, to be cleared together
        outputs = [self._place_outputs(request.plan) for request in requests]
        self.returned_elements = self._out.bytes // 4  # what lies behind stays on the device
        self._parts = list(self._lay_out(requests, outputs))
        self._preparations = [
            self._placed(way, parts, as_prepared=False)
            for way, parts in _by(lambda part: part.preparation, (p for p in self._parts if p.prepared is not None))
        ]
        self._draws = [
            self._placed(way, parts, as_prepared=way.is_prepared) for way, parts in _by(lambda p: p.way, self._parts)
        ]

    @property
    def input_bytes(self) -> int:
        return self._in.bytes

    @property
    def prepared_elements(self) -> int:
        return self._prepared.bytes // 4

    @property
    def output_elements(self) -> int:
        return self._out.bytes // 4

    def _place_outputs(self, plan: Plan) -> dict[Output, int]:
        wanted = {Output.INDEX, *plan.outputs}  # the kernels always give the index
        return {output: self._place_output(output, plan) for output in wanted}

    def _place_output(self, output: Output, plan: Plan) -> int:
        return self._out.place(4 * plan.rows * _elements_of_row(output, plan)) // 4

    def _place_scores(self, plan: Plan, outputs: dict[Output, int]) -> int | None:
        if not _is_dense(plan):
            return None
        for output in (Output.SOFT, Output.LOG_SOFT):
            if output in outputs:
                return outputs[output]
        return self._place_output(Output.SOFT, plan)

    def _lay_out(self, requests: Sequence[SampleRequest], outputs: Sequence[dict[Output, int]]) -> Iterator[_Part]:
        row = 0
        for request, places in zip(requests, outputs, strict=True):
            plan = request.plan
            elements = plan.rows * cuda.padded(plan.categories)
            biases = 0 if plan.bias is None else plan.bias.categories.size
            is_plain = plan.source is Source.LOGITS and plan.bias is None and not _is_filtered(plan)
            yield _Part(
                request,
                logits=self._in.place(elements * request.logits.itemsize),
                biased=self._in.place(4 * biases),
                bias=self._in.place(4 * biases),
                prepared=None if is_plain else self._prepared.place(4 * elements) // 4,
                status=self._statuses + row,
                outputs=places,
                scores=self._place_scores(plan, places),
            )
            row += plan.rows

    def _placed(self, way: cuda.Way, parts: Sequence[_Part], *, as_prepared: bool) -> "_PlacedGroup":
        table = np.concatenate([part.table(as_prepared=as_prepared) for part in parts])
        draws = np.repeat([part.request.plan.draws for part in parts], [part.request.plan.rows for part in parts])
        group = cuda.group(way, table, draws)
        return _PlacedGroup(group, tuple(self._in.place(array.nbytes) for array in group.arrays))

    def fill(self, buffer: npt.NDArray[np.uint8]) -> None:
        """Write the buffer that goes in, [input_bytes]."""
        for part in self._parts:
            part.fill(buffer)
        for placed in (*self._preparations, *self._draws):
            placed.fill(buffer)

    def draw(self, buffer: torch.Tensor, prepared: torch.Tensor, output: torch.Tensor) -> None:
        """Launch what draws the batch, all on the device: what came in, and room for the rest."""
        output[self._statuses : self._statuses + self.rows].zero_()
        for placed in self._preparations:
            cuda.prepare(placed.group, placed.arrays(buffer), placed.logits(buffer), prepared, output)
        for placed in self._draws:
            logits = prepared if placed.group.way.is_prepared else placed.logits(buffer)
            cuda.draw(placed.group, placed.arrays(buffer), logits, output)

    def drawn(self, buffer: npt.NDArray[np.int32]) -> list[Drawn]:
        """The results, from the buffer that came back."""
        return [part.drawn(buffer) for part in self._parts]


def _by(key: Callable[[_Part], cuda.Way], parts: Iterable[_Part]) -> Iterator[tuple[cuda.Way, list[_Part]]]:
    """Parts by what they have in common."""
    for way, together in itertools.groupby(sorted(parts, key=key), key):
        yield way, list(together)


@dataclass(frozen=True)
class _PlacedGroup:
    """A group, and where its arrays lie in the buffer that goes in."""

    group: cuda.Group
    starts: tuple[int, ...]  # bytes

    def fill(self, buffer: npt.NDArray[np.uint8]) -> None:
        for array, start in zip(self.group.arrays, self.starts, strict=True):
            buffer[start : start + array.nbytes] = array.view(np.uint8)

    def arrays(self, buffer: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(
            buffer[start : start + array.nbytes].view(torch.int64 if array.dtype == np.int64 else torch.int32)
            for array, start in zip(self.group.arrays, self.starts, strict=True)
        )

    def logits(self, buffer: torch.Tensor) -> torch.Tensor:
        return buffer.view(cuda.TORCH_DTYPES[self.group.way.logits_type])


def _is_dense(plan: Plan) -> bool:
    """Whether it takes the noise of every category."""
    return plan.without_replacement is not None or not _DENSE.isdisjoint(plan.outputs)
