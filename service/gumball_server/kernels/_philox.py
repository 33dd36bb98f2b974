"""Philox4x32-10 (Salmon et al. 2011), four blocks at a time, as LLVM vectors.

A word of the counter is a vector of four 64-bit lanes, one a block, of which only the low 32 bits mean anything: the
product of two 32-bit numbers is then one instruction on four lanes (vpmuludq, umull), and the high bits, which hold
garbage between rounds, never need to be masked. Written as vectors because LLVM's vectoriser, given the same loop,
spends a third of its instructions on taking words apart and putting them together.

The vectors are LLVM's, so they run wherever LLVM does; a machine with narrower registers takes two for one.
"""

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from gumball_server.kernels._memory import COMPILED, INLINED, SPLICED
from gumball_server.kernels._vectors import TILE, Vector, element_address

COARSE, FINE, TAIL = 0, 1, 2  # the streams

BLOCKS = TILE // 8  # what the functions here make in one go, in two vectors

_M0, _M1, _W0, _W1 = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_LANES = 4

_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_LANE64 = ir.VectorType(_I64, _LANES)
_LANE32 = ir.VectorType(_I32, 2 * _LANES)
_LANE16 = ir.VectorType(_I16, 4 * _LANES)


def _constant(x: int) -> Vector:
    return ir.Constant(_LANE64, [x] * _LANES)


def _shuffle(builder: Any, a: Vector, b: Vector, lanes: list[int]) -> Vector:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(lanes)), lanes))


def _splat(builder: Any, scalar: Vector) -> Vector:
    vector = builder.insert_element(ir.Constant(_LANE64, ir.Undefined), scalar, _I32(0))
    return _shuffle(builder, vector, vector, [0] * _LANES)


def _philox(builder: Any, counters: list[list[Vector]], keys: list[list[Vector]]) -> list[tuple[Vector, Vector]]:
    """The words of four blocks a counter: lanes of (x1 low, x0 high) and of (x3 low, x2 high).

    A round is (c0, c1, c2, c3) <- (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0)). The counters go
    through the rounds in step, so that their chains of dependent instructions overlap. The last round leaves the
    products whole: their low halves are x1 and x3, and x0 and x2 are their high halves after two more exclusive ors.
    """
    low, high = _constant(0xFFFFFFFF), _constant(32)
    states = [(*counter, *key) for counter, key in zip(counters, keys, strict=True)]
    for _ in range(_ROUNDS - 1):
        for i, (c0, c1, c2, c3, k0, k1) in enumerate(states):
            p0 = builder.mul(builder.and_(c0, low), _constant(_M0))
            p1 = builder.mul(builder.and_(c2, low), _constant(_M1))
            c0 = builder.xor(builder.lshr(p1, high), builder.xor(c1, k0))
            c2 = builder.xor(builder.lshr(p0, high), builder.xor(c3, k1))
            states[i] = c0, p1, c2, p0, builder.add(k0, _constant(_W0)), builder.add(k1, _constant(_W1))
    blocks = []
    for c0, c1, c2, c3, k0, k1 in states:
        p0 = builder.mul(builder.and_(c0, low), _constant(_M0))
        p1 = builder.mul(builder.and_(c2, low), _constant(_M1))
        x10 = builder.xor(p1, builder.shl(builder.xor(c1, k0), high))
        x32 = builder.xor(p0, builder.shl(builder.xor(c3, k1), high))
        blocks.append((x10, x32))
    return blocks


def _in_order(builder: Any, blocks: tuple[Vector, Vector]) -> list[Vector]:
    """Two vectors of 16 halfwords, in the order of the stream, of four blocks."""
    x10, x32 = (builder.bitcast(x, _LANE32) for x in blocks)
    halves = ([1, 0, 9, 8, 3, 2, 11, 10], [5, 4, 13, 12, 7, 6, 15, 14])
    return [builder.bitcast(_shuffle(builder, x10, x32, lanes), _LANE16) for lanes in halves]


def _minimum(builder: Any, a: Vector, b: Vector) -> Vector:
    return builder.select(builder.icmp_unsigned("<", a, b), a, b)


def _row_counters(builder: Any, block: Vector, draw: Vector, row: Vector) -> list[list[Vector]]:
    """Counters, but for the stream, of eight consecutive blocks of one row, in two vectors."""
    first, draw, row = (_splat(builder, x) for x in (block, draw, row))
    steps = [ir.Constant(_LANE64, list(range(i, i + _LANES))) for i in range(0, BLOCKS, _LANES)]
    return [[builder.add(first, step), draw, row] for step in steps]


def _row_key(builder: Any, seed: Vector) -> list[Vector]:
    return [_splat(builder, seed), _splat(builder, builder.lshr(seed, _I64(32)))]


def _row_blocks(builder: Any, args: list[Vector]) -> list[tuple[Vector, Vector]]:
    """The coarse words of eight consecutive blocks of one row."""
    *counter, seed = args
    counters = [[*words, _constant(COARSE)] for words in _row_counters(builder, *counter)]
    return _philox(builder, counters, [_row_key(builder, seed)] * len(counters))


@intrinsic
def _coarse_minimum(typingctx, block, draw, row, seed):
    def codegen(context, builder, signature, args):
        halves = [builder.bitcast(words, _LANE16) for pair in _row_blocks(builder, args) for words in pair]
        smallest = functools.reduce(functools.partial(_minimum, builder), halves)
        reduction = ir.FunctionType(_I16, [_LANE16])
        reduce = cgutils.get_or_insert_function(builder.module, reduction, "llvm.vector.reduce.umin.v16i16")
        return builder.call(reduce, [smallest])

    return types.uint16(types.uint64, types.uint64, types.uint64, types.uint64), codegen


@intrinsic
def _store_coarse(typingctx, block, draw, row, seed, out):
    def codegen(context, builder, signature, args):
        *counter_and_key, out = args
        halves = [x for four in _row_blocks(builder, counter_and_key) for x in _in_order(builder, four)]
        for i, vector in enumerate(halves):
            at = element_address(context, builder, signature.args[4], out, _I64(16 * i))
            builder.store(vector, builder.bitcast(at, _LANE16.as_pointer()), align=2)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.uint64, types.uint64, out), codegen


def _joined(builder: Any, counter: list[Vector], key: list[Vector]) -> list[Vector]:
    """Four vectors, one a block: coarse and fine halfwords joined to eight words of 32 bits, coarse high."""
    streams = [[*counter, _constant(COARSE)], [*counter, _constant(FINE)]]
    coarse, fine = (_in_order(builder, blocks) for blocks in _philox(builder, streams, [key, key]))
    return [
        builder.bitcast(_shuffle(builder, b, a, [lane for j in half for lane in (j, 16 + j)]), _LANE32)
        for a, b in zip(coarse, fine, strict=True)
        for half in (range(8), range(8, 16))
    ]


@intrinsic
def _store_row_bits(typingctx, block, draw, row, seed, out, offset):
    def codegen(context, builder, signature, args):
        block, draw, row, seed, out, offset = args
        key = _row_key(builder, seed)
        joined = [x for counter in _row_counters(builder, block, draw, row) for x in _joined(builder, counter, key)]
        for i, vector in enumerate(joined):
            at = element_address(context, builder, signature.args[4], out, builder.add(offset, _I64(8 * i)))
            builder.store(vector, builder.bitcast(at, _LANE32.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.uint64, types.uint64, types.uint64, types.uint64, out, types.intp), codegen


@intrinsic
def _store_lane_bits(typingctx, block, draw, row, seed, start, first, out):
    def codegen(context, builder, signature, args):
        *columns, first, out = args
        kinds = signature.args

        def load(column: int, kind: Any, lane: int) -> Vector:
            at = element_address(context, builder, kinds[column], columns[column], builder.add(first, _I64(lane)))
            return builder.load(builder.bitcast(at, kind.as_pointer()), typ=kind, align=8)

        for lane in range(0, BLOCKS, _LANES):
            block, draw, row, seed = (load(column, _LANE64, lane) for column in range(4))
            key = [seed, builder.lshr(seed, _constant(32))]
            for i, vector in enumerate(_joined(builder, [block, draw, row], key)):
                at = element_address(context, builder, kinds[6], out, load(4, _I64, lane + i))
                builder.store(vector, builder.bitcast(at, _LANE32.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(block, draw, row, seed, start, types.intp, out), codegen


@njit(**SPLICED)
def coarse_minimum(tile, key):
    """The least coarse halfword of the 64 categories of a tile."""
    seed, row, draw = key
    return _coarse_minimum(np.uint64(BLOCKS) * np.uint64(tile), draw, row, seed)


@njit(**SPLICED)
def coarse_halfwords(tile, key, out):
    """out[:64] = the coarse halfwords of the categories of a tile."""
    seed, row, draw = key
    _store_coarse(np.uint64(BLOCKS) * np.uint64(tile), draw, row, seed, out)


@njit(**SPLICED)
def tile_bits(tile, key, out, offset):
    """out[offset : offset + 64] uint32 = the joined coarse and fine halfwords of the categories of a tile."""
    seed, row, draw = key
    _store_row_bits(np.uint64(BLOCKS) * np.uint64(tile), draw, row, seed, out, offset)


@njit(**SPLICED)
def lane_bits(lanes, first):
    """The same of blocks first to first + 8 of lanes, each of its own row: lanes.bits[start : start + 8] of each.

    In order: a later block overwrites what an earlier one wrote.
    """
    _store_lane_bits(lanes.block, lanes.draw, lanes.row, lanes.seed, lanes.start, first, lanes.bits)


@njit(**INLINED)
def _round(c0, c1, c2, c3, k0, k1):
    low, high = np.uint64(0xFFFFFFFF), np.uint64(32)
    p0, p1 = (c0 & low) * np.uint64(_M0), (c2 & low) * np.uint64(_M1)
    return (p1 >> high) ^ c1 ^ k0, p1, (p0 >> high) ^ c3 ^ k1, p0


@njit(**COMPILED)
def word(stream, k, key):
    """Word k of a stream, as a uint64: for the few categories that are looked at one by one."""
    c0, c1, c2, c3 = np.uint64(k >> 2), key[2], key[1], np.uint64(stream)
    k0, k1 = key[0], key[0] >> np.uint64(32)
    for _ in range(_ROUNDS):
        c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1)
        k0, k1 = k0 + np.uint64(_W0), k1 + np.uint64(_W1)
    lane = k & 3
    chosen = c0 if lane == 0 else (c1 if lane == 1 else (c2 if lane == 2 else c3))
    return chosen & np.uint64(0xFFFFFFFF)
