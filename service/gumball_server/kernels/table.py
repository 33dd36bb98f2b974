"""The table a kernel works through: one record a row, everything it needs to draw it and where to put the draws.

A record holds addresses, so rows of any length, dtype and origin lie side by side in one table without being copied or
padded. Whoever builds a table keeps the arrays behind its addresses alive until the kernel has returned.
"""

from enum import IntEnum

import numpy as np


class LogitsType(IntEnum):
    """How the logits of a row are stored."""

    FLOAT32 = 0
    FLOAT16 = 1
    BFLOAT16 = 2


class RowStatus(IntEnum):
    """What a kernel found in the logits of a row; anything but OK leaves that row's outputs undefined."""

    OK = 0
    NAN = 1
    POSITIVE_INFINITY = 2
    NOTHING_FINITE = 3


ROW = np.dtype(
    [
        ("logits", np.uint64),  # address of [categories], C order, aligned to its type
        ("categories", np.int64),
        ("logits_type", np.int32),
        ("status", np.int32),  # out: RowStatus
        ("seed", np.uint64),
        ("row", np.uint32),
        ("first_draw", np.uint32),
        ("draws", np.int64),  # first_draw + draws <= 2^32
        ("temperature", np.float64),  # 0 (only without soft) or from 2^-40 to 2^40
        ("tau", np.float64),
        ("index", np.uint64),  # address of [draws] int32, or 0: not wanted
        ("one_hot", np.uint64),  # address of [draws, categories] float32, or 0
        ("soft", np.uint64),  # address of [draws, categories] float32, or 0
    ],
    align=True,
)
