/** Runs test vectors: node check.mjs FILE... ; one line a mismatch, then a summary; exit status 1 on any mismatch. */

import { readFileSync } from 'node:fs';
import { bits, filter, logOdds, noise, philox4x32, sample, scores, softSample, drawCategories } from './contract.mjs';

const hexOf = (word) => (word >>> 0).toString(16).padStart(8, '0');
const hexFloats = (values) => Array.from(values, (x) => hexOf(bits(x)));

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let i = 0; i < 8; i++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/** zlib's CRC-32 of floats, little-endian, in hexadecimal. */
function crcOfFloats(values) {
  const view = new DataView(new ArrayBuffer(4 * values.length));
  values.forEach((x, i) => view.setFloat32(4 * i, x, true));
  let crc = ~0;
  for (let i = 0; i < view.byteLength; i++) crc = TABLE[(crc ^ view.getUint8(i)) & 255] ^ (crc >>> 8);
  return hexOf(~crc);
}

/** The logits of a case of the first file: listed, or by the rule in the file's note. */
function logitsOf({ name, logits, categories }) {
  if (logits) return logits.map((x) => (x === '-inf' ? -Infinity : x));
  const rules = [
    ['k mod 97', (k) => (k % 97) / 8],
    ['coarse word zero', () => 0],
    ['uniform', () => 0],
    ['2^18', (k) => ((k * 2654435761) % 4096) / 512],
  ];
  const rule = rules.find(([start]) => name.startsWith(start));
  if (!rule) throw new Error(`no rule for the logits of "${name}"`);
  return Array.from({ length: categories }, (_, k) => rule[1](k));
}

/** What a case of the first file gives, by the names of its fields. */
function runCase(test) {
  const d = filter(logOdds(Float32Array.from(logitsOf(test)), test.temperature), {});
  const g = noise(test.seed, test.row, test.draw, test.categories);
  const s = scores(d, g);
  const { soft } = softSample(s, test.tau);
  return {
    index: drawCategories(d, s)[0],
    categories: d.length,
    noise: hexFloats(g),
    scores: hexFloats(s),
    soft: hexFloats(soft),
    scores_crc32: crcOfFloats(s),
    soft_crc32: crcOfFloats(soft),
    soft_max: hexFloats([soft.reduce((a, b) => Math.max(a, b))])[0],
  };
}

/** What a case of the second file gives, in the form of its `answer`. */
function runRequest({ given, answer }) {
  const thousand = () => Array.from({ length: 1000 }, (_, k) => (k % 97) / 8);
  const result = sample(given.logits === 'k mod 97' ? { ...given, logits: thousand() } : given);
  return Object.fromEntries(Object.entries(result).map(([name, values]) => {
    if (name === 'index' || name === 'top_index') return [name, values];
    return [name, Array.isArray(answer[name]) ? hexFloats(values) : { crc32: crcOfFloats(values) }];
  }));
}

const INPUTS = ['name', 'seed', 'row', 'draw', 'temperature', 'tau', 'logits'];

/** [what was expected, what was computed, by name] of one case of either file. */
function compare(test) {
  if (test.counter) {
    const parse = (words) => words.map((word) => parseInt(word, 16));
    return [{ output: test.output }, { output: philox4x32(parse(test.counter), parse(test.key)).map(hexOf) }];
  }
  if (test.given) return [test.answer, runRequest(test), true];
  const expected = Object.fromEntries(Object.entries(test).filter(([name]) => !INPUTS.includes(name)));
  return [expected, runCase(test), false];
}

/** The mismatches of one case, a line each. */
function mismatches(test, label) {
  const [expected, computed, complete] = compare(test);
  const names = new Set([...Object.keys(expected), ...(complete ? Object.keys(computed) : [])]);
  return [...names].flatMap((name) => {
    const [want, got] = [expected[name], computed[name]].map((value) => JSON.stringify(value));
    return want === got ? [] : [`${label}: ${name}: expected ${want}, got ${got}`];
  });
}

let passed = 0;
let failed = 0;
for (const file of process.argv.slice(2)) {
  const vectors = JSON.parse(readFileSync(file, 'utf8'));
  for (const test of [...(vectors.philox4x32_10 ?? []), ...vectors.cases]) {
    const label = test.name ?? `philox ${test.counter.join(' ')}`;
    let lines;
    try {
      lines = mismatches(test, label);
    } catch (error) {
      lines = [`${label}: ${error}`];
    }
    lines.forEach((line) => console.log(line));
    if (lines.length) failed++;
    else passed++;
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed || !passed ? 1 : 0;
