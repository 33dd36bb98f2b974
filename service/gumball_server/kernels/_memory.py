"""Arrays over the addresses of a row record, without copying and without owning."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

# No fastmath: LLVM may neither contract nor reassociate, so the bits are those of the contract.
COMPILED: dict[str, Any] = {"nogil": True, "error_model": "numpy", "boundscheck": False}
INLINED: dict[str, Any] = {**COMPILED, "forceinline": True}


@intrinsic
def _pointer(typingctx, address):  # type: ignore[no-untyped-def]
    """The pointer with a given integer value."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.uint64), codegen


@njit(**INLINED)
def float32_at(address, n):
    """[n] float32 at an address."""
    return carray(_pointer(address), (n,), np.float32)


@njit(**INLINED)
def int32_at(address, n):
    """[n] int32 at an address."""
    return carray(_pointer(address), (n,), np.int32)


@njit(**INLINED)
def uint16_at(address, n):
    """[n] uint16 at an address."""
    return carray(_pointer(address), (n,), np.uint16)
