import { beforeAll, describe, expect, it } from 'vitest';
import { addon } from '../../src/backend/addon.js';
import { useBackend } from '../../src/backend/index.js';
import type { ComputeDtype, StorageDtype } from '../../src/backend/dtype.js';
import { tf, type Tensor1D, type Tensor2D } from '../../src/backend/tf.js';
import { linear, linearReference } from '../../src/ops/linear.js';
import { check, COMPUTES, numbers, product, read, STORAGES, type Values, weightTensor } from './linearCases.js';

interface Case {
  n: number;
  inFeatures: number;
  outFeatures: number;
  bias: boolean;
  storage: StorageDtype;
  compute: ComputeDtype;
}

/** Values and gradients of sum(y * g). */
function run(op: typeof linear, c: Case): Values {
  return tf.tidy(() => {
    const x = tf.tensor2d(numbers(c.n * c.inFeatures, 1), [c.n, c.inFeatures]);
    const weight = weightTensor(numbers(c.outFeatures * c.inFeatures, 2), [c.outFeatures, c.inFeatures], c.storage);
    const bias = tf.tensor1d(numbers(c.outFeatures, 3));
    const g = tf.tensor2d(numbers(c.n * c.outFeatures, 4), [c.n, c.outFeatures]);
    const apply = (...args: tf.Tensor[]): Tensor2D =>
      op(args[0] as Tensor2D, args[1] as Tensor2D, {
        bias: c.bias ? (args[2] as Tensor1D) : undefined,
        compute: c.compute,
      });
    const inputs = c.bias ? [x, weight, bias] : [x, weight];
    const grads = tf.grads((...args: tf.Tensor[]) => tf.sum(tf.mul(apply(...args), g)))(inputs);
    const [dx, dWeight, dBias] = grads as [tf.Tensor, tf.Tensor, tf.Tensor];
    return read({ y: apply(...inputs), dx, dWeight, ...(c.bias ? { dBias } : {}) });
  });
}

function exactValues(c: Case): Values {
  const { n, inFeatures, outFeatures } = c;
  const x = numbers(n * inFeatures, 1);
  const weight = numbers(outFeatures * inFeatures, 2);
  weightTensor(weight, [outFeatures, inFeatures], c.storage).dispose(); // rounds to what is stored
  const bias = numbers(outFeatures, 3);
  const g = numbers(n * outFeatures, 4);
  const y = product(x, weight, n, outFeatures, inFeatures, false, true);
  const dBias = new Float64Array(outFeatures);
  for (let i = 0; i < y.length; i++) {
    if (c.bias) y[i]! += bias[i % outFeatures]!;
    dBias[i % outFeatures]! += g[i]!;
  }
  return {
    y,
    dx: product(g, weight, n, inFeatures, outFeatures),
    dWeight: product(g, x, outFeatures, inFeatures, n, true),
    ...(c.bias ? { dBias } : {}),
  };
}

const SHAPES: [number, number, number, boolean][] = [
  [1, 5, 3, true],
  [2, 64, 48, false],
  [17, 33, 65, true],
  [40, 130, 31, false],
];

describe('linear', () => {
  beforeAll(async () => {
    await useBackend('native');
  });

  for (const storage of STORAGES)
    for (const compute of COMPUTES)
      it(`equals float64 loops: ${storage} weights, ${compute} products`, async () => {
        for (const [n, inFeatures, outFeatures, bias] of SHAPES) {
          const c: Case = { n, inFeatures, outFeatures, bias, storage, compute };
          await useBackend('native');
          const native = run(linear, c);
          const exact = exactValues(c);
          await useBackend('cpu');
          const plain = run(linearReference, c);
          check(`native [${n}, ${inFeatures}] -> ${outFeatures}`, compute, native, exact, plain);
          if (compute === 'float32') check('reference', compute, plain, exact, plain);
        }
      });

  it.skipIf(!addon())('runs as one kernel on native', async () => {
    await useBackend('native');
    expect(tf.getKernel('Linear', 'native')).toBeDefined();
    tf.tidy(() => {
      const x = tf.ones<tf.Rank.R2>([3, 4]);
      const before = tf.memory().numTensors;
      linear(x, x, { compute: 'float32' });
      expect(tf.memory().numTensors).toBe(before + 1);
    });
  });

  it('refuses sizes that do not fit', () => {
    const x = tf.zeros<tf.Rank.R2>([2, 3]);
    const weight = tf.zeros<tf.Rank.R2>([5, 4]);
    expect(() => linear(x, weight, { compute: 'float32' })).toThrow(/x \[2, 3\] and weight \[5, 4\]/);
  });
});
