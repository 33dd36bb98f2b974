"""The table a kernel works through: one record a row, everything it needs to draw it and where to put the draws.

A record holds addresses, so rows of any length, dtype and origin lie side by side in one table without being copied or
padded. Whoever builds a table keeps the arrays behind its addresses alive until the kernel has returned.
"""

import struct
from enum import IntEnum

import numpy as np


class LogitsType(IntEnum):
    """How the logits of a row are stored."""

    FLOAT32 = 0
    FLOAT16 = 1
    BFLOAT16 = 2


class RowStatus(IntEnum):
    """What a kernel found in the logits of a row; anything but OK leaves that row's outputs undefined.

    The larger goes before: of a row with several faults, every device says the same.
    """

    OK = 0
    TOO_FEW = 1  # categories left to draw `distinct` of
    NOTHING_FINITE = 2  # nothing that is not masked
    POSITIVE_INFINITY = 3  # after the bias
    NEGATIVE = 4  # of probs
    NAN = 5


ROW = np.dtype(
    [
        # What differs from request to request:
        ("logits", np.uint64),  # address of [categories], C order, aligned to its type
        ("seed", np.uint64),
        # Outputs: addresses, or 0 for what is not wanted. With n draws and k = distinct:
        ("index", np.uint64),  # [n, k] int32
        ("one_hot", np.uint64),  # [n, categories] float32
        ("soft", np.uint64),  # [n, categories] float32
        ("log_soft", np.uint64),  # [n, categories] float32
        ("score", np.uint64),  # [n, k] float32
        ("log_prob", np.uint64),  # [n, k] float32
        ("probs", np.uint64),  # [categories] float32
        ("entropy", np.uint64),  # one float32
        ("top_index", np.uint64),  # [top] int32
        ("top_log_prob", np.uint64),  # [top] float32
        # What many have in common, and the status:
        ("categories", np.int64),
        ("logits_type", np.int32),
        ("are_probs", np.int32),  # 1: take their logarithms first
        ("status", np.int32),  # out: RowStatus
        ("biases", np.int32),  # number of categories with a bias
        ("biased", np.uint64),  # address of [biases] uint32: the categories, each once
        ("bias", np.uint64),  # address of [biases] float32: what is added to their logits; -inf masks
        ("row", np.uint32),
        ("first_draw", np.uint32),
        ("draws", np.int64),  # first_draw + draws <= 2^32
        ("temperature", np.float64),  # 0 (only without soft) or from 2^-40 to 2^40
        ("tau", np.float64),
        ("top_k", np.int64),  # from 1; categories: off
        ("top_p", np.float64),  # above 0; 1: off
        ("min_p", np.float64),  # 0: off
        ("distinct", np.int64),  # categories a draw, without replacement; at least 1
        ("top", np.int64),  # n of the top_ outputs
    ],
    align=True,
)

# Write the two parts of a record from their values, in a tenth of the time that NumPy takes.
_CHARS = [ROW[name].char for name in ROW.names or ()]
_FIRST = (ROW.names or ()).index("categories")
PACK_OWN, PACK_COMMON = struct.Struct("@" + "".join(_CHARS[:_FIRST])), struct.Struct("@" + "".join(_CHARS[_FIRST:]))
if PACK_OWN.size + PACK_COMMON.size != ROW.itemsize:
    raise AssertionError("struct and NumPy must lay a record out alike")
