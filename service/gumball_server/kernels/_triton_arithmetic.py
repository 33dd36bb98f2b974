"""The equations of the contract `gumball/1` as Triton functions.

Read beside ``gumball.contract``, which says the same in NumPy. Everything is binary32, each operation rounded on its
own: kernels are launched with ``enable_fp_fusion=False``, and neither ``tl.exp``, ``tl.log`` nor a float32 division
is used, for what those give depends on the device. The one division there is, of doubles, is IEEE's.

Categories are held as pairs of tensors [., 4]: a Philox block feeds eight categories, and a thread that holds them
as two vectors of four reads 16 bytes of logits at a time and finds every random word it needs in its own registers.
"""

import triton
import triton.language as tl


def _constant(hexadecimal: str) -> tl.constexpr:
    return tl.constexpr(float.fromhex(hexadecimal))


_L0, _L1 = _constant("0x1.5556d8p-2"), _constant("-0x1.000382p-2")
_L2, _L3 = _constant("0x1.98d7f0p-3"), _constant("-0x1.53824cp-3")
_L4, _L5, _L6 = _constant("0x1.317470p-3"), _constant("-0x1.2432aap-3"), _constant("0x1.645de2p-4")
_E0, _E1, _E2 = _constant("0x1.fffffcp-2"), _constant("0x1.55548ap-3"), _constant("0x1.555916p-5")
_E3, _E4 = _constant("0x1.123fc6p-7"), _constant("0x1.6a1a6ep-10")
_LN2HI, _LN2LO, _LOG2E = _constant("0x1.63p-1"), _constant("-0x1.bd0106p-13"), _constant("0x1.715476p+0")
_TINY, _SCALE, _TAIL_SCALE = _constant("0x1p-60"), _constant("0x1p-32"), _constant("0x1p-47")
_TO_INTEGER = tl.constexpr(12582912.0)  # adding and subtracting it rounds a float32 to an integer
_GRID = tl.constexpr(6144.0)  # adding it rounds a double in [0, 1] to a multiple of 2^-40
_GRID_BITS, _GRID_STEP = tl.constexpr(0x40B8000000000000), _constant("0x1p-40")

_PHILOX_M0, _PHILOX_M1 = tl.constexpr(0xD2511F53), tl.constexpr(0xCD9E8D57)
_PHILOX_W0, _PHILOX_W1 = tl.constexpr(0x9E3779B9), tl.constexpr(0xBB67AE85)
COARSE, FINE, TAIL = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)

# Images: int32 that order as the floats do, with every NaN above all else.
LEAST_IMAGE = tl.constexpr(-0x7F800001)  # of -inf
INFINITY_IMAGE, NAN_IMAGE = tl.constexpr(0x7F800000), tl.constexpr(0x7FC00000)


@triton.jit
def bits_of(x):
    return x.to(tl.int32, bitcast=True)


@triton.jit
def float_of(bits):
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def ordered(bits):
    """An int32 that orders as the float32 of these bits does; its own inverse."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def image_of(x):
    return tl.where(x != x, NAN_IMAGE, ordered(bits_of(x)))


@triton.jit
def clean(x):
    """A logit as the contract sees it: magnitudes below 2^-60, and -0, are +0. Non-decreasing, so it may follow a
    max."""
    return tl.where(tl.abs(x) < _TINY, 0.0, x)


@triton.jit
def shifted(logit, peak, inv_temperature):
    """d: how far a logit lies below the largest of its row, over the temperature."""
    return (clean(logit) - peak) * inv_temperature


@triton.jit
def _log(f, e):
    """log((1 + f) 2^e), e a float."""
    z = f * f
    p = (_L4 + _L5 * f) + z * _L6
    p = (_L2 + _L3 * f) + z * p
    p = (_L0 + _L1 * f) + z * p
    y = (p * f) * z
    y = y + e * _LN2LO
    y = y - 0.5 * z
    return (f + y) + e * _LN2HI


@triton.jit
def _split(y):
    """(f, e) with y = (1 + f) 2^e, of a positive normal y."""
    bits = bits_of(y)
    e = (bits - 0x3F3504F3) >> 23
    return float_of(bits - (e << 23)) - 1.0, e


@triton.jit
def log32(y):
    """log(y) of a positive normal y."""
    f, e = _split(y)
    return _log(f, e.to(tl.float32))


@triton.jit
def exp32(t):
    """exp(t) of t <= 0, exactly 0 below -64."""
    u = tl.where(t < -64.0, -64.0, t)
    n = (u * _LOG2E + _TO_INTEGER) - _TO_INTEGER
    r = (u - n * _LN2HI) - n * _LN2LO
    z = r * r
    p = (_E2 + _E3 * r) + z * _E4
    p = (_E0 + _E1 * r) + z * p
    p = 1.0 + (r + z * p)
    w = float_of(bits_of(p) + (n.to(tl.int32) << 23))
    return tl.where(t < -64.0, 0.0, w)


@triton.jit
def on_grid(x):
    """A double in [0, 1] rounded to a multiple of 2^-40, as an integer: sums of them are exact in any order."""
    return (x + _GRID).to(tl.int64, bitcast=True) - _GRID_BITS


@triton.jit
def one_over(total):
    """What a weight is multiplied with, given the integer sum of all."""
    return (1.0 / (total.to(tl.float64) * _GRID_STEP)).to(tl.float32)


@triton.jit
def log_of_sum(total):
    """The logarithm of an integer sum of weights."""
    return log32((total.to(tl.float64) * _GRID_STEP).to(tl.float32))


@triton.jit
def gumbel(x, scale):
    """Standard Gumbel noise -log(-log(1 - v)), v = (x + 1/2) scale of the unsigned x, low bits of a small v kept."""
    upper = x < 0
    q = ((x ^ (x >> 31)).to(tl.float32) + 0.5) * scale
    f, e = _split(tl.where(upper, q, 1.0 - q))
    f = tl.where(upper | (e != 0), f, -q)
    return -log32(-_log(f, e.to(tl.float32)))


@triton.jit
def philox(block, draw, row, stream, k0, k1):
    """Philox4x32-10 of counter (block, draw, row, stream) and key (k0, k1), all uint32: four words of block's shape.

    A 64-bit product gives both halves in one instruction; tl.umulhi would take two.
    """
    c0, c1, c2, c3 = block, draw, row, tl.full((), stream, tl.uint32)
    for _ in tl.static_range(10):
        p0 = c0.to(tl.uint64) * _PHILOX_M0
        p1 = c2.to(tl.uint64) * _PHILOX_M1
        c0, c1 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0, p1.to(tl.uint32)
        c2, c3 = (p0 >> 32).to(tl.uint32) ^ c3 ^ k1, p0.to(tl.uint32)
        k0 = k0 + _PHILOX_W0
        k1 = k1 + _PHILOX_W1
    return c0, c1, c2, c3


@triton.jit
def halfword(first, second, lane):
    """Halfword `lane` [., 4] of two words [., 1], low half first, as int32 below 2^16."""
    word = tl.where(lane < 2, first, second)
    return tl.where(lane % 2 == 0, word & 0xFFFF, word >> 16).to(tl.int32)


@triton.jit
def least_halfword(x0, x1, x2, x3):
    """The least of the eight halfwords of four words [., 1]. Looking at [., 4] would take shared memory."""
    low = tl.minimum(tl.minimum(x0 & 0xFFFF, x1 & 0xFFFF), tl.minimum(x2 & 0xFFFF, x3 & 0xFFFF))
    high = tl.minimum(tl.minimum(x0 >> 16, x1 >> 16), tl.minimum(x2 >> 16, x3 >> 16))
    return tl.minimum(low, high).to(tl.int32)


@triton.jit
def _tail(block, lane, draw, row, k0, k1):
    """The 31 tail bits of categories 4 block + lane, [., 4] int32."""
    x0, x1, x2, x3 = philox(block, draw, row, TAIL, k0, k1)
    word = tl.where(lane < 2, tl.where(lane == 0, x0, x1), tl.where(lane == 2, x2, x3))
    return (word >> 1).to(tl.int32)


@triton.jit
def noise(block, lane, draw, row, k0, k1):
    """Gumbel noise of categories 8 block + lane and 8 block + 4 + lane: two [., 4] tensors of block [., 1]
    uint32."""
    a0, a1, a2, a3 = philox(block, draw, row, COARSE, k0, k1)
    b0, b1, b2, b3 = philox(block, draw, row, FINE, k0, k1)
    coarse_low, coarse_high = halfword(a0, a1, lane), halfword(a2, a3, lane)
    x_low = (coarse_low << 16) | halfword(b0, b1, lane)
    x_high = (coarse_high << 16) | halfword(b2, b3, lane)
    if tl.min(least_halfword(a0, a1, a2, a3)) == 0:  # one category in 65536 takes another stream
        x_low = tl.where(coarse_low == 0, _tail(block * 2, lane, draw, row, k0, k1), x_low)
        x_high = tl.where(coarse_high == 0, _tail(block * 2 + 1, lane, draw, row, k0, k1), x_high)
    g_low = gumbel(x_low, tl.where(coarse_low == 0, _TAIL_SCALE, _SCALE))
    g_high = gumbel(x_high, tl.where(coarse_high == 0, _TAIL_SCALE, _SCALE))
    return g_low, g_high
