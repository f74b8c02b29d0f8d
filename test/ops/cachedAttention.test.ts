import { beforeAll, describe, expect, it } from 'vitest';
import { addon } from '../../src/backend/addon.js';
import { useBackend } from '../../src/backend/index.js';
import { tf, type Tensor2D } from '../../src/backend/tf.js';
import { cachedAttention, createKvCache, type KvCache } from '../../src/ops/cachedAttention.js';
import { usesKernel } from '../../src/ops/registry.js';
import { expectClose } from '../expectClose.js';
import { attentionData, attentionFloat64, type AttentionCase, type AttentionData } from './attentionFloat64.js';

/** Tokens of each sequence in each step: prompts of different lengths, single tokens, and a pause. */
interface Decoding extends AttentionCase {
  steps: number[][];
  capacity: number;
}

const decoding = (
  steps: number[][],
  heads: [number, number, number],
  slidingWindow: number | null,
  capacity: number,
): Decoding => ({
  lengths: steps[0]!.map((_, b) => steps.reduce((sum, step) => sum + step[b]!, 0)),
  numHeads: heads[0],
  numKvHeads: heads[1],
  headDim: heads[2],
  slidingWindow,
  steps,
  capacity,
});
const ones = (batch: number, count: number): number[][] => Array.from({ length: count }, () => Array<number>(batch).fill(1));

const CASES = [
  decoding([[1], [1], [1]], [1, 1, 1], null, 1),
  decoding([[5, 1, 9], ...ones(3, 4)], [4, 2, 8], null, 32),
  decoding(
    [
      [3, 70],
      [0, 2],
      [1, 1],
      [66, 1],
    ],
    [8, 1, 59],
    null,
    2,
  ),
  decoding([[65, 64], ...ones(2, 3)], [4, 4, 16], 7, 80),
  decoding([[30], ...ones(1, 12)], [2, 1, 48], 1, 16),
  decoding([[255], ...ones(1, 4)], [8, 2, 24], null, 300), // crosses a part of 256 keys
  decoding([[600], ...ones(1, 2)], [2, 1, 16], 300, 700),
  decoding([[20, 3], ...ones(2, 3)], [20, 1, 32], null, 64), // more query heads than lanes share a key head
];

/** Feeds the rows of each step, and puts the outputs back in packed order. */
function decode(c: Decoding, data: AttentionData, cache: KvCache, compute: 'float32' | 'bfloat16' = 'float32'): Float32Array {
  const out = new Float32Array(data.q.length);
  const done = c.lengths.map(() => 0);
  for (const step of c.steps) {
    const rows = step.flatMap((count, b) => Array.from({ length: count }, (_, i) => data.cuSeqlens[b]! + done[b]! + i));
    const width = c.numHeads * c.headDim;
    const kvWidth = c.numKvHeads * c.headDim;
    const gather = (x: Float32Array, columns: number): Tensor2D =>
      tf.tensor2d(Float32Array.from(rows.flatMap((row) => Array.from(x.subarray(row * columns, (row + 1) * columns)))), [
        rows.length,
        columns,
      ]);
    tf.tidy(() => {
      const result = cachedAttention(gather(data.q, width), gather(data.k, kvWidth), gather(data.v, kvWidth), cache, 0, {
        numHeads: c.numHeads,
        slidingWindow: c.slidingWindow,
        queryLengths: Int32Array.from(step),
        compute,
      }).dataSync();
      rows.forEach((row, i) => out.set(result.subarray(i * width, (i + 1) * width), row * width));
    });
    cache.advance(Int32Array.from(step));
    step.forEach((count, b) => (done[b]! += count));
  }
  return out;
}

function cacheFor(c: Decoding, numLayers = 1): KvCache {
  return createKvCache({
    numLayers,
    batch: c.lengths.length,
    capacity: c.capacity,
    numKvHeads: c.numKvHeads,
    headDim: c.headDim,
  });
}

describe.each(['native', 'cpu'])('cachedAttention on %s', (backend) => {
  beforeAll(() => useBackend(backend));

  it.each(CASES)(
    'decodes what attention over everything gives: $steps heads $numHeads/$numKvHeads D $headDim window $slidingWindow',
    (c) => {
      const data = attentionData(c);
      const before = tf.memory().numTensors;
      const cache = cacheFor(c);
      // Largest error measured: 5e-7 of the largest element.
      expectClose(decode(c, data, cache), attentionFloat64(c, data).out, { relToMax: 3e-6 });
      expect(Array.from(cache.lengths)).toEqual(c.lengths);
      expect(cache.bytes).toBeGreaterThan(0);
      cache.dispose();
      expect(tf.memory().numTensors).toBe(before);
    },
  );

  it('drops and reorders sequences', () => {
    const heads = { numHeads: 2, numKvHeads: 1, headDim: 4, slidingWindow: null };
    const c: Decoding = { ...heads, lengths: [3, 4, 5], steps: [[2, 3, 4]], capacity: 3 };
    const data = attentionData(c);
    const expected = attentionFloat64(c, data).out;
    const cache = cacheFor(c);
    decode(c, data, cache);
    cache.select([2, 0]);
    expect(Array.from(cache.lengths)).toEqual([4, 2]);
    const rows = [11, 2]; // the last token of sequences 2 and 0
    const gather = (x: Float32Array, columns: number): Tensor2D =>
      tf.tensor2d(Float32Array.from(rows.flatMap((row) => Array.from(x.subarray(row * columns, (row + 1) * columns)))), [
        2,
        columns,
      ]);
    const queryLengths = Int32Array.of(1, 1);
    const options = { numHeads: 2, slidingWindow: null, queryLengths, compute: 'float32' as const };
    const out = cachedAttention(gather(data.q, 8), gather(data.k, 4), gather(data.v, 4), cache, 0, options);
    expectClose(out.dataSync(), [...expected.subarray(88, 96), ...expected.subarray(16, 24)], { relToMax: 3e-6 });
    expect(() => cache.select([0, 0])).toThrow(/distinct/);
    expect(() => cache.select([2])).toThrow(/below 2/);
    cache.dispose();
  });

  it('names what does not fit the cache', () => {
    const cache = createKvCache({ numLayers: 1, batch: 2, capacity: 4, numKvHeads: 1, headDim: 3 });
    const x = tf.zeros<tf.Rank.R2>([2, 3]);
    const attempt = (layer: number, lengths: number[]) => () =>
      cachedAttention(x, x, x, cache, layer, {
        numHeads: 1,
        slidingWindow: null,
        queryLengths: Int32Array.from(lengths),
        compute: 'float32',
      });
    expect(attempt(0, [1, 2])).toThrow(/3 tokens at layer 0 for 2 rows/);
    expect(attempt(0, [2])).toThrow(/1 query lengths/);
    expect(attempt(1, [1, 1])).toThrow(/1 layers/);
    expect(() => createKvCache({ numLayers: 1, batch: 0, capacity: 4, numKvHeads: 1, headDim: 3 })).toThrow(/batch is 0/);
    x.dispose();
    cache.dispose();
  });
});

describe('cachedAttention kernel', () => {
  beforeAll(() => useBackend('native'));

  it.skipIf(!addon())('is used on native, right on every instruction set, and equal for any number of threads', () => {
    expect(usesKernel('CachedAttention')).toBe(true);
    const { isas, threads } = addon()!.runtimeInfo();
    const c = CASES[2]!;
    const data = attentionData(c);
    let last = new Float32Array();
    for (const isa of isas) {
      addon()!.setIsa(isa);
      last = decode(c, data, cacheFor(c)) as Float32Array<ArrayBuffer>;
      expectClose(last, attentionFloat64(c, data).out, { relToMax: 3e-6, label: isa });
    }
    addon()!.setNumThreads(1);
    expect(decode(c, data, cacheFor(c))).toEqual(last);
    addon()!.setNumThreads(threads);
  });

  it.skipIf(!addon())('keeps layers apart', () => {
    const c = CASES[1]!;
    const cache = cacheFor(c, 2);
    const layers = [attentionData(c, 3), attentionData(c, 4)];
    const width = 32;
    const total = c.lengths.reduce((sum, length) => sum + length, 0);
    layers.forEach((data, layer) => {
      const x = (values: Float32Array, columns: number): Tensor2D => tf.tensor2d(values, [total, columns]);
      const options = { numHeads: 4, slidingWindow: null, queryLengths: Int32Array.from(c.lengths), compute: 'float32' as const };
      const out = cachedAttention(x(data.q, width), x(data.k, 16), x(data.v, 16), cache, layer, options);
      expectClose(out.dataSync(), attentionFloat64(c, data).out, { relToMax: 3e-6 });
    });
    cache.advance(Int32Array.from(c.lengths));
    cache.dispose();
  });
});
