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
def not_digits_at(typingctx, address):
    """Which of the 32 bytes at an address are no digits, the first byte the lowest bit."""

    def codegen(context, builder, signature, args):
        lanes = ir.VectorType(_BYTE, _LANES)
        values = builder.sub(_load(builder, args[0], lanes), lanes([ord("0")] * _LANES))
        others = builder.icmp_unsigned(">", values, lanes([9] * _LANES))
        return builder.zext(builder.bitcast(others, ir.IntType(_LANES)), _WORD)

    return types.uint64(types.int64), codegen


@intrinsic
def commas_at(typingctx, address):
    """Which of the 64 bytes at an address are commas, the first byte the lowest bit."""

    def codegen(context, builder, signature, args):
        lanes = ir.VectorType(_BYTE, 64)
        commas = builder.icmp_unsigned("==", _load(builder, args[0], lanes), lanes([ord(",")] * 64))
        return builder.bitcast(commas, _WORD)

    return types.uint64(types.int64), codegen


@intrinsic
def decimal_before(typingctx, end, before, after):
    """The number of at most 19 digits that ends at an address, so many of them before a point and so many behind it.

    The 33 bytes before the end must be there. Digits are moved over the point; neighbours are added up to numbers of 2,
    4 and 8 digits, all at once.
    """

    def codegen(context, builder, signature, args):
        end, before, after = args
        bytes_, index = ir.VectorType(_BYTE, _LANES), ir.VectorType(_BYTE, _LANES)(list(range(_LANES)))

        def from_lane(count):
            lane = builder.insert_element(
                bytes_(ir.Undefined), builder.trunc(builder.sub(_WORD(_LANES), count), _BYTE), _WORD(0)
            )
            first = builder.shuffle_vector(lane, lane, ir.Constant(ir.VectorType(ir.IntType(32), _LANES), [0] * _LANES))
            return builder.icmp_unsigned(">=", index, first)

        behind, all_ = from_lane(after), from_lane(builder.add(before, after))
        last = _load(builder, builder.sub(end, _WORD(_LANES)), bytes_)
        moved = _load(builder, builder.sub(end, _WORD(_LANES + 1)), bytes_)
        digits = builder.and_(builder.select(behind, last, moved), bytes_([0x0F] * _LANES))
        x = builder.select(all_, digits, bytes_([0] * _LANES))
        for bits, scale in ((16, 10), (32, 100), (64, 10_000)):
            kind = ir.VectorType(ir.IntType(bits), 8 * _LANES // bits)
            constant = lambda value: kind([value] * kind.count)  # noqa: E731, B023
            x = builder.bitcast(x, kind)
            high = builder.mul(builder.and_(x, constant((1 << bits // 2) - 1)), constant(scale))
            x = builder.add(high, builder.lshr(x, constant(bits // 2)))
        value = _WORD(0)
        for lane in (1, 2, 3):
            value = builder.add(builder.mul(value, _WORD(10**8)), builder.extract_element(x, _WORD(lane)))
        return value

    return types.uint64(types.int64, types.int64, types.int64), codegen


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
def as_bits(typingctx, x):
    """The bits of a float64."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], _WORD)

    return types.uint64(types.float64), codegen


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
