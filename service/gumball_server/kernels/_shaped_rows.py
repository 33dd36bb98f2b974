"""The entry for rows with filters, biases or outputs of their distribution."""

from typing import Any

import numpy as np
from numba import njit, types

from gumball_server.kernels._memory import COMPILED, ROW_BYTES, TABLE, stack
from gumball_server.kernels._packed import row_at
from gumball_server.kernels._shaped import is_plain, shaped_row
from gumball_server.kernels._work import WORK_BYTES, lay_out, work_at
from gumball_server.kernels.cache import kept


@njit(types.int64(TABLE), cache=kept(), **COMPILED)
def sample_shaped_rows(table: Any) -> Any:
    """Draws the rows that are not plain; returns how many of them could not be drawn."""
    work = work_at(stack(WORK_BYTES))
    block = np.empty(0, np.uint8)
    failed = 0
    for i in range(table.shape[0]):
        address = np.uint64(table.ctypes.data) + np.uint64(ROW_BYTES * i)
        record = row_at(address)
        if not is_plain(record):
            needed = lay_out(work, record, np.uint64(0), True)
            if block.shape[0] < needed:
                block = np.empty(needed, np.uint8)
            lay_out(work, record, np.uint64(block.ctypes.data), True)
            record.status = shaped_row(record, address, work)
            failed += record.status != 0
    return failed
