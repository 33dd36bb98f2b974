"""Draws the rows of a table on the CPU: gumball/1, bit for bit, at any mix of lengths and types.

Four ways, by what a row is: short rows are packed side by side (``_packed``), long rows that want a soft sample compute
all their noise (``_soft``), and long rows that want only the drawn category almost none of it (``_hard``). A row with
filters, biases or outputs of its distribution is shaped first, and drawn from what that leaves (``_shaped``).

The functions are compiled once, for one signature, when this module is imported; see ``cache`` for keeping the result.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import from_dtype, njit, types

from gumball_server.kernels._hard import hard_row
from gumball_server.kernels._memory import COMPILED, stack
from gumball_server.kernels._packed import LONGEST, PACK_BYTES, add_row, draw_pack, empty_pack, row_at
from gumball_server.kernels._shaped import is_plain, shaped_row
from gumball_server.kernels._soft import soft_row
from gumball_server.kernels._work import WORK_BYTES, lay_out, work_at
from gumball_server.kernels.cache import kept
from gumball_server.kernels.table import ROW

ROW_BYTES = ROW.itemsize


_OF_A_TABLE = types.Array(from_dtype(ROW), 1, "C")


@njit(types.int64(_OF_A_TABLE), cache=kept(), **COMPILED)
def _sample_plain_rows(table: Any) -> Any:
    """Draws the plain rows; returns how many others there are."""
    pack = empty_pack(stack(PACK_BYTES))
    work = work_at(stack(WORK_BYTES))
    block = np.empty(0, np.uint8)  # what the arrays of long rows lie in
    others = 0
    for i in range(table.shape[0]):
        address = np.uint64(table.ctypes.data) + np.uint64(ROW_BYTES * i)
        record = row_at(address)
        if not is_plain(record):
            others += 1
            continue
        if record.categories <= LONGEST and record.temperature != 0.0:
            record.status = add_row(pack, address)
            continue
        needed = lay_out(work, record, np.uint64(0), False)
        if block.shape[0] < needed:
            block = np.empty(needed, np.uint8)
        lay_out(work, record, np.uint64(block.ctypes.data), False)
        record.status = soft_row(record, work) if record.soft != 0 else hard_row(record, work)
    draw_pack(pack)
    return others


# Apart from the others because Numba optimises all that a function calls together with it.
@njit(types.void(_OF_A_TABLE), cache=kept(), **COMPILED)
def _sample_shaped_rows(table: Any) -> None:
    """Draws the rows that are not plain."""
    work = work_at(stack(WORK_BYTES))
    block = np.empty(0, np.uint8)
    for i in range(table.shape[0]):
        address = np.uint64(table.ctypes.data) + np.uint64(ROW_BYTES * i)
        record = row_at(address)
        if not is_plain(record):
            needed = lay_out(work, record, np.uint64(0), True)
            if block.shape[0] < needed:
                block = np.empty(needed, np.uint8)
            lay_out(work, record, np.uint64(block.ctypes.data), True)
            record.status = shaped_row(record, address, work)


def sample_rows(table: npt.NDArray[np.void]) -> None:
    """Draw every row of a table, 1-D of dtype ROW and C-contiguous: outputs at their addresses, status in place.

    Releases the GIL, keeps no state and touches only the memory of its own rows, so a table may be cut and its pieces
    drawn on several threads at once.
    """
    if _sample_plain_rows(table):
        _sample_shaped_rows(table)
