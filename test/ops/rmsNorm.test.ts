import { beforeAll, describe, expect, it } from 'vitest';
import { addon } from '../../src/backend/addon.js';
import { useBackend } from '../../src/backend/index.js';
import { tf, type Tensor1D, type Tensor2D } from '../../src/backend/tf.js';
import { rmsNorm, rmsNormReference } from '../../src/ops/rmsNorm.js';
import { expectClose } from '../expectClose.js';
import { randomFloats } from './floats.js';

const EPS = 1e-5;
const SHAPES: [number, number][] = [
  [1, 1],
  [3, 5],
  [7, 16],
  [2, 17],
  [1, 64],
  [65, 127],
  [130, 128],
  [64, 129],
  [5, 288],
  [200, 33],
];

interface Values {
  y: Float64Array;
  dx: Float64Array;
  dweight: Float64Array;
}

/** The formula in plain float64 loops; dx and dweight for the loss sum(y * dy). */
function float64(x: Float32Array, weight: Float32Array, dy: Float32Array, rows: number, columns: number): Values {
  const y = new Float64Array(rows * columns);
  const dx = new Float64Array(rows * columns);
  const dweight = new Float64Array(columns);
  for (let r = 0; r < rows; r++) {
    const at = (c: number): number => r * columns + c;
    let square = 0;
    for (let c = 0; c < columns; c++) square += x[at(c)]! ** 2;
    const inverse = 1 / Math.sqrt(square / columns + EPS);
    let dot = 0;
    for (let c = 0; c < columns; c++) dot += dy[at(c)]! * weight[c]! * x[at(c)]!;
    for (let c = 0; c < columns; c++) {
      y[at(c)] = x[at(c)]! * inverse * weight[c]!;
      dx[at(c)] = inverse * dy[at(c)]! * weight[c]! - (x[at(c)]! * inverse ** 3 * dot) / columns;
      dweight[c]! += dy[at(c)]! * x[at(c)]! * inverse;
    }
  }
  return { y, dx, dweight };
}

function run(op: typeof rmsNorm, x: Tensor2D, weight: Tensor1D, dy: Tensor2D): Record<keyof Values, Float32Array> {
  return tf.tidy(() => {
    const y = op(x, weight, EPS);
    const [dx, dweight] = tf.grads((a, b) => op(a as Tensor2D, b as Tensor1D, EPS))([x, weight], dy);
    return { y: y.dataSync(), dx: dx!.dataSync(), dweight: dweight!.dataSync() } as never;
  });
}

describe.each(['native', 'cpu', 'wasm'])('rmsNorm on %s', (backend) => {
  beforeAll(() => useBackend(backend));

  it.each(SHAPES)('equals the float64 loops, values and gradients, [%i, %i]', (rows, columns) => {
    const x = randomFloats(rows * columns, 1, 3);
    const weight = randomFloats(columns, 2, 2);
    const dy = randomFloats(rows * columns, 3);
    const expected = float64(x, weight, dy, rows, columns);
    for (const op of [rmsNorm, rmsNormReference]) {
      const actual = run(op, tf.tensor2d(x, [rows, columns]), tf.tensor1d(weight), tf.tensor2d(dy, [rows, columns]));
      // Measured for y: 1.4e-7 of the largest element. dx of one column is a difference of equals.
      expectClose(actual.y, expected.y, { relToMax: 1e-6, label: `${op.name} y` });
      expectClose(actual.dx, expected.dx, { relToMax: 2e-6, abs: columns === 1 ? 3e-6 : 1e-7, label: `${op.name} dx` });
      expectClose(actual.dweight, expected.dweight, { relToMax: 2e-6, label: `${op.name} dweight` });
    }
  });

  it('survives rows of zeros and of large values, and no rows at all', () => {
    const y = rmsNorm(
      tf.tensor2d([
        [0, 0],
        [1e18, -1e18],
      ]),
      tf.tensor1d([1, 2]),
      EPS,
    );
    expectClose(y.dataSync(), [0, 0, 1, -2], { abs: 1e-5 });
    expect(rmsNorm(tf.zeros([0, 4]), tf.ones([4]), EPS).shape).toEqual([0, 4]);
  });

  it('keeps nothing and leaks nothing', () => {
    const x = tf.tensor2d(randomFloats(12, 4), [3, 4]);
    const weight = tf.tensor1d([1, 1, 1, 1]);
    const before = tf.memory().numTensors;
    tf.dispose(tf.grad((a) => rmsNorm(a as Tensor2D, weight, EPS))(x));
    expect(tf.memory().numTensors).toBe(before);
  });

  it('refuses shapes that disagree', () => {
    expect(() => rmsNorm(tf.zeros([2, 3]), tf.zeros([4]), EPS)).toThrow(/rmsNorm: x \[2,3\] and weight \[4\]/);
  });
});

describe.skipIf(!addon())('rmsNorm kernels', () => {
  it('give the same bits on every instruction set that has fused multiply-add, and for every number of threads', async () => {
    await useBackend('native');
    const native = addon()!;
    const { isas, isa, threads } = native.runtimeInfo();
    const shape: [number, number] = [301, 203];
    const args = [
      tf.tensor2d(randomFloats(301 * 203, 5), shape),
      tf.tensor1d(randomFloats(203, 6)),
      tf.tensor2d(randomFloats(301 * 203, 7), shape),
    ] as const;
    const expected = run(rmsNorm, ...args);
    for (const name of isas) {
      native.setIsa(name);
      for (const count of [1, 2, 3]) {
        native.setNumThreads(count);
        const actual = run(rmsNorm, ...args);
        const tolerance = name === 'portable' ? { relToMax: 1e-6 } : { abs: 0 };
        for (const key of ['y', 'dx', 'dweight'] as const)
          expectClose(actual[key], expected[key], { ...tolerance, label: `${name} ${count} ${key}` });
      }
    }
    native.setIsa(isa);
    native.setNumThreads(threads);
  });
});
