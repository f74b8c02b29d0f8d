import { beforeAll, describe, expect, it } from 'vitest';
import { NativeBackend, useBackend } from '../../src/backend/index.js';
import { tf } from '../../src/backend/tf.js';

const stats = () => (tf.backend() as NativeBackend).memoryStats();

/** A little of everything that a training step does; the shapes vary as batches do. */
function trainingStep(weights: tf.Variable[], rows: number): void {
  const [first, second] = weights as [tf.Variable<tf.Rank.R2>, tf.Variable<tf.Rank.R2>];
  const { value, grads } = tf.variableGrads(() =>
    tf.tidy(() => {
      const x = tf.randomNormal<tf.Rank.R2>([rows, 48], 0, 1, 'float32', rows);
      const hidden = tf.tanh(tf.matMul(x, first));
      const [left, right] = tf.split(hidden, 2, 1) as [tf.Tensor2D, tf.Tensor2D];
      const mixed = tf.concat([tf.mul(left, right), tf.softplus(left)], 1);
      return tf.mean<tf.Scalar>(tf.square(tf.softmax(tf.matMul(mixed, second))));
    }),
  );
  value.dataSync();
  for (const weight of weights) {
    const next = tf.tidy(() => tf.sub(weight, tf.mul(grads[weight.name] as tf.Tensor, 0.1)));
    weight.assign(next);
    next.dispose();
  }
  tf.dispose([value, grads]);
}

describe('memory', () => {
  beforeAll(async () => useBackend('native'));

  it('is flat over 200 training steps', () => {
    const weights = [tf.variable(tf.randomNormal([48, 96])), tf.variable(tf.randomNormal([96, 32]))];
    const sizes = [33, 64, 50, 17];
    for (let i = 0; i < 8; i++) trainingStep(weights, sizes[i % 4] as number);
    const tensors = tf.memory();
    const warm = stats();
    (tf.backend() as NativeBackend).resetPeak();
    for (let i = 0; i < 200; i++) trainingStep(weights, sizes[i % 4] as number);
    expect(tf.memory().numTensors).toBe(tensors.numTensors);
    expect(tf.memory().numDataBuffers).toBe(tensors.numDataBuffers);
    expect(tf.memory().numBytes).toBe(tensors.numBytes);
    expect(stats().bytes).toBe(warm.bytes);
    expect(stats().pooledBytes).toBe(warm.pooledBytes);
    expect(stats().peakBytes).toBe(warm.peakBytes);
    tf.dispose(weights);
  });

  it('counts every live byte once, and the peak', () => {
    const backend = tf.backend() as NativeBackend;
    const before = stats().bytes;
    const x = tf.ones([100, 100]);
    const y = x.reshape([10000]);
    expect(stats().bytes - before).toBe(40_000);
    backend.resetPeak();
    tf.tidy(() => void tf.add(x, x));
    expect(stats().bytes - before).toBe(40_000);
    expect(stats().peakBytes - before).toBe(80_000);
    tf.dispose([x, y]);
    expect(stats().bytes).toBe(before);
    expect(tf.memory().unreliable).toBe(false);
  });

  it('keeps the process small over 10,000 tensors made and disposed', () => {
    const cycle = (i: number): void => tf.tidy(() => void tf.add(tf.fill([1000 + (i % 50), 25], 1), 1));
    for (let i = 0; i < 1000; i++) cycle(i);
    const before = process.memoryUsage().rss;
    for (let i = 0; i < 10_000; i++) cycle(i);
    // 20,000 tensors of 100 kB pass through: 2 GB.
    expect(process.memoryUsage().rss - before).toBeLessThan(60e6);
  });
});
