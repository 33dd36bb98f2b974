"""Draws the rows of a table on the CPU: gumball/1, bit for bit, at any mix of lengths and types.

Rows are plain or shaped. Plain ones (``_plain_rows``) are drawn in one of three ways, by what they are; a row with
filters, biases or outputs of its distribution (``_shaped_rows``) is shaped first, and drawn from what that leaves.

What draws them is compiled when this module is imported, each for one signature; see ``cache`` for keeping the result.
"""

import numpy as np
import numpy.typing as npt

from gumball_server.kernels._plain_rows import sample_plain_rows
from gumball_server.kernels._shaped_rows import sample_shaped_rows


def sample_rows(table: npt.NDArray[np.void]) -> bool:
    """Draw every row of a table, 1-D of dtype ROW and C-contiguous: outputs at their addresses, status in place.

    Returns whether all could be drawn, so that nobody need look at each status to learn that there is nothing to see.
    Releases the GIL, keeps no state and touches only the memory of its own rows, so a table may be cut and its pieces
    drawn on several threads at once.
    """
    others, failed = sample_plain_rows(table)
    if others:
        failed += sample_shaped_rows(table)
    return not failed
