"""What the forms share: logits out of bytes and numbers."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gumball_server.domain import BFLOAT16, Array, check_shape, invalid

LOGITS_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2"), "bfloat16": BFLOAT16}


def logits_from_bytes(data: bytes | memoryview, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """The logits in `data`, row-major little-endian, without a copy."""
    check_shape(shape)
    needed = math.prod(shape) * dtype.itemsize
    if len(data) != needed:
        raise invalid("logits", f"shape {list(shape)} needs {needed} bytes, there are {len(data)}")
    return np.frombuffer(data, dtype).reshape(shape)


def to_float32(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Float64 logits, each rounded to the nearest float32. Refuses a finite one that would become infinite."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
    if not np.isfinite(rounded).all() and (lost := np.isinf(rounded) & np.isfinite(values)).any():
        where = np.unravel_index(int(lost.argmax()), lost.shape)
        field = "logits" + "".join(f"[{i}]" for i in where)
        raise invalid(field, f"{values[where]} is beyond float32")
    return rounded
