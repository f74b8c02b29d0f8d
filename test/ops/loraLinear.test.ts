import { beforeAll, describe, expect, it } from 'vitest';
import { addon } from '../../src/backend/addon.js';
import { useBackend } from '../../src/backend/index.js';
import type { ComputeDtype, StorageDtype } from '../../src/backend/dtype.js';
import { tf, type Tensor1D, type Tensor2D } from '../../src/backend/tf.js';
import { linear } from '../../src/ops/linear.js';
import { loraLinear, loraLinearReference } from '../../src/ops/loraLinear.js';
import { expectClose } from '../expectClose.js';
import { check, COMPUTES, numbers, product, read, STORAGES, type Values, weightTensor } from './linearCases.js';

interface Case {
  n: number;
  inFeatures: number;
  outFeatures: number;
  rank: number;
  bias: boolean;
  scaling: number;
  storage: StorageDtype;
  compute: ComputeDtype;
}

interface Inputs {
  x: Tensor2D;
  weight: Tensor2D;
  a: Tensor2D;
  b: Tensor2D;
  bias: Tensor1D;
  g: Tensor2D;
}

function makeInputs(c: Case): Inputs {
  return {
    x: tf.tensor2d(numbers(c.n * c.inFeatures, 1), [c.n, c.inFeatures]),
    weight: weightTensor(numbers(c.outFeatures * c.inFeatures, 2), [c.outFeatures, c.inFeatures], c.storage),
    a: tf.tensor2d(numbers(c.rank * c.inFeatures, 5), [c.rank, c.inFeatures]),
    b: tf.tensor2d(numbers(c.outFeatures * c.rank, 6), [c.outFeatures, c.rank]),
    bias: tf.tensor1d(numbers(c.outFeatures, 3)),
    g: tf.tensor2d(numbers(c.n * c.outFeatures, 4), [c.n, c.outFeatures]),
  };
}

/** Values and gradients of sum(y * g). */
function run(op: typeof loraLinear, c: Case): Values {
  return tf.tidy(() => {
    const { x, weight, a, b, bias, g } = makeInputs(c);
    const apply = (...args: tf.Tensor[]): Tensor2D =>
      op(args[0] as Tensor2D, weight, args[1] as Tensor2D, args[2] as Tensor2D, {
        scaling: c.scaling,
        bias: c.bias ? (args[3] as Tensor1D) : undefined,
        compute: c.compute,
      });
    const inputs = c.bias ? [x, a, b, bias] : [x, a, b];
    const grads = tf.grads((...args: tf.Tensor[]) => tf.sum(tf.mul(apply(...args), g)))(inputs);
    const [dx, da, db, dBias] = grads as [tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor];
    return read({ y: apply(...inputs), dx, da, db, ...(c.bias ? { dBias } : {}) });
  });
}

function exactValues(c: Case): Values {
  const { n, inFeatures, outFeatures, rank, scaling } = c;
  const x = numbers(n * inFeatures, 1);
  const weight = numbers(outFeatures * inFeatures, 2);
  weightTensor(weight, [outFeatures, inFeatures], c.storage).dispose(); // rounds to what is stored
  const a = numbers(rank * inFeatures, 5);
  const b = numbers(outFeatures * rank, 6);
  const bias = numbers(outFeatures, 3);
  const g = numbers(n * outFeatures, 4);
  const h = product(x, a, n, rank, inFeatures, false, true);
  const u = product(g, b, n, rank, outFeatures).map((value) => scaling * value);
  const y = product(x, weight, n, outFeatures, inFeatures, false, true);
  const low = product(h, b, n, outFeatures, rank, false, true);
  const dx = product(g, weight, n, inFeatures, outFeatures);
  const dxLow = product(u, a, n, inFeatures, rank);
  const dBias = new Float64Array(outFeatures);
  for (let i = 0; i < y.length; i++) {
    y[i]! += scaling * low[i]! + (c.bias ? bias[i % outFeatures]! : 0);
    dBias[i % outFeatures]! += g[i]!;
  }
  for (let i = 0; i < dx.length; i++) dx[i]! += dxLow[i]!;
  const da = product(u, x, rank, inFeatures, n, true);
  const db = product(g, h, outFeatures, rank, n, true).map((value) => scaling * value);
  return { y, dx, da, db, ...(c.bias ? { dBias } : {}) };
}

const SHAPES: [number, number, number, number, boolean, number][] = [
  [1, 24, 40, 8, true, 2],
  [4, 9, 7, 1, false, 0.7],
  [17, 33, 65, 8, true, 2],
  [35, 130, 31, 64, false, 0.25],
];

describe('loraLinear', () => {
  beforeAll(async () => {
    await useBackend('native');
  });

  for (const storage of STORAGES)
    for (const compute of COMPUTES)
      it(`equals float64 loops: ${storage} weights, ${compute} products`, async () => {
        for (const [n, inFeatures, outFeatures, rank, bias, scaling] of SHAPES) {
          const c: Case = { n, inFeatures, outFeatures, rank, bias, scaling, storage, compute };
          await useBackend('native');
          const native = run(loraLinear, c);
          const exact = exactValues(c);
          await useBackend('cpu');
          const plain = run(loraLinearReference, c);
          check(`native [${n}, ${inFeatures}] -> ${outFeatures} r ${rank}`, compute, native, exact, plain);
          if (compute === 'float32') check('reference', compute, plain, exact, plain);
        }
      });

  const small: Case = {
    n: 6,
    inFeatures: 16,
    outFeatures: 12,
    rank: 4,
    bias: true,
    scaling: 0,
    storage: 'float32',
    compute: 'float32',
  };

  it('with scaling 0 equals the base layer', async () => {
    await useBackend('native');
    tf.tidy(() => {
      const { x, weight, a, b, bias } = makeInputs(small);
      const y = loraLinear(x, weight, a, b, { scaling: 0, bias, compute: 'float32' });
      expectClose(y.dataSync(), linear(x, weight, { bias, compute: 'float32' }).dataSync(), { relToMax: 1e-7 });
    });
  });

  it('drops inputs of the adapter only, and equally on every backend', async () => {
    const program = (op: typeof loraLinear) => (): Float32Array =>
      tf.tidy(() => {
        const { x, weight, a, b } = makeInputs(small);
        const dropout = { rate: 0.5, seed: 7 };
        return op(x, weight, a, b, { scaling: 2, compute: 'float32', dropout }).dataSync() as Float32Array;
      });
    await useBackend('cpu');
    const expected = program(loraLinearReference)();
    const without = tf.tidy(() => {
      const { x, weight, a, b } = makeInputs(small);
      return loraLinear(x, weight, a, b, { scaling: 2, compute: 'float32' }).dataSync();
    });
    expect(() => expectClose(without, expected, { relToMax: 1e-3 })).toThrow();
    await useBackend('native');
    expectClose(program(loraLinear)(), expected, { relToMax: 2e-6 });
  });

  it.skipIf(!addon())('leaves no tensor behind', async () => {
    await useBackend('native');
    run(loraLinear, small);
    const before = tf.memory();
    run(loraLinear, small);
    expect(tf.memory().numTensors).toBe(before.numTensors);
    expect(tf.memory().numBytes).toBe(before.numBytes);
  });

  it('refuses sizes that do not fit', () => {
    const { x, weight, a, b } = makeInputs(small);
    expect(() => loraLinear(x, weight, b, a, { scaling: 1, compute: 'float32' })).toThrow(/a \[12, 4\] and b \[4, 16\]/);
  });
});
