"""Bytes at addresses, for kernels that read and write text.

Addresses are int64. Numba would count the references of an array in every function that is given it, with atomic
instructions, and that costs more than reading a number.
"""

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from gumball_server.kernels._memory import COMPILED, INLINED

_BIT, _BYTE, _WORD = ir.IntType(1), ir.IntType(8), ir.IntType(64)
_LANES = 32


def _load(builder, address, kind):
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


def _store(context, builder, args):
    address, value = args
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=1)
    return context.get_dummy_value()


@intrinsic
def byte_at(typingctx, address):
    """The byte at an address."""

    def codegen(context, builder, signature, args):
        return builder.zext(_load(builder, args[0], _BYTE), _WORD)

    return types.int64(types.int64), codegen


@intrinsic
def eight_bytes_at(typingctx, address):
    """The 64 bits at an address, the first byte the lowest."""

    def codegen(context, builder, signature, args):
        return _load(builder, args[0], _WORD)

    return types.uint64(types.int64), codegen


@intrinsic
def not_digits_at(typingctx, address):
    """Which of the 32 bytes at an address are no digits, the first byte the lowest bit."""

    def codegen(context, builder, signature, args):
        lanes = ir.VectorType(_BYTE, _LANES)
        values = builder.sub(_load(builder, args[0], lanes), lanes([ord("0")] * _LANES))
        others = builder.icmp_unsigned(">", values, lanes([9] * _LANES))
        return builder.zext(builder.bitcast(others, ir.IntType(_LANES)), _WORD)

    return types.uint64(types.int64), codegen


@intrinsic
def _put(typingctx, address, value):
    """Put a value at an address."""

    def codegen(context, builder, signature, args):
        return _store(context, builder, args)

    return types.void(types.int64, value), codegen


@njit(**INLINED)
def put_byte(address, byte):
    """Put a byte at an address."""
    _put(address, types.uint8(byte))


@njit(**INLINED)
def put_eight_bytes(address, word):
    """Put 64 bits at an address, the lowest byte first."""
    _put(address, types.uint64(word))


@njit(**INLINED)
def put_float32(address, number):
    """Put a float32 at an address."""
    _put(address, types.float32(number))


@intrinsic
def product(typingctx, a, b):
    """a * b as its high and low 64 bits."""

    def codegen(context, builder, signature, args):
        wide = ir.IntType(128)
        whole = builder.mul(*(builder.zext(factor, wide) for factor in args))
        halves = builder.trunc(builder.lshr(whole, wide(64)), _WORD), builder.trunc(whole, _WORD)
        return context.make_tuple(builder, signature.return_type, halves)

    return types.UniTuple(types.uint64, 2)(types.uint64, types.uint64), codegen


@intrinsic
def leading_zeros(typingctx, x):
    """Of 64 bits; 64 if they are all zero."""

    def codegen(context, builder, signature, args):
        return builder.ctlz(args[0], _BIT(0))

    return types.int64(types.uint64), codegen


@intrinsic
def trailing_zeros(typingctx, x):
    """Of 64 bits; 64 if they are all zero."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], _BIT(0))

    return types.int64(types.uint64), codegen


@intrinsic
def bits_of(typingctx, x):
    """The bits of a float32."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@intrinsic
def as_float64(typingctx, bits):
    """The float64 with these bits."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.uint64), codegen


@njit(**COMPILED)
def starts(i, end, word):
    """Whether a word, [n] uint8, starts at i."""
    if i + word.shape[0] > end:
        return False
    for k in range(word.shape[0]):  # noqa: SIM110 - Numba has no all() of a generator
        if byte_at(i + k) != word[k]:
            return False
    return True
