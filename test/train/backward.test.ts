import { beforeAll, describe, expect, it } from 'vitest';
import { tf, type Tensor } from '../../src/backend/tf.js';
import { lossAndGradients } from '../../src/train/backward.js';

const values = (grads: (Tensor | null)[]): (number[] | null)[] =>
  grads.map((grad) => (grad ? Array.from(grad.dataSync()) : null));

describe('lossAndGradients', () => {
  beforeAll(async () => {
    await tf.setBackend('cpu');
  });

  const w1 = () => tf.variable(tf.randomNormal([5, 7], 0, 1, 'float32', 1), true);
  const w2 = () => tf.variable(tf.randomNormal([7, 3], 0, 1, 'float32', 2), true);

  it('gives the bits of tf.variableGrads, with a value used twice, a square and a custom gradient', () => {
    const a = w1();
    const b = w2();
    const x = tf.randomNormal<tf.Rank.R2>([4, 5], 0, 1, 'float32', 3);
    const twice = tf.customGrad((input) => ({ value: tf.mul(input as Tensor, 2), gradFunc: (dy) => [tf.mul(dy, 2)] }));
    const f = (): tf.Scalar => {
      const h = tf.relu(tf.matMul(x, a));
      const g = twice(h);
      const y = tf.matMul(tf.mul(tf.add(h, g), h), b);
      return tf.sum<tf.Scalar>(tf.add(tf.mul(y, y), tf.sum(h)));
    };
    const expected = tf.variableGrads(f, [a, b]);
    const actual = lossAndGradients(f, [a, b]);
    expect(actual.loss.dataSync()[0]).toBe(expected.value.dataSync()[0]);
    expect(values(actual.grads)).toEqual(values([expected.grads[a.name]!, expected.grads[b.name]!]));
  });

  it('leaves nothing behind but loss and gradients', () => {
    const a = w1();
    const b = w2();
    const unused = tf.variable(tf.zeros([2]), true);
    const before = tf.memory().numTensors;
    const { loss, grads } = lossAndGradients(() => tf.sum<tf.Scalar>(tf.softmax(tf.matMul(tf.tanh(a), b))), [a, b, unused]);
    expect(grads[2]).toBeNull();
    expect(tf.memory().numTensors).toBe(before + 3);
    tf.dispose([loss, grads[0]!, grads[1]!]);
    expect(tf.memory().numTensors).toBe(before);
  });

  it('cleans up and stays usable when the function throws', () => {
    const a = w1();
    const before = tf.memory().numTensors;
    const broken = (): tf.Scalar => {
      tf.softmax(tf.matMul(a, tf.ones([7, 2])));
      throw new Error('no');
    };
    expect(() => lossAndGradients(broken, [a])).toThrow('no');
    expect(tf.memory().numTensors).toBe(before);
    const { grads } = lossAndGradients(() => tf.sum<tf.Scalar>(a), [a]);
    expect(values(grads)).toEqual([Array.from({ length: 35 }, () => 1)]);
  });

  it('holds less at its peak than tf.variableGrads', () => {
    const weights = Array.from({ length: 12 }, (_, i) => tf.variable(tf.randomNormal([64, 64], 0, 0.1, 'float32', i), true));
    const x = tf.ones<tf.Rank.R2>([64, 64]);
    let peak = 0;
    const watched = tf.customGrad((input) => ({
      value: tf.clone(input as Tensor),
      gradFunc: (dy) => {
        peak = Math.max(peak, tf.memory().numBytes);
        return [tf.clone(dy)];
      },
    }));
    const f = (): tf.Scalar => tf.sum<tf.Scalar>(weights.reduce<Tensor>((h, w) => watched(tf.tanh(tf.matMul(h, w))), x));
    tf.dispose(tf.variableGrads(f, weights));
    const theirs = peak;
    peak = 0;
    tf.tidy(() => void lossAndGradients(f, weights));
    expect(peak).toBeLessThan(0.8 * theirs);
  });
});
