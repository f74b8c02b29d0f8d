/**
 * Matrix products at the shapes of training and decoding, as GFLOP/s and as a share of what the machine's registers (or,
 * for a few rows, its memory) allow. The ceiling is measured right before each case: machines drift.
 *
 *   npm run bench -- gemm [S|M|L|decode ...]      prints a table on stderr, one JSON line per case on stdout
 */
import { addon, type Addon } from '../src/backend/addon.js';
import { DTYPE_CODE, type StorageDtype } from '../src/backend/dtype.js';
import { measurePeak, medianSeconds } from './peak.js';

interface Case {
  group: string;
  m: number;
  n: number;
  k: number;
  /** forward: x W^T; backward: dy W */
  backward: boolean;
}

const GROUPS: Record<string, Case[]> = {
  S: layer('S', 2048, 288, 768),
  M: layer('M', 2048, 768, 2048),
  L: layer('L', 512, 2048, 5632),
  decode: [1, 2, 4, 8, 16].flatMap((m) => [
    { group: 'decode', m, n: 5632, k: 2048, backward: false },
    { group: 'decode', m, n: 32000, k: 768, backward: false },
  ]),
};

function layer(group: string, tokens: number, hidden: number, intermediate: number): Case[] {
  return [
    { group, m: tokens, n: hidden, k: hidden, backward: false },
    { group, m: tokens, n: intermediate, k: hidden, backward: false },
    { group, m: tokens, n: hidden, k: intermediate, backward: false },
    { group, m: tokens, n: hidden, k: intermediate, backward: true },
  ];
}

function random(n: number): Float32Array {
  const values = new Float32Array(n);
  let state = 1;
  for (let i = 0; i < n; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    values[i] = state / 2 ** 31;
  }
  return values;
}

function run(native: Addon, c: Case, dtype: StorageDtype): Record<string, unknown> {
  const code = DTYPE_CODE[dtype];
  const values = random(c.n * c.k);
  let weight: Float32Array | Uint16Array = values;
  if (dtype !== 'float32') {
    weight = new Uint16Array(values.length);
    native.floatToHalf(values, dtype === 'bfloat16' ? 1 : 2, weight);
  }
  const x = random(c.m * c.k);
  const out = new Float32Array(c.m * c.n);
  const seconds = medianSeconds(
    () => native.matMul(out, 0, x, code, weight, c.m, c.n, c.k, false, !c.backward, 1, 0, code),
    Math.min(200, Math.max(7, Math.ceil(1e10 / (2 * c.m * c.n * c.k)))),
  );
  const peak = measurePeak(native);
  const gflops = (2 * c.m * c.n * c.k) / seconds / 1e9;
  const gigabytes = weight.byteLength / seconds / 1e9;
  const slim = c.m <= 16;
  const share = slim ? gigabytes / peak.read : gflops / (dtype === 'bfloat16' ? peak.bfloat16 : peak.float32);
  return { ...c, dtype, milliseconds: seconds * 1e3, gflops, weightGigabytesPerSecond: gigabytes, share, peak };
}

const native = addon();
if (!native) throw new Error('the native addon is not built: npm run build:addon');
const wanted = process.argv.slice(2);
for (const group of wanted.length > 0 ? wanted : Object.keys(GROUPS))
  for (const c of GROUPS[group] ?? [])
    for (const dtype of ['float32', 'bfloat16'] as const) {
      const result = run(native, c, dtype);
      const round = (name: string): string => Number(result[name]).toFixed(2).padStart(9);
      const shape = `${c.m} x ${c.k} x ${c.n}${c.backward ? ' backward' : ''}`;
      console.error(
        `${group.padEnd(7)} ${dtype.padEnd(9)} ${shape.padEnd(28)} ${round('milliseconds')} ms ${round('gflops')} GFLOP/s ` +
          `${round('weightGigabytesPerSecond')} GB/s of weights, share ${round('share')}`,
      );
      console.log(JSON.stringify(result));
    }
