"""Draws the rows of a table on the CPU: gumball/1, bit for bit, at any mix of lengths and types.

Three ways, by what a row is: short rows are packed side by side (``_packed``), long rows that want a soft sample
compute all their noise (``_soft``), and long rows that want only the drawn category almost none of it (``_hard``).

The functions are compiled once, for one signature, when this module is imported; see ``cache`` for keeping the result.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import from_dtype, njit, types

from gumball_server.kernels._hard import TILE_SCRATCH, hard_row
from gumball_server.kernels._logits import tiles_of
from gumball_server.kernels._memory import COMPILED, stack
from gumball_server.kernels._packed import LONGEST, PACK_BYTES, add_row, draw_pack, empty_pack, row_at
from gumball_server.kernels._soft import soft_row
from gumball_server.kernels.cache import kept
from gumball_server.kernels.table import ROW

ROW_BYTES = ROW.itemsize


@njit(types.void(types.Array(from_dtype(ROW), 1, "C")), cache=kept(), **COMPILED)
def _sample_rows(table: Any) -> None:
    pack = empty_pack(stack(PACK_BYTES))
    scratch = np.empty(0, np.float32)  # for the tiles of long rows
    for i in range(table.shape[0]):
        address = np.uint64(table.ctypes.data) + np.uint64(ROW_BYTES * i)
        record = row_at(address)
        if record.categories <= LONGEST and record.temperature != 0.0:
            record.status = add_row(pack, address)
            continue
        needed = TILE_SCRATCH * tiles_of(record)
        if scratch.shape[0] < needed:
            scratch = np.empty(needed, np.float32)
        record.status = soft_row(record, scratch) if record.soft != 0 else hard_row(record, scratch)
    draw_pack(pack)


def sample_rows(table: npt.NDArray[np.void]) -> None:
    """Draw every row of a table, 1-D of dtype ROW and C-contiguous: outputs at their addresses, status in place.

    Releases the GIL, keeps no state and touches only the memory of its own rows, so a table may be cut and its pieces
    drawn on several threads at once.
    """
    _sample_rows(table)
