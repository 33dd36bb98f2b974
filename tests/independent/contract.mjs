/**
 * The sampling contract `gumball/1` in plain JavaScript: the same bits as every other implementation.
 *
 * A float of the contract is a number that binary32 holds; every operation on floats is a double operation followed by
 * Math.fround. For one `+`, `-` or `*` of two floats this is the correctly rounded float result, since a double has
 * more than twice the digits of a float. Names are those of the specification: l, d, g, s, t, w, W, S, y.
 *
 * Shapes: K categories, R rows, D draws, k categories drawn without replacement (1 otherwise).
 */

export const CONTRACT = 'gumball/1';

const f32 = Math.fround;
const MAX_CATEGORIES = 2 ** 22;
const SMALLEST_NORMAL = 2 ** -126;

/** Thrown where the contract says that an input is refused. */
export class Refused extends RangeError {}

const ensure = (condition, message) => {
  if (!condition) throw new Refused(message);
};

// ---- 1. Arithmetic

const scratch = new DataView(new ArrayBuffer(8));

/** The 32-bit pattern of a float as a signed integer. */
export const bits = (x) => (scratch.setFloat32(0, x), scratch.getInt32(0));

/** The float of a 32-bit pattern. */
export const fromBits = (i) => (scratch.setInt32(0, i), scratch.getFloat32(0));

const [add, sub, mul] = [(a, b) => f32(a + b), (a, b) => f32(a - b), (a, b) => f32(a * b)];
const largest = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);

/** A bfloat16 pattern (0..65535) as a float. */
export const fromBfloat16 = (pattern) => fromBits(pattern << 16);

/** A binary16 pattern (0..65535) as a float. */
export function fromBinary16(pattern) {
  const sign = pattern & 0x8000 ? -1 : 1;
  const exponent = (pattern >> 10) & 31;
  const mantissa = pattern & 1023;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return exponent ? sign * (1024 + mantissa) * 2 ** (exponent - 25) : sign * mantissa * 2 ** -24;
}

// ---- 3. Random bits

const M0 = 0xd2511f53;
const M1 = 0xcd9e8d57;

/** The high half of the 64-bit product of two unsigned 32-bit integers. */
function hi(a, b) {
  const a0 = a & 0xffff, a1 = a >>> 16, b0 = b & 0xffff, b1 = b >>> 16;
  const middle = a1 * b0 + ((a0 * b0) >>> 16);
  const low = a0 * b1 + (middle % 65536);
  return (a1 * b1 + Math.floor(middle / 65536) + Math.floor(low / 65536)) >>> 0;
}

/** Philox4x32-10: counter [4], key [2] -> words x0..x3 [4], all unsigned 32-bit. */
export function philox4x32(counter, key) {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const h0 = hi(M0, c0), h1 = hi(M1, c2), l0 = Math.imul(M0, c0), l1 = Math.imul(M1, c2);
    [c0, c1, c2, c3] = [(h1 ^ c1 ^ k0) >>> 0, l1 >>> 0, (h0 ^ c3 ^ k1) >>> 0, l0 >>> 0];
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  return [c0, c1, c2, c3];
}

/** The key of a 64-bit seed (a BigInt, a decimal string or a safe integer): [2]. */
export function keyOf(seed) {
  ensure(typeof seed !== 'number' || Number.isSafeInteger(seed), 'seed is not an exact integer');
  const value = BigInt(seed);
  ensure(value >= 0n && value < 1n << 64n, 'seed is not a 64-bit unsigned integer');
  return [Number(value & 0xffffffffn), Number(value >> 32n)];
}

// ---- 4. Gumbel noise

const SQRT_HALF = 0x3f3504f3;
const hex = (mantissa, exponent) => (mantissa / 2 ** 24) * 2 ** exponent; // hex(0x1abcdef, e) is 0x1.abcdefp+e
const [L0, L1, L2, L3, L4, L5, L6] = [
  hex(0x15556d8, -2), -hex(0x1000382, -2), hex(0x198d7f0, -3), -hex(0x153824c, -3),
  hex(0x1317470, -3), -hex(0x12432aa, -3), hex(0x1645de2, -4),
];
const LN2HI = hex(0x1630000, -1);
const LN2LO = -hex(0x1bd0106, -13);

/** y > 0 and normal as [f, e], y = (1 + f) * 2^e with 1 + f from sqrt(1/2) to sqrt(2). */
export function split(y) {
  const i = bits(y);
  const e = (i - SQRT_HALF) >> 23;
  return [sub(fromBits(i - (e << 23)), 1), e];
}

/** The logarithm of (1 + f) * 2^e. */
export function L(f, e) {
  const z = mul(f, f);
  let p = add(add(L4, mul(L5, f)), mul(z, L6));
  p = add(add(L2, mul(L3, f)), mul(z, p));
  p = add(add(L0, mul(L1, f)), mul(z, p));
  let y = mul(mul(p, f), z);
  y = add(y, mul(e, LN2LO));
  y = sub(y, mul(0.5, z));
  return add(add(f, y), mul(e, LN2HI));
}

const logOf = (y) => L(...split(y));

/** Standard Gumbel noise of A (coarse, 16 bits), B (fine, 16 bits) and C (tail, 32 bits, read only where A is 0). */
export function gumbel(A, B, C) {
  const X = A !== 0 ? (A << 16) | B : C >>> 1;
  const scale = A !== 0 ? 2 ** -32 : 2 ** -47;
  const t = X ^ (X >> 31);
  const q = mul(add(f32(t), 0.5), scale);
  let [f, e] = split(X < 0 ? q : sub(1, q));
  if (X >= 0 && e === 0) f = -q;
  return -logOf(-L(f, e));
}

/** The noise g of one draw of one row: [K]. */
export function noise(seed, row, draw, K) {
  const key = keyOf(seed);
  const words = (stream, block) => philox4x32([block, draw, row, stream], key);
  const half = (x, k) => (k & 1 ? x[(k >> 1) & 3] >>> 16 : x[(k >> 1) & 3] & 0xffff);
  const g = new Float32Array(K);
  let coarse, fine;
  for (let k = 0; k < K; k++) {
    if ((k & 7) === 0) [coarse, fine] = [words(0, k >> 3), words(1, k >> 3)];
    const A = half(coarse, k);
    const C = A === 0 ? words(2, k >> 2)[k & 3] : 0;
    g[k] = gumbel(A, half(fine, k), C);
  }
  return g;
}

// ---- 2. From the inputs to the log-odds

/** Logits (null masks) as floats, checked: [K]. */
function fromLogits(values) {
  return Float32Array.from(values, (value) => {
    const l = value === null ? -Infinity : f32(value);
    ensure(l < Infinity, 'a logit is NaN or +inf');
    return l;
  });
}

/** Weights as logits: [K]. */
function fromProbs(values) {
  return Float32Array.from(values, (value) => {
    const p = f32(value);
    ensure(p >= 0 && p < Infinity, 'a weight is negative, NaN or +inf');
    return p >= SMALLEST_NORMAL ? logOf(p) : -Infinity;
  });
}

/** Adds a bias, {category: double, or null for masked}, to l: [K]. */
function addBias(l, bias) {
  for (const [category, value] of Object.entries(bias)) {
    const k = Number(category);
    ensure(Number.isInteger(k) && k >= 0 && k < l.length, `there is no category ${category} to bias`);
    ensure(value === null || Number.isFinite(f32(value)), 'a bias is not finite');
    l[k] = value === null ? -Infinity : l[k] + f32(value);
    ensure(l[k] < Infinity, 'a logit and its bias add up to +inf');
  }
}

const inRange = (x) => x >= 2 ** -40 && x <= 2 ** 40;
const inverse = (x) => f32(1 / x);

/** The log-odds d before any filter, -inf where masked, of the logits l with their bias: [K] -> [K]. */
export function logOdds(l, temperature) {
  ensure(temperature === 0 || inRange(temperature), 'temperature is out of range');
  const clean = l.map((x) => (Math.abs(x) < 2 ** -60 ? 0 : x));
  const m = largest(clean);
  ensure(m > -Infinity, 'no logit is finite');
  if (temperature === 0) {
    const first = clean.indexOf(m);
    return clean.map((_, k) => (k === first ? 0 : -Infinity));
  }
  const invTemp = inverse(temperature);
  return clean.map((x) => mul(sub(x, m), invTemp));
}

// ---- 6. Weights, the soft sample

const LOG2E = hex(0x1715476, 0);
const [E0, E1, E2, E3, E4] = [
  hex(0x1fffffc, -2), hex(0x155548a, -3), hex(0x1555916, -5), hex(0x1123fc6, -7), hex(0x16a1a6e, -10),
];

/** e^t for t <= 0. */
export function exp32(t) {
  if (t < -64) return 0;
  const n = sub(add(mul(t, LOG2E), 12582912), 12582912);
  const r = sub(sub(t, mul(n, LN2HI)), mul(n, LN2LO));
  const z = mul(r, r);
  let p = add(add(E2, mul(E3, r)), mul(z, E4));
  p = add(add(E0, mul(E1, r)), mul(z, p));
  p = add(1, add(r, mul(z, p)));
  return fromBits(bits(p) + (n << 23));
}

/** x from 0 to 1 in units of 2^-40: bits64(x + 6144) - bits64(6144), which is exact in doubles too. */
const units = (x) => (x + 6144 - 6144) * 2 ** 40;

/** The exact sum of integers from 0 to 2^41, as a BigInt. */
function exactSum(integers) {
  let total = 0n, part = 0;
  for (const value of integers) {
    part += value;
    if (part >= 2 ** 52) [total, part] = [total + BigInt(part), 0];
  }
  return total + BigInt(part);
}

/** w [K], W [K], double(S), shares [K] (w over S) and log S, of x [K], all of it at most 0 and the largest 0. */
function weigh(x) {
  const w = x.map(exp32);
  const W = Float64Array.from(w, units);
  const S = Number(exactSum(W));
  const scale = f32(1 / (S * 2 ** -40));
  return { w, W, S, shares: w.map((value) => value * scale), logS: logOf(f32(S * 2 ** -40)) };
}

/** The soft sample y and its logarithm, [K] each, of the scores s, [K]. */
export function softSample(s, tau) {
  ensure(inRange(tau), 'tau is out of range');
  const best = largest(s);
  const invTau = inverse(tau);
  const t = s.map((value) => mul(sub(value, best), invTau));
  const { shares, logS } = weigh(t);
  return { soft: shares, logSoft: t.map((value) => value - logS) };
}

/**
 * Straight-through: the one-hot vector of index, and the gradient with respect to the logits for an incoming v. The
 * contract fixes the bits of the vector; of the gradient only the formula.
 * @returns {{forward: Float32Array, backward: function(ArrayLike<number>): Float32Array}} [K], [K] -> [K]
 */
export function straightThrough(index, y, temperature, tau) {
  const factor = inverse(temperature) * inverse(tau);
  const backward = (v) => {
    const inner = y.reduce((sum, value, k) => sum + value * v[k], 0);
    return y.map((value, k) => factor * value * (v[k] - inner));
  };
  return { forward: y.map((_, k) => (k === index ? 1 : 0)), backward };
}

// ---- 5, 8 to 11. Order, filters, samples, probabilities

/** The categories by (value down, k up): [K]. */
export function order(values) {
  return Uint32Array.from(values.keys()).sort((a, b) => (values[b] > values[a]) - (values[b] < values[a]) || a - b);
}

const left = (d) => d.reduce((count, value) => count + (value > -Infinity), 0);

function filterTopK(d, topK) {
  ensure(Number.isInteger(topK) && topK >= 1, 'top_k is not an integer of at least 1');
  if (topK < d.length) for (const k of order(d).subarray(topK)) d[k] = -Infinity;
}

function filterTopP(d, topP) {
  ensure(topP > 0 && topP <= 1, 'top_p is out of range');
  if (topP === 1) return;
  const { W, S } = weigh(d);
  const goal = BigInt(Math.ceil(topP * S));
  let sum = 0n;
  for (const k of order(d)) {
    if (sum >= goal) d[k] = -Infinity;
    else sum += BigInt(W[k]);
  }
}

function filterMinP(d, minP) {
  ensure(minP >= 0 && minP <= 1, 'min_p is out of range');
  if (f32(minP) < SMALLEST_NORMAL) return;
  const least = logOf(f32(minP));
  d.forEach((value, k) => { if (value < least) d[k] = -Infinity; });
}

/** d with what the filters do not keep set to -inf: [K]. */
export function filter(d, { top_k = null, top_p = null, min_p = null }) {
  const kept = d.slice();
  if (top_k !== null) filterTopK(kept, top_k);
  if (top_p !== null) filterTopP(kept, top_p);
  if (min_p !== null) filterMinP(kept, min_p);
  return kept;
}

/** s = d + g: [K]. */
export const scores = (d, g) => d.map((value, k) => value + g[k]);

/** The first k categories in the order of s, k draws without replacement; k = 1 is the hard sample: [k]. */
export function drawCategories(d, s, k = 1) {
  ensure(Number.isInteger(k) && k >= 1 && k <= left(d), 'there are not as many categories left');
  if (k === 1) return Uint32Array.of(s.indexOf(largest(s)));
  return order(s).slice(0, k);
}

/** What follows from d, [K], alone: logProb [K], probs [K] and entropy, a number. */
export function probabilities(d) {
  const { w, S, shares, logS } = weigh(d);
  const V = Float64Array.from(w, (value, k) => (value === 0 ? 0 : units(value * -d[k])));
  const mean = f32(Number(exactSum(V)) / S);
  return { logProb: d.map((value) => value - logS), probs: shares, entropy: add(logS, mean) };
}

// ---- A request

const ALL_OUTPUTS = ['index', 'score', 'log_prob', 'soft', 'log_soft', 'probs', 'entropy'];
const PER_ROW = ['temperature', 'tau', 'top_k', 'top_p', 'min_p', 'first_draw', 'logit_bias'];

/** The parameters of row r, one value each where the request has one a row. */
function parametersOf(request, r) {
  const given = { temperature: 1, tau: 1, first_draw: 0, logit_bias: {} };
  for (const name of PER_ROW) {
    const value = request[name];
    if (value !== undefined && value !== null) given[name] = Array.isArray(value) ? value[r] : value;
  }
  return given;
}

/** The filtered log-odds of one row: [K]. */
export function rowLogOdds(logits, probs, parameters) {
  const K = (logits ?? probs).length;
  ensure(K >= 1 && K <= MAX_CATEGORIES, 'the number of categories is out of range');
  const l = logits ? fromLogits(logits) : fromProbs(probs);
  ensure(l.some((value) => value > -Infinity), 'no logit is finite');
  addBias(l, parameters.logit_bias ?? {});
  return filter(logOdds(l, parameters.temperature), parameters);
}

/** The answers of one draw: index, score, log_prob [k], soft, log_soft [K]. */
function answerDraw(d, g, logProb, tau, k) {
  const s = scores(d, g);
  const index = drawCategories(d, s, k);
  const { soft, logSoft } = softSample(s, tau);
  return { index, score: Array.from(index, (i) => s[i]), log_prob: Array.from(index, (i) => logProb[i]), soft,
    log_soft: logSoft };
}

const append = (answer, part) => {
  for (const [name, value] of Object.entries(part)) if (name in answer) answer[name].push(...value);
};

/**
 * Answers a request.
 * @param {object} request logits or probs ([K] or [R, K]), seed or seeds ([R]), and the parameters by their names
 * @returns {Object<string, number[]>} flat, row by row: index, score, log_prob [R, D, k]; soft, log_soft [R, D, K];
 *   probs [R, K]; entropy [R]; top_index, top_log_prob [R, top_log_probs]
 */
export function sample(request) {
  const nested = (values) => values && (values[0] === null || typeof values[0] === 'number' ? [values] : values);
  const [logits, probs] = [nested(request.logits), nested(request.probs)];
  const outputs = request.outputs ?? ALL_OUTPUTS;
  const { seed, seeds, first_row = 0, draws = 1, without_replacement = 1, top_log_probs = 0 } = request;
  const answer = Object.fromEntries(outputs.map((name) => [name, []]));
  if (top_log_probs) Object.assign(answer, { top_index: [], top_log_prob: [] });
  ensure((logits ?? probs)?.length && (seeds || seed !== undefined), 'logits or probs, and seed or seeds, are required');
  (logits ?? probs).forEach((_, r) => {
    const own = parametersOf(request, r);
    const atZero = own.temperature === 0 && outputs.some((name) => ['score', 'soft', 'log_soft'].includes(name));
    ensure(!atZero, 'score and the soft sample are refused at temperature 0');
    const d = rowLogOdds(logits?.[r], probs?.[r], own);
    const p = probabilities(d);
    for (let draw = 0; draw < draws; draw++) {
      const row = seeds ? 0 : first_row + r;
      const g = noise(seeds ? seeds[r] : seed, row >>> 0, (own.first_draw + draw) >>> 0, d.length);
      append(answer, answerDraw(d, g, p.logProb, own.tau, without_replacement));
    }
    const top = order(d).subarray(0, top_log_probs);
    const topLogProb = Array.from(top, (k) => p.logProb[k]);
    append(answer, { probs: p.probs, entropy: [p.entropy], top_index: top, top_log_prob: topLogProb });
  });
  return answer;
}
