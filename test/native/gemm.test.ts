/**
 * Every instruction set of this machine x storage x compute x layout x odd shapes, against float64 loops.
 * And that no code of one instruction set can be linked in place of another's.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { addon } from '../../src/backend/addon.js';
import { DTYPE_CODE, type StorageDtype } from '../../src/backend/dtype.js';
import { roundValues } from '../../src/ops/rounding.js';
import { expectClose } from '../expectClose.js';
import { numbers, product, toStorage } from '../ops/linearCases.js';

const native = addon();
const isas = native?.runtimeInfo().isas ?? [];
const fastest = native?.runtimeInfo().isa ?? '';
const release = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..', '..', 'build', 'Release');

// Around the register tiles (4, 6, 12, 32 rows; 8, 16, 32 columns), the depth steps (2, 32), the packing blocks (64) and
// the longest sum kept in registers (1024, 2048, 4096); primes, 1 and nothing at all.
const SHAPES: [number, number, number][] = [
  [1, 1, 1],
  [1, 37, 65],
  [3, 16, 33],
  [4, 33, 64],
  [5, 7, 0],
  [0, 3, 4],
  [5, 31, 2],
  [12, 32, 32],
  [13, 33, 31],
  [33, 17, 129],
  [7, 65, 1025],
  [2, 5, 4097],
  [530, 9, 24],
  // A few rows of x: rows of W in groups of 3, 4, 16 and 32 with a remainder, sums that end within a vector.
  [2, 17, 100],
  [8, 37, 70],
  [9, 15, 40],
  [11, 66, 33],
  [16, 49, 96],
];
const DTYPES: StorageDtype[] = ['float32', 'bfloat16', 'float16'];

function worst(actual: ArrayLike<number>, exact: ArrayLike<number>): number {
  let largest = 0;
  for (let i = 0; i < exact.length; i++) largest = Math.max(largest, Math.abs(actual[i]! - exact[i]!));
  return largest;
}

describe.skipIf(!native)('gemm', () => {
  afterAll(() => native?.setIsa(fastest));

  for (const isa of isas)
    for (const compute of DTYPES)
      it(`${isa}, ${compute} products, equal float64 loops`, () => {
        native!.setIsa(isa);
        let count = 0;
        for (const [m, n, k] of SHAPES)
          for (let layout = 0; layout < 4; layout++) {
            const [transposeA, transposeB] = [layout % 2 === 1, layout >= 2];
            const aDtype = DTYPES[count % 3]!;
            const bDtype = DTYPES[Math.floor(count / 3) % 3]!;
            const [alpha, beta] = [
              [1, 0],
              [0.5, 1],
              [1, 0.25],
            ][count++ % 3] as [number, number];
            const a = numbers(m * k, 1 + count);
            const b = numbers(k * n, 2 + count);
            const start = beta === 0 ? new Float32Array(m * n).fill(NaN) : numbers(m * n, 3 + count);
            const aStored = toStorage(a, aDtype);
            const bStored = toStorage(b, bDtype);
            const out = start.slice();
            const types = [DTYPE_CODE[aDtype], DTYPE_CODE[bDtype], DTYPE_CODE[compute]] as const;
            native!.matMul(out, types[0], aStored, types[1], bStored, m, n, k, transposeA, transposeB, alpha, beta, types[2]);
            // The kernels round inputs as defined, so the only error left is that of float32 sums.
            const rounded = [roundValues(a, compute), roundValues(b, compute)] as const;
            const exact = product(rounded[0], rounded[1], m, n, k, transposeA, transposeB).map(
              (value, i) => alpha * value + (beta === 0 ? 0 : beta * start[i]!),
            );
            // Measured: at most 1.1e-6 * (1 + sqrt(k)).
            expectClose(out, exact, {
              abs: 3e-6 * (1 + Math.sqrt(k)),
              label: `${aDtype} x ${bDtype} [${m}, ${k}] [${k}, ${n}] layout ${layout}`,
            });
          }
      });

  it('follows the 2x rule: low precision costs no more than rounding the inputs does', () => {
    native!.setIsa(fastest);
    const [m, n, k] = [24, 40, 300];
    const a = numbers(m * k, 1);
    const b = numbers(k * n, 2);
    const exact = product(a, b, m, n, k);
    for (const compute of ['bfloat16', 'float16'] as const) {
      const out = new Float32Array(m * n);
      native!.matMul(out, 0, a, 0, b, m, n, k, false, false, 1, 0, DTYPE_CODE[compute]);
      const plain = product(roundValues(a, compute), roundValues(b, compute), m, n, k);
      expect(worst(out, exact)).toBeLessThanOrEqual(2 * worst(plain, exact));
      expect(worst(out, exact)).toBeGreaterThan(worst(plain, exact) / 2); // it did round
    }
  });

  it('gives float16 products that overflow on purpose', () => {
    const out = new Float32Array(6);
    const a = Float32Array.of(1, 70000, 1, 1, 1, 1);
    native!.matMul(out, 0, a, 0, Float32Array.of(2), 6, 1, 1, false, false, 1, 0, DTYPE_CODE.float16);
    expect(Array.from(out)).toEqual([2, Infinity, 2, 2, 2, 2]);
  });

  it('has results that depend neither on threads nor on the rows beside a row', () => {
    const threads = native!.runtimeInfo().threads;
    const [m, n, k] = [300, 70, 150];
    const a = numbers(m * k, 1);
    const b = numbers(k * n, 2);
    for (const isa of isas)
      for (const compute of DTYPES) {
        native!.setIsa(isa);
        const run = (rows: Float32Array, count: number, workers: number): Float32Array => {
          native!.setNumThreads(workers);
          const out = new Float32Array(count * n);
          native!.matMul(out, 0, rows, 0, b, count, n, k, false, true, 1, 0, DTYPE_CODE[compute]);
          return out;
        };
        const whole = run(a, m, 1);
        expect(run(a, m, 3)).toEqual(whole);
        expect(run(a.slice(0, 17 * k), 17, 2)).toEqual(whole.slice(0, 17 * n));
      }
    native!.setNumThreads(threads);
    native!.setIsa(fastest);
  });

  it('multiplies batches, broadcast or not', () => {
    for (const [batch, m, n, k] of [
      [1, 5, 6, 7],
      [9, 3, 4, 5],
      [2, 130, 120, 110],
    ] as const)
      for (let layout = 0; layout < 4; layout++)
        for (const broadcast of [false, true]) {
          const [transposeA, transposeB] = [layout % 2 === 1, layout >= 2];
          const a = numbers(batch * m * k, 5);
          const b = numbers(batch * k * n, 6);
          const strideB = broadcast ? 0 : k * n;
          const out = new Float32Array(batch * m * n);
          native!.batchMatMul(out, a, b, batch, m, n, k, m * k, strideB, transposeA, transposeB);
          const exact = new Float64Array(batch * m * n);
          for (let i = 0; i < batch; i++)
            exact.set(product(a.subarray(i * m * k), b.subarray(i * strideB), m, n, k, transposeA, transposeB), i * m * n);
          expectClose(out, exact, { abs: 3e-6 * (1 + Math.sqrt(k)) });
        }
  });

  it('names the argument that is too short', () => {
    const a = new Float32Array(5);
    expect(() => native!.matMul(a, 0, a, 0, a, 2, 2, 3, false, false, 1, 0, 0)).toThrow(/\(a\): is shorter than m \* k/);
    expect(() => native!.batchMatMul(a, a, a, 2, 1, 1, 3, 3, 3, false, false)).toThrow(RangeError);
  });
});

describe.skipIf(!native || !existsSync(path.join(release, 'obj.target')))('instruction sets', () => {
  // A weak symbol exists once per program, whichever object the linker met first: were it compiled with AVX-512, the
  // portable path would stop on machines without.
  it('share no weak function between the kernel objects', () => {
    const libraries = readdirSync(path.join(release, 'obj.target')).filter((name) => /^kernels_\w+$/.test(name));
    expect(libraries.length).toBeGreaterThan(0);
    for (const library of libraries) {
      const folder = path.join(release, 'obj.target', library, 'native');
      for (const file of readdirSync(folder).filter((name) => name.endsWith('.o'))) {
        const symbols = execFileSync('nm', ['-C', path.join(folder, file)], { encoding: 'utf8' });
        expect(
          symbols.split('\n').filter((line) => / [WVu] /.test(line)),
          `${library}/${file}`,
        ).toEqual([]);
      }
    }
  });
});
