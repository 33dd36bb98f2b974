"""The entry for plain rows.

Short ones are packed side by side (``_packed``), long ones that want a soft sample compute all their noise (``_soft``),
and long ones that want only the drawn category almost none of it (``_hard``).
"""

from typing import Any

import numpy as np
from numba import njit, types

from gumball_server.kernels._hard import hard_row
from gumball_server.kernels._memory import COMPILED, ROW_BYTES, TABLE, stack
from gumball_server.kernels._packed import LONGEST, PACK_BYTES, add_row, draw_pack, empty_pack, row_at
from gumball_server.kernels._shaped import is_plain
from gumball_server.kernels._soft import soft_row
from gumball_server.kernels._work import WORK_BYTES, lay_out, work_at
from gumball_server.kernels.cache import kept


@njit(types.UniTuple(types.int64, 2)(TABLE), cache=kept(), **COMPILED)
def sample_plain_rows(table: Any) -> Any:
    """Draws the plain rows; returns how many others there are, and how many of the plain ones could not be drawn."""
    pack = empty_pack(stack(PACK_BYTES))
    work = work_at(stack(WORK_BYTES))
    block = np.empty(0, np.uint8)  # what the arrays of long rows lie in
    others = failed = 0
    for i in range(table.shape[0]):
        address = np.uint64(table.ctypes.data) + np.uint64(ROW_BYTES * i)
        record = row_at(address)
        if not is_plain(record):
            others += 1
            continue
        if record.categories <= LONGEST and record.temperature != 0.0:
            record.status = add_row(pack, address)
            failed += record.status != 0
            continue
        needed = lay_out(work, record, np.uint64(0), False)
        if block.shape[0] < needed:
            block = np.empty(needed, np.uint8)
        lay_out(work, record, np.uint64(block.ctypes.data), False)
        record.status = soft_row(record, work) if record.soft != 0 else hard_row(record, work)
        failed += record.status != 0
    draw_pack(pack)
    return others, failed
