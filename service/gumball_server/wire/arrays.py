"""What the forms share: logits out of bytes and numbers."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gumball_server.domain import BFLOAT16, Array, invalid
from gumball_server.validation import check_shape

LOGITS_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2"), "bfloat16": BFLOAT16}


def from_bytes(field: str, data: bytes, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """The logits or probs in `data`, row-major little-endian, without a copy."""
    check_shape(field, shape)
    needed = math.prod(shape) * dtype.itemsize
    if len(data) != needed:
        raise invalid(field, f"shape {list(shape)} needs {needed} bytes, there are {len(data)}")
    return np.frombuffer(data, dtype).reshape(shape)


def to_float32(field: str, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Float64 logits or probs, each rounded to the nearest float32. Refuses a finite one that would become infinite."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
    if not np.isfinite(rounded).all() and (lost := np.isinf(rounded) & np.isfinite(values)).any():
        where = np.unravel_index(int(lost.argmax()), lost.shape)
        raise invalid(field + "".join(f"[{i}]" for i in where), f"{values[where]} is beyond float32")
    return rounded
