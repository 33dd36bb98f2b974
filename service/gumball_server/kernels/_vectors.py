"""What LLVM's own vectoriser cannot make of a loop: maxima of floats, masks of comparisons, and the ends of short rows.

A loop with ``max`` of floats stays scalar without fastmath, for its order matters when NaN is about; here the order is
given. And a loop over ten numbers is two vectors, the second cut short, not a vector and two scalar steps.
"""

import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

TILE = 64  # categories

Vector = Any  # an LLVM value

_LANES = 8
_FLOAT, _I32 = ir.FloatType(), ir.IntType(32)
_FLOATS = ir.VectorType(_FLOAT, _LANES)
_INTS = ir.VectorType(_I32, _LANES)
_I64 = ir.IntType(64)


def element_address(context: Any, builder: Any, array_type: Any, array: Vector, index: Vector) -> Vector:
    """The address of an element of a contiguous array."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def _load_tile(context: Any, builder: Any, array_type: Any, array: Vector, first: Vector) -> list[Vector]:
    """64 float32 as eight vectors."""
    address = element_address(context, builder, array_type, array, first)
    vectors = builder.bitcast(address, _FLOATS.as_pointer())
    return [
        builder.load(builder.gep(vectors, [_I64(i)], source_etype=_FLOATS), typ=_FLOATS, align=4)
        for i in range(TILE // _LANES)
    ]


def _greater(builder: Any, a: Vector, b: Vector) -> Vector:
    """The greater of two, lane by lane; one instruction on most machines. b where either is NaN."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _any(builder: Any, lanes: Vector) -> Vector:
    """Whether any of eight booleans is true."""
    return builder.icmp_unsigned("!=", builder.bitcast(lanes, ir.IntType(8)), ir.IntType(8)(0))


def _ints(x: int) -> Vector:
    return ir.Constant(_INTS, [x] * _LANES)


def _floats(x: float) -> Vector:
    return ir.Constant(_FLOATS, [x] * _LANES)


def _splat(builder: Any, scalar: Vector) -> Vector:
    vector = builder.insert_element(ir.Constant(ir.VectorType(scalar.type, _LANES), ir.Undefined), scalar, _I32(0))
    return builder.shuffle_vector(vector, vector, _ints(0))


def _load_some(context: Any, builder: Any, array_type: Any, array: Vector, first: Vector, n: Vector) -> Vector:
    """Eight float32, those from the n-th on -inf and never touched in memory."""
    last = builder.trunc(builder.sub(n, first), _I32)
    mask = builder.icmp_signed("<", ir.Constant(_INTS, list(range(_LANES))), _splat(builder, last))
    address = builder.bitcast(element_address(context, builder, array_type, array, first), _FLOATS.as_pointer())
    function = ir.FunctionType(_FLOATS, [address.type, _I32, mask.type, _FLOATS])
    load = cgutils.get_or_insert_function(builder.module, function, "llvm.masked.load.v8f32.p0")
    return builder.call(load, [address, _I32(4), mask, ir.Constant(_FLOATS, [float("-inf")] * _LANES)])


def _images(builder: Any, values: Vector) -> Vector:
    """Integers that order as the floats do, a NaN of either sign above all else."""
    bits = builder.bitcast(values, _INTS)
    magnitude = builder.and_(builder.ashr(bits, _ints(31)), _ints(0x7FFFFFFF))
    images = builder.xor(bits, magnitude)
    negative_nan = builder.icmp_signed("<", images, _ints(-0x7F800001))
    return builder.select(negative_nan, _ints(0x7FC00000), images)


@intrinsic
def some_peak_image(typingctx, values, first, n):
    """Max of the ordered images of values[first : min(first + 8, n)] float32; that of a NaN if there is one."""

    def codegen(context, builder, signature, args):
        images = _images(builder, _load_some(context, builder, signature.args[0], *args))
        function = ir.FunctionType(_I32, [_INTS])
        reduce = cgutils.get_or_insert_function(builder.module, function, "llvm.vector.reduce.smax.v8i32")
        return builder.call(reduce, [images])

    return types.int32(values, types.intp, types.intp), codegen


@intrinsic
def some_equal(typingctx, values, first, n, x):
    """Bit i of a uint64 is set where values[first + i] == x, i < 8, first + i < n."""

    def codegen(context, builder, signature, args):
        values, first, n, x = args
        some = _load_some(context, builder, signature.args[0], values, first, n)
        equal = builder.fcmp_ordered("==", some, _splat(builder, x))
        return builder.zext(builder.bitcast(equal, ir.IntType(8)), _I64)

    return types.uint64(values, types.intp, types.intp, types.float32), codegen


@intrinsic
def shift_some(typingctx, values, first, n, peak, inv_temperature, out, offset):
    """out[offset : offset + 8] = shifted(values[first : first + 8]), anything from the n-th on."""

    def codegen(context, builder, signature, args):
        values, first, n, peak, inv_temperature, out, offset = args
        logits = _load_some(context, builder, signature.args[0], values, first, n)
        magnitude = builder.and_(builder.bitcast(logits, _INTS), _ints(0x7FFFFFFF))
        tiny = builder.icmp_signed("<", magnitude, _ints((127 - 60) << 23))
        logits = builder.select(tiny, ir.Constant(_FLOATS, [0.0] * _LANES), logits)
        below = builder.fmul(builder.fsub(logits, _splat(builder, peak)), _splat(builder, inv_temperature))
        address = element_address(context, builder, signature.args[5], out, offset)
        builder.store(below, builder.bitcast(address, _FLOATS.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(values, types.intp, types.intp, types.float32, types.float32, out, types.intp), codegen


@intrinsic
def tile_peak(typingctx, values, first):
    """Max of values[first : first + 64] float32; NaN if one of them is NaN."""

    def codegen(context, builder, signature, args):
        tile = _load_tile(context, builder, signature.args[0], *args)
        unordered = [builder.fcmp_unordered("uno", a, b) for a, b in zip(tile[::2], tile[1::2], strict=True)]
        peak = functools.reduce(functools.partial(_greater, builder), tile)
        for distance in (4, 2, 1):
            rotated = ir.Constant(_INTS, [(i + distance) % _LANES for i in range(_LANES)])
            peak = _greater(builder, peak, builder.shuffle_vector(peak, peak, rotated))
        is_nan = _any(builder, functools.reduce(builder.or_, unordered))
        return builder.select(is_nan, _FLOAT(float("nan")), builder.extract_element(peak, _I32(0)))

    return types.float32(values, types.intp), codegen


@intrinsic
def mask_at_least(typingctx, values, least):
    """Bit i of a uint64 is set where values[i] >= least, of 64 float32."""

    def codegen(context, builder, signature, args):
        values, least = args
        tile = _load_tile(context, builder, signature.args[0], values, _I64(0))
        lanes = _splat(builder, least)
        mask = _I64(0)
        for i, vector in enumerate(tile):
            bits = builder.zext(builder.bitcast(builder.fcmp_ordered(">=", vector, lanes), ir.IntType(8)), _I64)
            mask = builder.or_(mask, builder.shl(bits, _I64(_LANES * i)))
        return mask

    return types.uint64(values, types.float32), codegen


@intrinsic
def mask_below(typingctx, values, first, least):
    """values[first : first + 64] float32 that are less than `least` become -inf.

    By adding 0 or -inf: of a choice LLVM makes masked stores, which take ten times as long on some machines.
    """

    def codegen(context, builder, signature, args):
        values, first, least = args
        lanes, zero, masked = _splat(builder, least), _floats(0.0), _floats(float("-inf"))
        for i, vector in enumerate(_load_tile(context, builder, signature.args[0], values, first)):
            kept = builder.fadd(vector, builder.select(builder.fcmp_ordered(">=", vector, lanes), zero, masked))
            place = builder.add(first, _I64(_LANES * i))
            address = element_address(context, builder, signature.args[0], values, place)
            builder.store(kept, builder.bitcast(address, _FLOATS.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(values, types.intp, types.float32), codegen


@intrinsic
def lowest_set_bit(typingctx, mask):
    """The position of the lowest set bit of a uint64 that has one."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.int64(types.uint64), codegen


@intrinsic
def set_bits(typingctx, mask):
    """How many bits of a uint64 are set."""

    def codegen(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.int64(types.uint64), codegen
