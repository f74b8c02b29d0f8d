import { beforeAll, describe, expect, it } from 'vitest';
import { addon } from '../../src/backend/addon.js';
import { useBackend } from '../../src/backend/index.js';
import { tf, type Tensor2D } from '../../src/backend/tf.js';
import { usesKernel } from '../../src/ops/registry.js';
import { rotaryEmbedding, rotaryEmbeddingReference, rotaryTables } from '../../src/ops/rotaryEmbedding.js';
import { expectClose } from '../expectClose.js';
import { randomValues } from './attentionFloat64.js';

const SHAPES = [
  { tokens: 1, numHeads: 1, D: 2 },
  { tokens: 7, numHeads: 3, D: 6 },
  { tokens: 13, numHeads: 4, D: 8 },
  { tokens: 65, numHeads: 2, D: 34 },
  { tokens: 301, numHeads: 5, D: 64 },
];

function frequencies(D: number): Float32Array {
  return Float32Array.from({ length: D / 2 }, (_, i) => 10000 ** ((-2 * i) / D));
}

/** Rotation by `direction` times the angle, in float64 from float32 angles. */
function float64(x: Float32Array, positions: Int32Array, numHeads: number, D: number, direction: number): Float64Array {
  const y = new Float64Array(x.length);
  const invFreq = frequencies(D);
  positions.forEach((position, n) => {
    for (let h = 0; h < numHeads; h++) {
      for (let i = 0; i < D / 2; i++) {
        const angle = direction * Math.fround(position * invFreq[i]!);
        const at = (n * numHeads + h) * D + i;
        y[at] = x[at]! * Math.cos(angle) - x[at + D / 2]! * Math.sin(angle);
        y[at + D / 2] = x[at + D / 2]! * Math.cos(angle) + x[at]! * Math.sin(angle);
      }
    }
  });
  return y;
}

describe.each(['native', 'cpu'])('rotaryEmbedding on %s', (backend) => {
  beforeAll(() => useBackend(backend));

  it.each(SHAPES)('rotates, and its gradient rotates back: $tokens tokens, $numHeads heads of $D', ({ tokens, numHeads, D }) => {
    const values = randomValues(tokens * numHeads * D, 5);
    const dy = randomValues(tokens * numHeads * D, 6);
    const positions = Int32Array.from({ length: tokens }, (_, n) => (n * 37) % 4096);
    for (const op of [rotaryEmbedding, rotaryEmbeddingReference]) {
      const before = tf.memory().numTensors;
      tf.tidy(() => {
        const { cos, sin } = rotaryTables(positions, frequencies(D), 1);
        const x = tf.tensor2d(values, [tokens, numHeads * D]);
        const rotate = (input: Tensor2D): Tensor2D => op(input, cos, sin, { numHeads });
        // Three float32 roundings of values up to 1.5.
        expectClose(rotate(x).dataSync(), float64(values, positions, numHeads, D, 1), { abs: 4e-7 });
        const gradient = tf.grad((input) => rotate(input as Tensor2D))(x, tf.tensor2d(dy, [tokens, numHeads * D]));
        expectClose(gradient.dataSync(), float64(dy, positions, numHeads, D, -1), { abs: 4e-7, label: 'gradient' });
      });
      expect(tf.memory().numTensors).toBe(before);
    }
  });

  it('names tables that do not fit', () => {
    tf.tidy(() => {
      const { cos, sin } = rotaryTables(Int32Array.of(0, 1), frequencies(4), 1);
      expect(() => rotaryEmbedding(tf.zeros([2, 12]), cos, sin, { numHeads: 2 })).toThrow(/tables \[2, 3\], got cos \[2,2\]/);
      expect(() => rotaryEmbedding(tf.zeros([2, 6]), cos, sin, { numHeads: 2 })).toThrow(/tables/);
    });
  });
});

describe('rotaryEmbedding kernel', () => {
  beforeAll(() => useBackend('native'));

  it.skipIf(!addon())('is used on native and equal on every instruction set and number of threads', () => {
    expect(usesKernel('RotaryEmbedding')).toBe(true);
    const { isas, threads } = addon()!.runtimeInfo();
    tf.tidy(() => {
      const { cos, sin } = rotaryTables(
        Int32Array.from({ length: 300 }, (_, n) => n),
        frequencies(38),
        1,
      );
      const x = tf.tensor2d(randomValues(300 * 3 * 38, 9), [300, 3 * 38]);
      const results = isas.map((isa) => {
        addon()!.setIsa(isa);
        return rotaryEmbedding(x, cos, sin, { numHeads: 3 }).dataSync();
      });
      for (const result of results) expectClose(result, results[0]!, { abs: 2e-7 });
      addon()!.setNumThreads(1);
      expect(rotaryEmbedding(x, cos, sin, { numHeads: 3 }).dataSync()).toEqual(results[results.length - 1]);
      addon()!.setNumThreads(threads);
    });
  });

  it('scales both tables by the attention factor', () => {
    tf.tidy(() => {
      const { cos, sin } = rotaryTables(Int32Array.of(0, 3), Float32Array.of(0.5), 2);
      expectClose(cos.dataSync(), [2, 2 * Math.cos(1.5)], { abs: 3e-7 });
      expectClose(sin.dataSync(), [0, 2 * Math.sin(1.5)], { abs: 3e-7 });
    });
  });
});
