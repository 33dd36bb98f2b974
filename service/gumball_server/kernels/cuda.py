"""Draws rows on a CUDA device: gumball/1, bit for bit, with Triton kernels.

Rows of any length lie in one buffer and are drawn together: rows that take the same way form a `Group`, and a group
takes one launch of each kernel, however many rows it has and however long they are. Long rows are cut into slices,
one a program.

Weights, biases and filters are dealt with first, and leave plain float32 logits (``_triton_prepare``,
``_triton_filters``). Then there are two ways to draw: hard samples read their logits once and compute almost no noise
(``_triton_hard``); soft ones compute all of it (``_triton_dense``). The functions take tensors of any device, so that
Triton's interpreter can run them.

Not built: more than MOST_RANKED categories without replacement, or of top_log_probs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gumball_server.kernels import _triton_dense as dense
from gumball_server.kernels import _triton_filters as filters
from gumball_server.kernels import _triton_hard as hard
from gumball_server.kernels import _triton_peaks as peaks
from gumball_server.kernels import _triton_prepare as preparation
from gumball_server.kernels import _triton_probabilities as probabilities
from gumball_server.kernels import _triton_ranking as ranking
from gumball_server.kernels._triton_table import ALIGNMENT, FIELDS, TILE
from gumball_server.kernels.table import LogitsType

Tensor = torch.Tensor

RECORD = np.dtype([(name, np.int64) for name in FIELDS])
NOT_WANTED = -1

TORCH_DTYPES = {
    LogitsType.FLOAT32: torch.float32,
    LogitsType.FLOAT16: torch.float16,
    LogitsType.BFLOAT16: torch.bfloat16,
}
OPTIONS = {"enable_fp_fusion": False}  # of every launch: the contract rounds each operation on its own

# A slice of 16 tiles keeps 128 bytes of loads in flight in each of 128 threads: enough to fill the memory's pipes.
# Short rows get shorter slices, or most threads would look at what is not there; few sizes, as each is compiled.
MOST_TILES = 16
TILES_OF_A_SLICE = (1, 4, MOST_TILES)
SLICE_WARPS = 4
ROW_WARPS = 8  # of a program that works through a whole row
SAMPLE_WARPS = 1
# Each takes a pass over the row: beyond this, the CPU's selection is faster.
MOST_RANKED = 64

TILE_SIZE: int = TILE.value


def padded(categories: int) -> int:
    """Elements that a row takes in a buffer: whole blocks, so that it is read and written 16 bytes at a time."""
    return -(-categories // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, order=True)
class Way:
    """How rows are drawn: what the rows of a group have in common."""

    logits_type: LogitsType
    is_prepared: bool  # not logits as they came, but plain float32 logits made of them
    is_filtered: bool  # only where prepared
    is_dense: bool
    is_distinct: bool  # without replacement; only where dense
    has_probabilities: bool


@dataclass(frozen=True)
class Group:
    """Rows of one launch of each kernel."""

    way: Way
    table: npt.NDArray[Any]  # [rows] RECORD
    tiles: int  # of a slice
    slices: npt.NDArray[np.int32]  # [slices] the row of each; likewise:
    pieces: npt.NDArray[np.int32]  # a slice for one draw
    samples: npt.NDArray[np.int32]

    @property
    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """What the device needs of it."""
        return self.table.view(np.int64), self.slices, self.pieces, self.samples


def group(way: Way, table: npt.NDArray[Any], draws: npt.NDArray[np.int64]) -> Group:
    """The group of these rows, [rows] RECORD with `draws` [rows]; sets first_slice, first_piece and first_sample."""
    tiles = _tiles(int(table["categories"].max()))
    slices = -(-table["categories"] // (tiles * TILE_SIZE))
    owners = []
    for field, counts in (("first_slice", slices), ("first_piece", slices * draws), ("first_sample", draws)):
        table[field] = np.cumsum(counts) - counts
        owners.append(np.repeat(np.arange(table.size, dtype=np.int32), counts))
    return Group(way, table, tiles, *owners)


def _tiles(categories: int) -> int:
    """Tiles of a slice, for a group whose longest row has so many categories."""
    enough = (tiles for tiles in TILES_OF_A_SLICE if tiles * TILE_SIZE >= categories)
    return next(enough, MOST_TILES)


def prepare(group: Group, arrays: tuple[Tensor, ...], logits: Tensor, prepared: Tensor, output: Tensor) -> None:
    """Make plain logits of every row of a group.

    arrays: `group.arrays` on the device. logits: the buffer that came in, as the group's type.
    prepared: [elements] float32. output: [elements] int32, where a weight at fault sets the status of its row.
    """
    launches = _Launches(group, *arrays)
    launches.over_slices(preparation.upcast, logits, prepared, output)
    if group.table["biases"].any():
        launches.over_rows(preparation.add_bias, prepared, logits.view(torch.int32), logits.view(torch.float32))


def draw(group: Group, arrays: tuple[Tensor, ...], logits: Tensor, output: Tensor) -> None:
    """Draw every row of a group.

    arrays: `group.arrays` on the device. logits: the buffer that the records point into, of the group's type; masked
    in place where the group is filtered. output: [elements] int32, floats as their bits, its statuses 0. What is wanted
    of it is written, the rest left alone.
    """
    way, launches, floats = group.way, _Launches(group, *arrays), output.view(torch.float32)
    row_peaks = launches.scratch(launches.slices, torch.int32)
    if way.is_filtered or way.is_dense or way.has_probabilities:
        launches.over_slices(peaks.measure, logits, row_peaks)
    if way.is_filtered:
        _filter(launches, logits, row_peaks)
    if way.is_dense:
        is_soft = _wants(group, "soft") or _wants(group, "log_soft")
        _draw_dense(launches, logits, row_peaks, output, floats, is_distinct=way.is_distinct, is_soft=is_soft)
    else:
        _draw_hard(launches, logits, output, floats)
    if _wants(group, "one_hot"):
        launches.over_pieces(dense.mark, output, floats)
    if way.has_probabilities:
        _describe(launches, logits, row_peaks, output, floats)


def _wants(group: Group, output: str) -> bool:
    return bool((group.table[output] != NOT_WANTED).any())


class _Launches:
    """Launches kernels over the programs of a group."""

    def __init__(self, group: Group, table: Tensor, slices: Tensor, pieces: Tensor, samples: Tensor) -> None:
        self.rows, self.slices, self.pieces = group.table.size, slices.numel(), pieces.numel()
        self.tiles = group.tiles
        self._table, self._owners = table, (slices, pieces, samples)
        self._warps = min(SLICE_WARPS, group.tiles)  # of what looks at a slice

    def scratch(self, count: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(count, dtype=dtype, device=self._table.device)

    def over_rows(self, kernel: Any, *arguments: Tensor) -> None:
        self._launch(kernel, self.rows, arguments, ROW_WARPS)

    def over_slices(self, kernel: Any, *arguments: Tensor) -> None:
        self._launch(kernel, self.slices, (self._owners[0], *arguments), self._warps)

    def over_pieces(self, kernel: Any, *arguments: Tensor) -> None:
        self._launch(kernel, self.pieces, (self._owners[1], *arguments), self._warps)

    def over_samples(self, kernel: Any, *arguments: Tensor) -> None:
        samples = self._owners[2]
        self._launch(kernel, samples.numel(), (samples, *arguments), SAMPLE_WARPS)

    def over_long_samples(self, kernel: Any, *arguments: Tensor) -> None:
        samples = self._owners[2]
        self._launch(kernel, samples.numel(), (samples, *arguments), ROW_WARPS)

    def _launch(self, kernel: Any, programs: int, arguments: tuple[Tensor, ...], warps: int) -> None:
        kernel[(programs,)](self._table, *arguments, TILES=self.tiles, num_warps=warps, **OPTIONS)


def _draw_hard(launches: _Launches, logits: Tensor, integers: Tensor, floats: Tensor) -> None:
    peaks = launches.scratch(launches.pieces * launches.tiles, torch.int32)
    bounds = launches.scratch(launches.pieces * launches.tiles, torch.float32)
    launches.over_pieces(hard.sweep, logits, peaks, bounds)
    launches.over_samples(hard.settle, logits, peaks, bounds, integers, floats)


def _draw_dense(
    launches: _Launches,
    logits: Tensor,
    row_peaks: Tensor,
    integers: Tensor,
    floats: Tensor,
    *,
    is_distinct: bool,
    is_soft: bool,
) -> None:
    bests = launches.scratch(launches.pieces, torch.float32)
    winners = launches.scratch(launches.pieces, torch.int32)
    sums = launches.scratch(launches.pieces, torch.int64)
    launches.over_pieces(dense.score, logits, row_peaks, floats, bests, winners)
    if is_distinct:
        launches.over_long_samples(ranking.draw_distinct, row_peaks, integers, floats)
    else:
        launches.over_samples(dense.answer, row_peaks, bests, winners, integers, floats)
    if is_soft:
        launches.over_pieces(dense.weigh, floats, bests, sums)
        launches.over_pieces(dense.finish, floats, bests, sums)


def _filter(launches: _Launches, prepared: Tensor, row_peaks: Tensor) -> None:
    cuts = launches.scratch(launches.rows, torch.int64)
    launches.over_rows(filters.find_cut, prepared, row_peaks, cuts)
    launches.over_slices(filters.mask, prepared, row_peaks, cuts)


def _describe(launches: _Launches, logits: Tensor, row_peaks: Tensor, integers: Tensor, floats: Tensor) -> None:
    sums = launches.scratch(launches.slices, torch.int64)
    surprises = launches.scratch(launches.slices, torch.int64)
    launches.over_slices(probabilities.gauge, logits, row_peaks, sums, surprises)
    launches.over_slices(probabilities.describe, logits, row_peaks, sums, surprises, floats)
    launches.over_samples(probabilities.appraise, logits, row_peaks, sums, integers, floats)
    launches.over_rows(ranking.list_most_likely, logits, row_peaks, sums, integers, floats)
