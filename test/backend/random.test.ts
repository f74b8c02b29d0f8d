/**
 * Random programs on `native` and on `cpu`, equal bit for bit. Tensors live and die at random, results of dataSync are
 * held to the end, native and stock kernels alternate: a buffer that is reused too early shows as a wrong number.
 */
import { describe, expect, it } from 'vitest';
import { tf, type Tensor } from '../../src/backend/tf.js';
import { onBoth, seeded } from './bothBackends.js';

const ROWS = 24;
const COLUMNS = 32;

/** Every result has this shape, and whole numbers below 1000, so that sums are exact in any order. */
const settle = (x: Tensor): Tensor => tf.clipByValue(tf.round(x), -999, 999);

const OPS: ((x: Tensor, y: Tensor) => Tensor)[] = [
  (x, y) => tf.add(x, y),
  (x, y) => tf.sub(x, y),
  (x, y) => tf.mul(x, y),
  (x, y) => tf.div(x, tf.add(tf.abs(y), 1)),
  (x, y) => tf.maximum(x, tf.neg(y)),
  (x, y) => tf.where(tf.greater(x, y), x, tf.relu(y)),
  (x, y) => tf.add(x, tf.sum(y, 0)),
  (x, y) => tf.sub(x, tf.max(y, 1, true)),
  (x, y) => tf.mul(x, tf.mean(y, 1, true)),
  (x) => tf.sqrt(tf.abs(x)),
  (x) => tf.transpose(tf.transpose(x)),
  (x) => tf.transpose(tf.reshape(tf.transpose(tf.reshape(x, [4, 6, COLUMNS]), [1, 0, 2]), [ROWS, COLUMNS]).clone()).transpose(),
  (x, y) => tf.concat([tf.slice(x, [0, 0], [ROWS, 10]), tf.slice(y, [0, 10], [ROWS, COLUMNS - 10])], 1),
  (x, y) => tf.concat([...tf.split(x, 2).slice(1), ...tf.split(y, 2).slice(0, 1)]),
  (x) => tf.stack(tf.unstack(x).reverse()),
  (x) => tf.gather(x, tf.range(0, ROWS, 1, 'int32').reverse()),
  (x) => tf.cast(tf.cast(x, 'int32'), 'float32'),
  (x) => tf.cast(tf.cast(x, 'bool'), 'float32'),
  (x) => tf.reverse(x, 1),
  (x) =>
    tf.slice(
      tf.pad(x as tf.Tensor2D, [
        [1, 1],
        [0, 2],
      ]),
      [1, 0],
      [ROWS, COLUMNS],
    ),
  (x) => tf.tile(tf.slice(x, [3, 0], [1, COLUMNS]), [ROWS, 1]),
  (x) => tf.cumsum(tf.div(x, 100), 1),
  (x, y) => tf.addN([x, y, x]),
  (x, y) => tf.matMul(tf.matMul(x, y, false, true), y).div(64),
  (x) =>
    tf
      .grad((z: Tensor) => tf.relu(z).mul(z).square().sum())(x)
      .div(8),
  (x) => tf.squaredDifference(x, tf.zerosLike(x)),
  (x, y) => tf.add(x, tf.onesLike(y)),
  (x) => x.reshape([COLUMNS, ROWS]).reshape([ROWS, COLUMNS]),
  (x) => x.clone(),
];

function program(seed: number, steps: number): number[] {
  const random = seeded(seed);
  const pick = (n: number): number => Math.floor(random() * n);
  const before = tf.memory().numTensors;
  const live: Tensor[] = [];
  const held: ArrayLike<number>[] = [];
  const fresh = (): Tensor =>
    tf.tensor2d(
      Float32Array.from({ length: ROWS * COLUMNS }, () => pick(19) - 9),
      [ROWS, COLUMNS],
    );
  for (let i = 0; i < 4; i++) live.push(fresh());
  for (let step = 0; step < steps; step++) {
    const x = live[pick(live.length)] as Tensor;
    const y = live[pick(live.length)] as Tensor;
    const op = OPS[pick(OPS.length)] as (typeof OPS)[number];
    live.push(tf.tidy(() => settle(op(x, y))));
    if (random() < 0.2) held.push((live[pick(live.length)] as Tensor).dataSync());
    while (live.length > 9 || (live.length > 2 && random() < 0.3)) (live.splice(pick(live.length), 1)[0] as Tensor).dispose();
    if (random() < 0.05) live.push(fresh());
  }
  for (const x of live) held.push(x.dataSync());
  tf.dispose(live);
  expect(tf.memory().numTensors).toBe(before);
  return held.flatMap((array) => Array.from(array));
}

describe('random programs', () => {
  it.each(Array.from({ length: 12 }, (_, seed) => seed))('seed %i', async (seed) => {
    const { cpu, native } = await onBoth(() => program(seed, 120));
    expect(native.length).toBe(cpu.length);
    const at = native.findIndex((value, i) => value !== cpu[i]);
    expect(at < 0 ? 'equal' : `element ${at}: ${String(native[at])}, expected ${String(cpu[at])}`).toBe('equal');
  });
});
