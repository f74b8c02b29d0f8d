import { beforeAll, describe, expect, it } from 'vitest';
import { useBackend } from '../../src/backend/index.js';
import { tf, type Tensor2D } from '../../src/backend/tf.js';
import { residualAdd } from '../../src/ops/residualAdd.js';

describe.each(['native', 'cpu'])('residualAdd on %s', (backend) => {
  beforeAll(() => useBackend(backend));

  it('adds, and hands the gradient to both sides', () => {
    const x = tf.tensor2d([1, -2, 3, 4, 5, 6], [2, 3]);
    const block = tf.tensor2d([0.5, 2, -3, 1, 0, 1], [2, 3]);
    const weights = tf.tensor2d([1, 2, 3, -1, 0, 7], [2, 3]);
    expect(Array.from(residualAdd(x, block).dataSync())).toEqual([1.5, 0, 0, 5, 5, 7]);
    const loss = (a: tf.Tensor, b: tf.Tensor): tf.Scalar => tf.sum(tf.mul(residualAdd(a as Tensor2D, b as Tensor2D), weights));
    const [dx, dblock] = tf.grads(loss)([x, block]) as [tf.Tensor, tf.Tensor];
    expect(Array.from(dx.dataSync())).toEqual([1, 2, 3, -1, 0, 7]);
    expect(Array.from(dblock.dataSync())).toEqual([1, 2, 3, -1, 0, 7]);
  });

  it('sums the gradients when both sides are one tensor', () => {
    const x = tf.tensor2d([1, 2, 3, 4], [2, 2]);
    const gradient = tf.grad((a: tf.Tensor) => tf.sum(residualAdd(a as Tensor2D, a as Tensor2D)))(x);
    expect(Array.from(gradient.dataSync())).toEqual([2, 2, 2, 2]);
  });

  it('keeps nothing for the backward pass', () => {
    const x = tf.variable(tf.ones([4, 4]));
    const saved = tf.tidy(() => {
      let count = -1;
      tf.variableGrads(() => {
        const y = residualAdd(x as unknown as Tensor2D, x as unknown as Tensor2D);
        count = tf.engine().state.activeTape.flatMap((node) => node.saved ?? []).length;
        return tf.sum(y);
      });
      return count;
    });
    expect(saved).toBe(0);
  });
});
