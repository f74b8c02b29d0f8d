import { beforeAll, describe, expect, it } from 'vitest';
import { addon } from '../../src/backend/addon.js';
import { useBackend } from '../../src/backend/index.js';
import { tf } from '../../src/backend/tf.js';
import { placeSeed, dropout, dropoutMask, dropoutReference } from '../../src/ops/dropout.js';
import { expectClose } from '../expectClose.js';
import { randomFloats } from './floats.js';

const SEED = 2 ** 40 + 12345;

describe.each(['native', 'cpu', 'wasm'])('dropout on %s', (backend) => {
  beforeAll(() => useBackend(backend));

  it.each([1, 7, 1000, 70_001])('multiplies by the mask, forward and backward, %i elements', (size) => {
    const values = randomFloats(size, 1);
    const options = { rate: 0.3, seed: SEED };
    const mask = dropoutMask(size, options);
    const x = tf.tensor1d(values);
    const expected = values.map((value, i) => value * mask[i]!);
    for (const op of [dropout, dropoutReference]) {
      expectClose(op(x, options).dataSync(), expected, { abs: 0, label: op.name });
      expectClose(
        tf
          .grad((a) => op(a, options))(x, tf.ones([size]))
          .dataSync(),
        mask,
        { abs: 0, label: `${op.name} gradient` },
      );
    }
  });

  it('keeps everything at rate 0, and refuses bad rates and seeds', () => {
    const x = tf.ones([4]);
    expect(dropout(x, { rate: 0, seed: 1 })).toBe(x);
    for (const rate of [1, -0.1, NaN]) expect(() => dropout(x, { rate, seed: 1 })).toThrow(/dropout: rate/);
    for (const seed of [-1, 0.5, 2 ** 53]) expect(() => dropout(x, { rate: 0.5, seed })).toThrow(/dropout: seed/);
  });
});

describe('dropout masks', () => {
  const kept = (mask: Float32Array): number => mask.reduce((sum, value) => sum + (value > 0 ? 1 : 0), 0);

  it.each([0.05, 0.1, 0.5, 0.9])('drop a share of %f', (rate) => {
    const n = 100_000;
    const expected = n * (1 - rate);
    const deviation = Math.sqrt(n * rate * (1 - rate));
    for (const seed of [0, 1, 2, SEED])
      expect(Math.abs(kept(dropoutMask(n, { rate, seed })) - expected)).toBeLessThan(4.5 * deviation);
  });

  it('are independent between neighbouring seeds and neighbouring elements', () => {
    const n = 100_000;
    const a = dropoutMask(n, { rate: 0.5, seed: 7 });
    const b = dropoutMask(n, { rate: 0.5, seed: 8 });
    let both = 0;
    let neighbours = 0;
    for (let i = 0; i < n; i++) {
      if (a[i]! > 0 && b[i]! > 0) both++;
      if (a[i]! > 0 && a[(i + 1) % n]! > 0) neighbours++;
    }
    const deviation = Math.sqrt(n * 0.25 * 0.75);
    expect(Math.abs(both - n / 4)).toBeLessThan(4.5 * deviation);
    expect(Math.abs(neighbours - n / 4)).toBeLessThan(4.5 * deviation);
  });

  it('derive different seeds for different places, the same for the same', () => {
    const seeds = new Set<number>();
    for (let step = 0; step < 50; step++) for (let layer = 0; layer < 50; layer++) seeds.add(placeSeed(42, step, layer));
    expect(seeds.size).toBe(2500);
    for (const seed of seeds) expect(Number.isSafeInteger(seed) && seed >= 0).toBe(true);
    expect(placeSeed(42, 3, 4)).toBe(placeSeed(42, 3, 4));
    expect(placeSeed(42, 3, 4)).not.toBe(placeSeed(42, 4, 3));
  });

  it.skipIf(!addon())('are the same bits in the kernel on every instruction set', () => {
    const native = addon()!;
    const { isas, isa } = native.runtimeInfo();
    const ones = new Float32Array(70_001).fill(1);
    for (const name of isas) {
      native.setIsa(name);
      const y = tf.tidy(() => dropout(tf.tensor1d(ones), { rate: 0.1, seed: 3 }).dataSync());
      expectClose(y, dropoutMask(ones.length, { rate: 0.1, seed: 3 }), { abs: 0, label: name });
    }
    native.setIsa(isa);
  });
});
