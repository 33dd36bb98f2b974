"""Arrays that own nothing: over the addresses of a row record, and over the stack.

Numba counts the references of an array it allocated, with atomic instructions, wherever a slice is made. On short rows
that costs more than the arithmetic; the arrays here have nothing to count.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, from_dtype, njit, types
from numba.extending import intrinsic

from gumball_server.kernels.table import ROW

# No fastmath: LLVM may neither contract nor reassociate, so the bits are those of the contract.
COMPILED: dict[str, Any] = {"nogil": True, "error_model": "numpy", "boundscheck": False}
INLINED: dict[str, Any] = {**COMPILED, "forceinline": True}
# For a function that is called in one place: it becomes part of its caller before LLVM sees either. Numba optimises all
# that a function calls anew with each of its callers, so every level of calls that is saved is compile time saved.
SPLICED: dict[str, Any] = {**COMPILED, "inline": "always"}

ROW_BYTES = ROW.itemsize
TABLE = types.Array(from_dtype(ROW), 1, "C")  # the type of a table


@intrinsic
def _pointer(typingctx, address):
    """The pointer with a given integer value."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.uint64), codegen


@intrinsic(prefer_literal=True)
def stack(typingctx, size):
    """The address of `size` bytes, a constant, aligned for vectors.

    They live until the function that calls this returns; for LLVM that holds after it inlined the function too, so no
    function may hand them to its caller.
    """

    def codegen(context, builder, signature, args):
        with builder.goto_entry_block():
            memory = builder.alloca(ir.ArrayType(ir.IntType(8), size.literal_value))
        memory.align = 64
        return builder.ptrtoint(memory, ir.IntType(64))

    return types.uint64(size), codegen


@njit(**INLINED)
def record_at(address, dtype):
    """The record of a structured dtype at an address."""
    return carray(_pointer(address), (1,), dtype)[0]


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


@njit(**INLINED)
def uint32_at(address, n):
    """[n] uint32 at an address."""
    return carray(_pointer(address), (n,), np.uint32)


@njit(**INLINED)
def int64_at(address, n):
    """[n] int64 at an address."""
    return carray(_pointer(address), (n,), np.int64)


@njit(**INLINED)
def uint64_at(address, n):
    """[n] uint64 at an address."""
    return carray(_pointer(address), (n,), np.uint64)


@njit(**INLINED)
def float64_at(address, n):
    """[n] float64 at an address."""
    return carray(_pointer(address), (n,), np.float64)
