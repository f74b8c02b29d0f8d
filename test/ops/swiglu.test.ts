import { beforeAll, describe, expect, it } from 'vitest';
import { addon } from '../../src/backend/addon.js';
import { useBackend } from '../../src/backend/index.js';
import { tf, type Tensor2D } from '../../src/backend/tf.js';
import { swiglu, swigluReference } from '../../src/ops/swiglu.js';
import { expectClose } from '../expectClose.js';
import { randomFloats } from './floats.js';

const SHAPES: [number, number][] = [
  [1, 1],
  [3, 5],
  [1, 17],
  [2, 172],
  [9, 31],
  [127, 129],
  [41, 400],
];

function float64(gate: Float32Array, up: Float32Array, dy: Float32Array) {
  const y = new Float64Array(gate.length);
  const dGate = new Float64Array(gate.length);
  const dUp = new Float64Array(gate.length);
  gate.forEach((g, i) => {
    const s = 1 / (1 + Math.exp(-g));
    y[i] = g * s * up[i]!;
    dGate[i] = dy[i]! * up[i]! * s * (1 + g * (1 - s));
    dUp[i] = dy[i]! * g * s;
  });
  return { y, dGate, dUp };
}

function run(
  op: typeof swiglu,
  gate: Tensor2D,
  up: Tensor2D,
  dy: Tensor2D,
): { y: Float32Array; dGate: Float32Array; dUp: Float32Array } {
  return tf.tidy(() => {
    const y = op(gate, up);
    const [dGate, dUp] = tf.grads((a, b) => op(a as Tensor2D, b as Tensor2D))([gate, up], dy);
    return { y: y.dataSync(), dGate: dGate!.dataSync(), dUp: dUp!.dataSync() } as never;
  });
}

describe.each(['native', 'cpu', 'wasm'])('swiglu on %s', (backend) => {
  beforeAll(() => useBackend(backend));

  it.each(SHAPES)('equals the float64 loops, values and gradients, [%i, %i]', (rows, columns) => {
    const [gate, up, dy] = [
      randomFloats(rows * columns, 1, 12),
      randomFloats(rows * columns, 2, 2),
      randomFloats(rows * columns, 3),
    ];
    const expected = float64(gate, up, dy);
    const shape: [number, number] = [rows, columns];
    for (const op of [swiglu, swigluReference]) {
      const actual = run(op, tf.tensor2d(gate, shape), tf.tensor2d(up, shape), tf.tensor2d(dy, shape));
      // Measured for y: 1.3e-7 of the largest element.
      expectClose(actual.y, expected.y, { relToMax: 6e-7, label: `${op.name} y` });
      expectClose(actual.dGate, expected.dGate, { relToMax: 1e-6, label: `${op.name} dGate` });
      expectClose(actual.dUp, expected.dUp, { relToMax: 6e-7, label: `${op.name} dUp` });
    }
  });

  it('saturates without NaN', () => {
    const gate = tf.tensor2d([[-1e4, -200, -90, 0, 90, 1e4]]);
    const actual = run(swiglu, gate, tf.onesLike(gate), tf.onesLike(gate));
    expectClose(actual.y, [0, 0, 0, 0, 90, 1e4], { abs: 1e-3 });
    expectClose(actual.dGate, [0, 0, 0, 0.5, 1, 1], { abs: 1e-6 });
  });

  it('takes one tensor as both inputs, and no rows', () => {
    const x = tf.tensor2d([[1.5, -2]]);
    const dx = tf.grad((a) => swiglu(a as Tensor2D, a as Tensor2D))(x);
    const both = float64(Float32Array.of(1.5, -2), Float32Array.of(1.5, -2), Float32Array.of(1, 1));
    expectClose(dx.dataSync(), [both.dGate[0]! + both.dUp[0]!, both.dGate[1]! + both.dUp[1]!], { abs: 1e-6 });
    expect(swiglu(tf.zeros([0, 3]), tf.zeros([0, 3])).shape).toEqual([0, 3]);
  });

  it('leaks nothing, and refuses shapes that differ', () => {
    const [gate, up] = [tf.ones<tf.Rank.R2>([2, 3]), tf.ones<tf.Rank.R2>([2, 3])];
    const before = tf.memory().numTensors;
    tf.dispose(tf.grads((a, b) => swiglu(a as Tensor2D, b as Tensor2D))([gate, up]));
    expect(tf.memory().numTensors).toBe(before);
    expect(() => swiglu(gate, tf.ones([3, 2]))).toThrow(/swiglu: gate \[2,3\] and up \[3,2\]/);
  });
});

describe.skipIf(!addon())('swiglu kernels', () => {
  it('agree on every instruction set and give the same bits for every number of threads', async () => {
    await useBackend('native');
    const native = addon()!;
    const { isas, isa, threads } = native.runtimeInfo();
    const shape: [number, number] = [211, 205];
    const args = [1, 2, 3].map((seed) => tf.tensor2d(randomFloats(211 * 205, seed, 9), shape)) as [Tensor2D, Tensor2D, Tensor2D];
    const expected = run(swiglu, ...args);
    for (const name of isas) {
      native.setIsa(name);
      const first = run(swiglu, ...args);
      for (const key of ['y', 'dGate', 'dUp'] as const) expectClose(first[key], expected[key], { relToMax: 1e-6, label: name });
      for (const count of [1, 3]) {
        native.setNumThreads(count);
        expect(run(swiglu, ...args)).toEqual(first);
      }
    }
    native.setIsa(isa);
    native.setNumThreads(threads);
  });
});
