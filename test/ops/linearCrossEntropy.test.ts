import { beforeAll, describe, expect, it } from 'vitest';
import { addon } from '../../src/backend/addon.js';
import { makeWeight, useBackend } from '../../src/backend/index.js';
import { tf, type Tensor, type Tensor2D } from '../../src/backend/tf.js';
import type { ComputeDtype } from '../../src/backend/dtype.js';
import { linearCrossEntropy, linearCrossEntropyReference } from '../../src/ops/linearCrossEntropy.js';
import { usesKernel } from '../../src/ops/registry.js';
import { roundValues } from '../../src/ops/rounding.js';
import { expectClose } from '../expectClose.js';
import { randomValues } from './attentionFloat64.js';

interface Case {
  N: number;
  C: number;
  V: number;
  /** Which rows have a target. */
  targets: 'all' | 'none' | 'one' | 'some';
  chunkSize?: number;
}
interface Run {
  nll: Float32Array;
  dx: Float32Array;
  dWeight: Float32Array;
}
interface Data {
  x: Float32Array;
  weight: Float32Array;
  labels: Int32Array;
  dNll: Float32Array;
}

const CASES: Case[] = [
  { N: 1, C: 1, V: 2, targets: 'all' },
  { N: 3, C: 5, V: 2, targets: 'all' },
  { N: 17, C: 16, V: 63, targets: 'some' },
  { N: 13, C: 31, V: 65, targets: 'some', chunkSize: 1 },
  { N: 40, C: 24, V: 331, targets: 'some', chunkSize: 7 },
  { N: 9, C: 12, V: 100, targets: 'none' },
  { N: 30, C: 12, V: 129, targets: 'one' },
  { N: 5, C: 48, V: 1031, targets: 'all' }, // more words than a tile
  { N: 101, C: 8, V: 1025, targets: 'some' }, // more rows than a block
];

function makeData({ N, C, V, targets }: Case): Data {
  const has = (n: number): boolean =>
    targets === 'all' || (targets === 'one' && n === N >> 1) || (targets === 'some' && n % 3 !== 1);
  return {
    x: randomValues(N * C, 3).map((value) => 4 * value),
    weight: randomValues(V * C, 4),
    labels: Int32Array.from({ length: N }, (_, n) => (has(n) ? (n * 7919 + 5) % V : -100)),
    dNll: randomValues(N, 5),
  };
}

function float64({ N, C, V }: Case, { x, weight, labels, dNll }: Data): { [key in keyof Run]: Float64Array } {
  const result = { nll: new Float64Array(N), dx: new Float64Array(N * C), dWeight: new Float64Array(V * C) };
  for (let n = 0; n < N; n++) {
    if (labels[n] === -100) continue;
    const z = Array.from({ length: V }, (_, j) => {
      let sum = 0;
      for (let c = 0; c < C; c++) sum += x[n * C + c]! * weight[j * C + c]!;
      return sum;
    });
    const highest = z.reduce((most, value) => Math.max(most, value), -Infinity);
    const lse = highest + Math.log(z.reduce((sum, value) => sum + Math.exp(value - highest), 0));
    result.nll[n] = lse - z[labels[n]!]!;
    z.forEach((value, j) => {
      const dz = (Math.exp(value - lse) - (j === labels[n] ? 1 : 0)) * dNll[n]!;
      for (let c = 0; c < C; c++) {
        result.dx[n * C + c]! += dz * weight[j * C + c]!;
        result.dWeight[j * C + c]! += dz * x[n * C + c]!;
      }
    });
  }
  return result;
}

type Op = typeof linearCrossEntropy;

function run(op: Op, c: Case, data: Data, compute: ComputeDtype = 'float32'): Run {
  return tf.tidy(() => {
    const x = tf.tensor2d(data.x, [c.N, c.C]);
    const weight = tf.tensor2d(data.weight, [c.V, c.C]);
    const options = c.chunkSize === undefined ? { compute } : { compute, chunkSize: c.chunkSize };
    const loss = (...inputs: Tensor[]): Tensor => op(inputs[0] as Tensor2D, inputs[1] as Tensor2D, data.labels, options);
    const [dx, dWeight] = tf.grads(loss)([x, weight], tf.tensor1d(data.dNll));
    const nll = loss(x, weight).dataSync() as Float32Array;
    return { nll, dx: dx!.dataSync() as Float32Array, dWeight: dWeight!.dataSync() as Float32Array };
  });
}

function expectRun(actual: Run, expected: { [key in keyof Run]: ArrayLike<number> }, label = ''): void {
  // Largest error measured over these cases: 8e-7 of the largest element.
  for (const key of ['nll', 'dx', 'dWeight'] as const)
    expectClose(actual[key], expected[key], { relToMax: 4e-6, abs: 1e-6, label: `${label} ${key}` });
}

describe.each(['native', 'cpu'])('linearCrossEntropy on %s', (backend) => {
  beforeAll(() => useBackend(backend));

  it.each(CASES)('equals float64: N $N C $C V $V, $targets rows with a target', (c) => {
    const data = makeData(c);
    const expected = float64(c, data);
    const before = tf.memory().numTensors;
    expectRun(run(linearCrossEntropy, c, data), expected);
    expectRun(run(linearCrossEntropyReference, c, data), expected, 'reference');
    expect(tf.memory().numTensors).toBe(before);
  });

  it('names labels and shapes that do not fit', () => {
    tf.tidy(() => {
      const [x, weight] = [tf.zeros<tf.Rank.R2>([2, 3]), tf.zeros<tf.Rank.R2>([5, 3])];
      const attempt = (w: Tensor2D, labels: number[]) => () =>
        linearCrossEntropy(x, w, Int32Array.from(labels), { compute: 'float32' });
      expect(attempt(weight, [0, 5])).toThrow(/label 5 of row 1 is outside \[0, 5\)/);
      expect(attempt(weight, [0, -1])).toThrow(/label -1/);
      expect(attempt(weight, [0])).toThrow(/1 labels/);
      expect(attempt(tf.zeros([5, 4]), [0, 1])).toThrow(/\[5,4\]/);
    });
  });
});

describe('linearCrossEntropy kernel', () => {
  beforeAll(() => useBackend('native'));
  const isas = addon()?.runtimeInfo().isas ?? ['none'];
  const c: Case = { N: 37, C: 40, V: 517, targets: 'some', chunkSize: 10 };

  it.skipIf(!addon())('is used on native, right on every instruction set, and equal for any number of threads', () => {
    expect(usesKernel('LinearCrossEntropy')).toBe(true);
    const { threads } = addon()!.runtimeInfo();
    const data = makeData(c);
    const expected = float64(c, data);
    let last: Run | undefined;
    for (const isa of isas) {
      addon()!.setIsa(isa);
      expectRun((last = run(linearCrossEntropy, c, data)), expected, isa);
    }
    addon()!.setNumThreads(1);
    expect(run(linearCrossEntropy, c, data)).toEqual(last);
    addon()!.setNumThreads(threads);
  });

  it('does not depend on the size of a chunk', () => {
    const data = makeData(c);
    const expected = float64(c, data);
    for (const chunkSize of [1, 24, 25, 1000])
      expectRun(run(linearCrossEntropy, { ...c, chunkSize }, data), expected, `chunk ${chunkSize}`);
  });

  it.each(['bfloat16', 'float16'] as const)('in %s is no further from float64 than twice the reference', (compute) => {
    const data = makeData(c);
    const exact = float64(c, data);
    const reference = run(linearCrossEntropyReference, c, data, compute);
    for (const isa of isas) {
      addon()?.setIsa(isa);
      const ours = run(linearCrossEntropy, c, data, compute);
      for (const key of ['nll', 'dx', 'dWeight'] as const) {
        const error = (x: Float32Array): number =>
          x.reduce((most, value, i) => Math.max(most, Math.abs(value - exact[key][i]!)), 0);
        expect(error(ours[key]), `${isa} ${key}`).toBeLessThanOrEqual(2 * error(reference[key]));
      }
    }
  });

  it.skipIf(!addon()).each(['bfloat16', 'float16'] as const)('takes a head stored in %s as it is', (dtype) => {
    const data = makeData(c);
    data.weight = roundValues(data.weight, dtype);
    const bits = new Uint16Array(data.weight.length);
    addon()!.floatToHalf(data.weight, dtype === 'bfloat16' ? 1 : 2, bits);
    const expected = run(linearCrossEntropy, c, data);
    tf.tidy(() => {
      const weight = makeWeight(bits, [c.V, c.C], dtype) as Tensor2D;
      const loss = (x: Tensor): Tensor =>
        linearCrossEntropy(x as Tensor2D, weight, data.labels, { compute: 'float32', chunkSize: 10 });
      const dx = tf.grad(loss)(tf.tensor2d(data.x, [c.N, c.C]), tf.tensor1d(data.dNll));
      expectClose(dx.dataSync(), expected.dx, { relToMax: 2e-6 });
    });
  });

  it('shows a non-finite row and keeps it to itself', () => {
    const data = makeData({ ...c, targets: 'all' });
    data.x[5 * c.C] = Infinity;
    data.x[5 * c.C + 1] = -Infinity;
    const { nll } = run(linearCrossEntropy, c, data);
    expect(nll.map((value) => (Number.isFinite(value) ? 0 : 1)).reduce((sum, bad) => sum + bad, 0)).toBe(1);
    expect(nll[5]).toBeNaN();
  });

  it('gives the same loss with and without a tape', () => {
    const data = makeData(c);
    tf.tidy(() => {
      const x = tf.tensor2d(data.x, [c.N, c.C]);
      const weight = tf.tensor2d(data.weight, [c.V, c.C]);
      const loss = (input: Tensor2D): Tensor => linearCrossEntropy(input, weight, data.labels, { compute: 'float32' });
      let taped = new Float32Array();
      tf.grad((input) => {
        const value = loss(input as Tensor2D);
        taped = value.dataSync() as Float32Array<ArrayBuffer>;
        return value;
      })(x).dispose();
      expect(loss(x).dataSync()).toEqual(taped);
    });
  });
});
