"""Where the values of an array start. NumPy takes longer to tell than a kernel to draw a short row."""

from typing import Any

from numba import njit, types

from gumball_server.kernels._memory import COMPILED
from gumball_server.kernels.cache import kept

_WRITABLE = [(types.float32, 1), (types.float32, 2), (types.float32, 3), (types.int32, 2), (types.int32, 3)]
_GIVEN = [(types.float32, 2), (types.uint16, 2)]
_SIGNATURES = [types.int64(types.Array(dtype, ndim, "C")) for dtype, ndim in (*_WRITABLE, (types.uint16, 2))]
_SIGNATURES += [types.int64(types.Array(dtype, ndim, "C", readonly=True)) for dtype, ndim in _GIVEN]


@njit(_SIGNATURES, cache=kept(), **COMPILED)
def _address(array: Any) -> Any:
    return array.ctypes.data


def address_of(array: Any) -> int:
    """The address of an array in C order, quickly for logits [rows, categories] and for outputs."""
    try:
        return _address(array)  # type: ignore[no-any-return]
    except TypeError:  # of another kind
        return int(array.__array_interface__["data"][0])
