"""The sampling contract `gumball/1` in plain NumPy: the specification every kernel must equal bit for bit.

Read beside ``proto/CONTRACT.md``. Only operations that IEEE-754 and two's complement define exactly are used: binary32
``+ - *``, integer arithmetic, bit reinterpretation, one binary64 division a row, and an integer sum. NumPy rounds each
of them on its own, so the result does not depend on the machine, the vector width or the order of evaluation.

Shapes: ``logits`` is [rows, categories]; ``seed``, ``row``, ``draw``, ``temperature`` and ``tau`` are scalars or
[rows]. Everything here is deliberately unoptimised: it computes what the words say.

Sources: Salmon et al. 2011 (Philox), Gumbel 1954, Maddison et al. 2017 and Jang et al. 2017 (Gumbel-softmax).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

VERSION = "gumball/1"

MAX_CATEGORIES = 1 << 22
PARAMETER_RANGE = (2.0**-40, 2.0**40)  # of tau and of a temperature that is not 0

Array = npt.NDArray[np.generic]
Float32Array = npt.NDArray[np.float32]
Int32Array = npt.NDArray[np.int32]
UInt32Array = npt.NDArray[np.uint32]
Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

# Streams: the fourth word of the Philox counter.
COARSE, FINE, TAIL = 0, 1, 2

_PHILOX_M0, _PHILOX_M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_PHILOX_W0, _PHILOX_W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW32, _SHIFT32 = np.uint64(0xFFFFFFFF), np.uint64(32)


def _f32(hexadecimal: str) -> np.float32:
    return np.float32(float.fromhex(hexadecimal))


# log(1 + f) = f - f^2/2 + f^3 (L0 + L1 f + ... + L6 f^6) for f in [sqrt(1/2) - 1, sqrt(2) - 1]
_L = [
    _f32(h)
    for h in (
        "0x1.5556d8p-2",
        "-0x1.000382p-2",
        "0x1.98d7f0p-3",
        "-0x1.53824cp-3",
        "0x1.317470p-3",
        "-0x1.2432aap-3",
        "0x1.645de2p-4",
    )
]
# exp(r) = 1 + r + r^2 (E0 + E1 r + ... + E4 r^4) for |r| <= ln(2)/2
_E = [_f32(h) for h in ("0x1.fffffcp-2", "0x1.55548ap-3", "0x1.555916p-5", "0x1.123fc6p-7", "0x1.6a1a6ep-10")]
# LN2HI has 9 significant bits, so e * LN2HI is exact for every exponent e that occurs.
_LN2HI, _LN2LO, _LOG2E = _f32("0x1.63p-1"), _f32("-0x1.bd0106p-13"), _f32("0x1.715476p+0")

_SQRT_HALF_BITS = np.int32(0x3F3504F3)
_ONE, _HALF = np.float32(1), np.float32(0.5)
_INFINITY, _SMALLEST_NORMAL = np.float32(np.inf), np.float32(2.0**-126)
_TINY = np.float32(2.0**-60)  # logits nearer to zero than this are zero
_TO_INTEGER = np.float32(1.5 * 2**23)  # adding and subtracting it rounds a float32 to an integer
_CUTOFF = np.float32(-64)  # weights below exp(-64) are exactly zero
_GRID = np.float64(1.5 * 2**12)  # adding it rounds a float64 in [0, 1] to a multiple of 2^-40


def philox4x32_10(
    c0: npt.ArrayLike, c1: npt.ArrayLike, c2: npt.ArrayLike, c3: npt.ArrayLike, seed: npt.ArrayLike
) -> tuple[UInt32Array, UInt32Array, UInt32Array, UInt32Array]:
    """Philox4x32-10 (Salmon et al. 2011): counter words (c0..c3) and a 64-bit seed to four random words.

    The arguments broadcast against each other; the key is (seed mod 2^32, seed div 2^32). Ten rounds of::

        (c0, c1, c2, c3) <- (hi(M1 c2) ^ c1 ^ k0,  lo(M1 c2),  hi(M0 c0) ^ c3 ^ k1,  lo(M0 c0))
    """
    a, b, c, d, s = np.broadcast_arrays(*(np.asarray(x, np.uint64) for x in (c0, c1, c2, c3, seed)))
    k0, k1 = s & _LOW32, s >> _SHIFT32
    for _ in range(10):
        p0, p1 = a * _PHILOX_M0, c * _PHILOX_M1
        a, b, c, d = (p1 >> _SHIFT32) ^ b ^ k0, p1 & _LOW32, (p0 >> _SHIFT32) ^ d ^ k1, p0 & _LOW32
        k0, k1 = (k0 + _PHILOX_W0) & _LOW32, (k1 + _PHILOX_W1) & _LOW32
    return a.astype(np.uint32), b.astype(np.uint32), c.astype(np.uint32), d.astype(np.uint32)


def _words(n: int, seed: npt.ArrayLike, row: npt.ArrayLike, draw: npt.ArrayLike, stream: int) -> UInt32Array:
    """The first n words of a stream, [rows, n]: word i is word i mod 4 of block i div 4."""
    blocks = np.arange((n + 3) // 4)
    words = np.stack(philox4x32_10(blocks, draw, row, stream, seed), axis=-1)
    return words.reshape(words.shape[0], -1)[:, :n]


def _halfwords(n: int, seed: npt.ArrayLike, row: npt.ArrayLike, draw: npt.ArrayLike, stream: int) -> UInt32Array:
    """The first n 16-bit halves of a stream, low half first, [rows, n], each in the low bits of a uint32."""
    words = _words((n + 1) // 2, seed, row, draw, stream)
    halves = np.stack((words & np.uint32(0xFFFF), words >> np.uint32(16)), axis=-1)
    return halves.reshape(words.shape[0], -1)[:, :n]


def _split(y: Float32Array) -> tuple[Float32Array, Int32Array]:
    """y = (1 + f) 2^e with 1 + f in [sqrt(1/2), sqrt(2)), for positive normal y."""
    bits = y.view(np.int32)
    e = (bits - _SQRT_HALF_BITS) >> np.int32(23)
    return (bits - (e << np.int32(23))).view(np.float32) - _ONE, e


def _log(f: Float32Array, e: Float32Array) -> Float32Array:
    """log((1 + f) 2^e), every operation rounded to binary32."""
    z = f * f
    p = (_L[4] + _L[5] * f) + z * _L[6]
    p = (_L[2] + _L[3] * f) + z * p
    p = (_L[0] + _L[1] * f) + z * p
    y = (p * f) * z
    y = y + e * _LN2LO
    y = y - _HALF * z
    result: Float32Array = (f + y) + e * _LN2HI
    return result


def exp32(t: Float32Array) -> Float32Array:
    """exp(t) for t <= 0 in binary32, exactly 0 below -64; relative error below 2^-22."""
    u = np.maximum(t, _CUTOFF)
    n = (u * _LOG2E + _TO_INTEGER) - _TO_INTEGER
    r = (u - n * _LN2HI) - n * _LN2LO
    z = r * r
    p = (_E[2] + _E[3] * r) + z * _E[4]
    p = (_E[0] + _E[1] * r) + z * p
    p = _ONE + (r + z * p)
    w = (p.view(np.int32) + (n.astype(np.int32) << np.int32(23))).view(np.float32)
    return np.where(t < _CUTOFF, np.float32(0), w)


def gumbel_from_bits(coarse: npt.ArrayLike, fine: npt.ArrayLike, tail: npt.ArrayLike) -> Float32Array:
    """Standard Gumbel noise of random bits: g = -log(E), E = -log(v) exponential.

    coarse, fine: 16 random bits each; tail: 32 random bits, used only where coarse is 0. The uniform number behind it,
    v = (X + 1/2) 2^-32 of the 32 bits coarse:fine (or (X + 1/2) 2^-47 of 31 tail bits), counts from the *winning* end:
    E = -log(1 - v), so small v keep their full relative precision and no value is 0 or infinite.
    """
    coarse, fine, tail = (np.asarray(x, np.uint32) for x in (coarse, fine, tail))
    in_tail = coarse == 0
    x = np.where(in_tail, tail >> np.uint32(1), coarse << np.uint32(16) | fine).view(np.int32)
    upper = x < 0  # v >= 1/2: take 1 - v from the other end, where it is exact
    q = ((x ^ (x >> np.int32(31))).astype(np.float32) + _HALF) * np.where(
        in_tail, np.float32(2.0**-47), np.float32(2.0**-32)
    )
    f, e = _split(np.where(upper, q, _ONE - q))
    f = np.where(~upper & (e == 0), -q, f)  # 1 - q would lose the low bits of q; log(1 + f) does not
    f, e = _split(-_log(f, e.astype(np.float32)))
    return -_log(f, e.astype(np.float32))


def _column(x: npt.ArrayLike) -> Array:
    """A scalar or [rows] as a uint64 column, ready to broadcast against categories."""
    return np.atleast_1d(np.asarray(x, np.uint64))[:, None]


def gumbel_noise(categories: int, seed: npt.ArrayLike, row: npt.ArrayLike = 0, draw: npt.ArrayLike = 0) -> Float32Array:
    """[rows, categories] standard Gumbel noise; that of category k depends on (seed, row, draw, k) and nothing else."""
    seed, row, draw = _column(seed), _column(row), _column(draw)
    coarse = _halfwords(categories, seed, row, draw, COARSE)
    fine = _halfwords(categories, seed, row, draw, FINE)
    tail = np.zeros_like(coarse)
    r, k = np.nonzero(coarse == 0)  # one category in 65536: computing the whole stream would be waste
    if r.size:
        s, i, d = (np.broadcast_to(x[:, 0], coarse.shape[:1])[r] for x in (seed, row, draw))
        tail[r, k] = np.choose(k & 3, philox4x32_10(k >> 2, d, i, TAIL, s))
    return gumbel_from_bits(coarse, fine, tail)


class InvalidLogitsError(ValueError):
    """A logits row that no sample can be drawn from: NaN, +inf, or no finite value."""


def log_weights(probs: npt.ArrayLike) -> Float32Array:
    """Logits of non-negative weights p [rows, categories] float32: log p, -inf where p < 2^-126."""
    p = np.atleast_2d(np.asarray(probs)).astype(np.float32)
    if not (p >= 0).all() or np.isposinf(p).any():
        raise InvalidLogitsError("probs: must be finite and not negative")
    f, e = _split(np.maximum(p, _SMALLEST_NORMAL))
    return np.where(p < _SMALLEST_NORMAL, -_INFINITY, _log(f, e.astype(np.float32)))


def biased(logits: npt.ArrayLike, bias: Mapping[int, float | None]) -> Float32Array:
    """Logits [rows, categories] float32 with a number added to some categories; None masks."""
    values = np.atleast_2d(np.asarray(logits)).astype(np.float32)
    for category, amount in bias.items():
        values[:, category] = -_INFINITY if amount is None else values[:, category] + np.float32(amount)
    return values


def clean(logits: npt.ArrayLike) -> Float32Array:
    """Logits as the contract sees them, [rows, categories] float32: magnitudes below 2^-60 (and -0) become +0."""
    values = np.atleast_2d(np.asarray(logits)).astype(np.float32)
    if values.ndim != 2 or not 1 <= values.shape[1] <= MAX_CATEGORIES:
        raise InvalidLogitsError(f"logits: shape {values.shape} is not [rows, 1 to {MAX_CATEGORIES} categories]")
    peak = values.max(axis=1)  # NaN where the row has one
    if not np.isfinite(peak).all():
        raise InvalidLogitsError("logits: each row needs at least one finite value and no NaN or +inf")
    result: Float32Array = np.where(np.abs(values) < _TINY, np.float32(0), values)
    return result


def _inverse(x: npt.ArrayLike, name: str) -> Float32Array:
    """1/x as a float32 column, divided in float64."""
    x = np.atleast_1d(np.asarray(x, np.float64))
    low, high = PARAMETER_RANGE
    if not ((x >= low) & (x <= high)).all():
        raise ValueError(f"{name}: must be from 2^-40 to 2^40")
    return (1.0 / x).astype(np.float32)[:, None]


def _order(d: Float32Array) -> Int64Array:
    """Categories of each row, [rows, categories], by (d down, category up)."""
    return np.argsort(-d, axis=1, kind="stable")


def _on_grid(x: Float64Array) -> Int64Array:
    """x in [0, 1] rounded to a multiple of 2^-40, as an integer count of them."""
    return (x + _GRID).view(np.int64) - _GRID.view(np.int64)


def _weights(d: Float32Array) -> tuple[Float32Array, Int64Array]:
    """w = exp32(d), and the row sums of their integers W, [rows, 1]: exact, so the order cannot matter."""
    w = exp32(d)
    return w, _on_grid(w.astype(np.float64)).sum(axis=1, keepdims=True)


def _log_of_sum(total: Int64Array) -> Float32Array:
    f, e = _split((total.astype(np.float64) * 2.0**-40).astype(np.float32))
    return _log(f, e.astype(np.float32))


def _one_over(total: Int64Array) -> Float32Array:
    return (1.0 / (total.astype(np.float64) * 2.0**-40)).astype(np.float32)


def log_odds(logits: npt.ArrayLike, temperature: npt.ArrayLike = 1.0) -> Float32Array:
    """d = (l - max l) / temperature, [rows, categories] float32: 0 at the most likely category, -inf where masked.

    At temperature 0 all but the most likely category (the lowest of equals) are masked.
    """
    values = clean(logits)
    temperature = np.broadcast_to(np.asarray(temperature, np.float64), values.shape[:1])
    greedy = temperature == 0
    with np.errstate(over="ignore"):  # a finite logit may lie infinitely far below the best after scaling
        d = (values - values.max(axis=1, keepdims=True)) * _inverse(np.where(greedy, 1.0, temperature), "temperature")
    best = np.arange(values.shape[1]) == values.argmax(axis=1)[:, None]
    result: Float32Array = np.where(greedy[:, None], np.where(best, np.float32(0), -_INFINITY), d)
    return result


def keep_top_k(d: Float32Array, k: int) -> Float32Array:
    """All but the k first of (d down, category up) masked."""
    kept = np.zeros(d.shape, bool)
    np.put_along_axis(kept, _order(d)[:, :k], True, axis=1)
    return np.where(kept, d, -_INFINITY)


def keep_top_p(d: Float32Array, p: float) -> Float32Array:
    """All masked but the shortest prefix of (d down, category up) that holds a share p of the weight."""
    if p == 1:
        return d
    w, total = _weights(d)
    order = _order(d)
    running = np.cumsum(np.take_along_axis(_on_grid(w.astype(np.float64)), order, axis=1), axis=1)
    enough = np.ceil(p * total.astype(np.float64)).astype(np.int64)
    length = (running < enough).sum(axis=1, keepdims=True) + 1  # all, should rounding ask for more than there is
    kept = np.zeros(d.shape, bool)
    np.put_along_axis(kept, order, np.arange(d.shape[1]) < length, axis=1)
    return np.where(kept, d, -_INFINITY)


def keep_min_p(d: Float32Array, p: float) -> Float32Array:
    """Categories less likely than p times the most likely one masked. p = 0, or p < 2^-126 as a float32, keeps all."""
    limit = np.float32(p)
    if limit < _SMALLEST_NORMAL:
        return d
    f, e = _split(np.array([limit]))
    return np.where(d >= _log(f, e.astype(np.float32)), d, -_INFINITY)


def filtered(
    d: Float32Array, top_k: npt.ArrayLike | None = None, top_p: npt.ArrayLike = 1.0, min_p: npt.ArrayLike = 0.0
) -> Float32Array:
    """d with what the filters do not keep masked: top_k, then top_p of what is left, then min_p. Scalars or [rows]."""
    rows, categories = d.shape
    k, p, least = (np.broadcast_to(x, (rows,)) for x in (categories if top_k is None else top_k, top_p, min_p))
    return np.concatenate(
        [keep_min_p(keep_top_p(keep_top_k(d[r : r + 1], int(k[r])), float(p[r])), float(least[r])) for r in range(rows)]
    )


def probs(d: Float32Array) -> Float32Array:
    """[rows, categories] float32: the probability of each category, softmax(d)."""
    w, total = _weights(d)
    return w * _one_over(total)


def log_probs(d: Float32Array) -> Float32Array:
    """[rows, categories] float32: the logarithm of each probability, -inf where masked."""
    result: Float32Array = d - _log_of_sum(_weights(d)[1])
    return result


def entropy(d: Float32Array) -> Float32Array:
    """[rows] float32, in nats: log S + sum(w (-d)) / S."""
    w, total = _weights(d)
    with np.errstate(invalid="ignore"):  # 0 times infinity where masked
        terms = np.where(w > 0, w.astype(np.float64) * -d.astype(np.float64), 0.0)
    mean = _on_grid(terms).sum(axis=1) / total[:, 0].astype(np.float64)
    result: Float32Array = _log_of_sum(total)[:, 0] + mean.astype(np.float32)
    return result


def most_likely(d: Float32Array, n: int) -> tuple[Int32Array, Float32Array]:
    """The n first categories of (d down, category up) and their log-probabilities, both [rows, n]."""
    order = _order(d)[:, :n]
    return order.astype(np.int32), np.take_along_axis(log_probs(d), order, axis=1)


def scores_of(d: Float32Array, seed: npt.ArrayLike, row: npt.ArrayLike = 0, draw: npt.ArrayLike = 0) -> Float32Array:
    """s = d + noise, [rows, categories] float32; -inf where masked."""
    return d + gumbel_noise(d.shape[1], seed, row, draw)


def best(s: Float32Array, k: int) -> tuple[Int32Array, Float32Array]:
    """The k first categories of (score down, category up) and their scores, both [rows, k].

    They are k draws without replacement, in the order drawn (Kool et al. 2019). k = 1 is the hard sample.
    """
    order = _order(s)[:, :k]
    return order.astype(np.int32), np.take_along_axis(s, order, axis=1)


def soft_of(s: Float32Array, tau: npt.ArrayLike = 1.0) -> Float32Array:
    """[rows, categories] float32: the relaxed sample softmax(s / tau); largest where s is."""
    w, total = _weights(_relaxed(s, tau))
    return w * _one_over(total)


def log_soft_of(s: Float32Array, tau: npt.ArrayLike = 1.0) -> Float32Array:
    """[rows, categories] float32: the logarithm of the relaxed sample, -inf where masked."""
    t = _relaxed(s, tau)
    return t - _log_of_sum(_weights(t)[1])


def _relaxed(s: Float32Array, tau: npt.ArrayLike) -> Float32Array:
    with np.errstate(over="ignore"):
        t: Float32Array = (s - s.max(axis=1, keepdims=True)) * _inverse(tau, "tau")
    return t


def scores(
    logits: npt.ArrayLike,
    seed: npt.ArrayLike,
    row: npt.ArrayLike = 0,
    draw: npt.ArrayLike = 0,
    temperature: npt.ArrayLike = 1.0,
) -> Float32Array:
    """[rows, categories] perturbed logits (l - max l) / temperature + noise; -inf where masked."""
    return scores_of(log_odds(logits, temperature), seed, row, draw)


@dataclass(frozen=True, slots=True)
class Sample:
    """One draw of every row: index [rows] int32, soft [rows, categories] float32."""

    index: Int32Array
    soft: Float32Array


def hard(
    logits: npt.ArrayLike,
    seed: npt.ArrayLike,
    row: npt.ArrayLike = 0,
    draw: npt.ArrayLike = 0,
    temperature: npt.ArrayLike = 1.0,
) -> Int32Array:
    """[rows] int32: the drawn category, argmax of the scores, the lowest of equals (Gumbel-max)."""
    index: Int32Array = scores(logits, seed, row, draw, temperature).argmax(axis=1).astype(np.int32)
    return index


def straight_through(
    logits: npt.ArrayLike,
    seed: npt.ArrayLike,
    row: npt.ArrayLike = 0,
    draw: npt.ArrayLike = 0,
    temperature: npt.ArrayLike = 1.0,
    tau: npt.ArrayLike = 1.0,
) -> Sample:
    """The hard and the soft sample of the same noise; soft is largest at index."""
    s = scores(logits, seed, row, draw, temperature)
    return Sample(s.argmax(axis=1).astype(np.int32), soft_of(s, tau))


def soft(
    logits: npt.ArrayLike,
    seed: npt.ArrayLike,
    row: npt.ArrayLike = 0,
    draw: npt.ArrayLike = 0,
    temperature: npt.ArrayLike = 1.0,
    tau: npt.ArrayLike = 1.0,
) -> Float32Array:
    """[rows, categories] float32: the relaxed sample softmax(scores / tau) (Gumbel-softmax)."""
    return soft_of(scores(logits, seed, row, draw, temperature), tau)
