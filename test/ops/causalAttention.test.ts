import { afterEach, beforeAll, describe, expect, it } from 'vitest';
import { addon } from '../../src/backend/addon.js';
import { useBackend } from '../../src/backend/index.js';
import { tf, type Tensor2D } from '../../src/backend/tf.js';
import { causalAttention, causalAttentionReference, type CausalAttentionOptions } from '../../src/ops/causalAttention.js';
import { usesKernel } from '../../src/ops/registry.js';
import { expectClose } from '../expectClose.js';
import { attentionData, attentionFloat64, cumulative, type AttentionCase, type AttentionData } from './attentionFloat64.js';

type Op = (q: Tensor2D, k: Tensor2D, v: Tensor2D, options: CausalAttentionOptions) => Tensor2D;
interface Run {
  out: Float32Array;
  dq: Float32Array;
  dk: Float32Array;
  dv: Float32Array;
}

function run(op: Op, c: AttentionCase, data: AttentionData, compute: CausalAttentionOptions['compute'] = 'float32'): Run {
  const { numHeads, numKvHeads, headDim } = c;
  return tf.tidy(() => {
    const q = tf.tensor2d(data.q, [data.tokens, numHeads * headDim]);
    const k = tf.tensor2d(data.k, [data.tokens, numKvHeads * headDim]);
    const v = tf.tensor2d(data.v, [data.tokens, numKvHeads * headDim]);
    const options: CausalAttentionOptions = { ...c, cuSeqlens: data.cuSeqlens, compute };
    const attend = (...x: tf.Tensor[]): tf.Tensor => op(x[0] as Tensor2D, x[1] as Tensor2D, x[2] as Tensor2D, options);
    const dOut = tf.tensor2d(data.dOut, q.shape);
    const { value, grads } = tf.valueAndGrads((...x) => tf.sum(tf.mul(attend(...x), dOut)))([q, k, v]);
    value.dispose();
    const [dq, dk, dv] = grads.map((gradient) => gradient.dataSync() as Float32Array);
    return { out: attend(q, k, v).dataSync() as Float32Array, dq: dq!, dk: dk!, dv: dv! };
  });
}

const shape = (
  lengths: number[],
  numHeads: number,
  numKvHeads: number,
  headDim: number,
  slidingWindow: number | null = null,
): AttentionCase => ({
  lengths,
  numHeads,
  numKvHeads,
  headDim,
  slidingWindow,
});

// Lengths around the block of 64, primes, 1 and 0; windows inside, at and beyond a block; groups of 1, 4, 8; odd head sizes.
const CASES: AttentionCase[] = [
  shape([1], 1, 1, 1),
  shape([1, 2, 3], 2, 1, 3),
  shape([5, 0, 1], 4, 4, 8),
  shape([63, 64, 65], 2, 2, 16),
  shape([97], 8, 1, 59),
  shape([113, 7], 4, 1, 64),
  shape([130], 2, 2, 111),
  shape([67], 1, 1, 128),
  shape([66], 2, 1, 256),
  shape([129, 31], 2, 2, 48),
  shape([40], 2, 2, 16, 1),
  shape([150, 20], 2, 1, 16, 8),
  shape([200], 1, 1, 24, 64),
  shape([260], 1, 1, 20, 65),
  shape([193], 2, 1, 8, 130),
  shape([50], 1, 1, 16, 1000),
  { ...shape([70], 2, 2, 12), scale: 0.5 },
];

// Largest error measured over these cases: 6e-7 of the largest element.
const LIMIT = { relToMax: 3e-6 };

function expectRun(actual: Run, expected: { [key in keyof Run]: ArrayLike<number> }, limit: { relToMax: number }): void {
  for (const key of ['out', 'dq', 'dk', 'dv'] as const)
    expectClose(actual[key], expected[key], { ...limit, abs: 1e-6, label: key });
}

function rootMeanSquare(x: Float32Array): number {
  return Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / x.length);
}

const isas = addon()?.runtimeInfo().isas ?? [];

describe('causalAttention', () => {
  beforeAll(async () => void (await useBackend('native')));
  afterEach(() => {
    const info = addon()?.runtimeInfo();
    if (info) addon()!.setIsa(info.isas[info.isas.length - 1]!);
  });

  it.each(CASES)('equals float64: $lengths heads $numHeads/$numKvHeads D $headDim window $slidingWindow', (c) => {
    const data = attentionData(c);
    const expected = attentionFloat64(c, data);
    expectRun(run(causalAttention, c, data), expected, LIMIT);
  });

  it.each(isas)('equals float64 on %s', (isa) => {
    addon()!.setIsa(isa);
    for (const c of [shape([65, 3], 4, 2, 59), shape([130], 2, 1, 48, 30)]) {
      const data = attentionData(c, 7);
      expectRun(run(causalAttention, c, data), attentionFloat64(c, data), LIMIT);
    }
  });

  it.skipIf(!addon())('runs its kernel on native', () => expect(usesKernel('CausalAttention')).toBe(true));

  it('reference equals float64, on native and on cpu', async () => {
    const c = shape([17, 1, 9], 4, 2, 7, 5);
    const data = attentionData(c);
    const expected = attentionFloat64(c, data);
    expectRun(run(causalAttentionReference, c, data), expected, LIMIT);
    await useBackend('cpu');
    expectRun(run(causalAttention, c, data), expected, LIMIT);
    await useBackend('native');
  });

  it('packed sequences equal separate ones bit for bit', () => {
    const c = shape([70, 1, 33], 4, 2, 20, 40);
    const data = attentionData(c);
    const packed = run(causalAttention, c, data);
    c.lengths.forEach((length, b) => {
      const begin = data.cuSeqlens[b]!;
      const cut = (x: Float32Array, heads: number): Float32Array =>
        x.slice(begin * heads * c.headDim, (begin + length) * heads * c.headDim);
      const part = {
        q: cut(data.q, 4),
        k: cut(data.k, 2),
        v: cut(data.v, 2),
        dOut: cut(data.dOut, 4),
        tokens: length,
        cuSeqlens: cumulative([length]),
      };
      const alone = run(causalAttention, { ...c, lengths: [length] }, part);
      expect(alone.out).toEqual(cut(packed.out, 4));
      expect(alone.dq).toEqual(cut(packed.dq, 4));
      expect(alone.dk).toEqual(cut(packed.dk, 2));
      expect(alone.dv).toEqual(cut(packed.dv, 2));
    });
  });

  it.skipIf(!addon())('does not depend on the number of threads', () => {
    const c = shape([131, 64, 9], 6, 2, 24);
    const data = attentionData(c);
    const { threads } = addon()!.runtimeInfo();
    for (const compute of ['float32', 'bfloat16'] as const) {
      const many = run(causalAttention, c, data, compute);
      addon()!.setNumThreads(1);
      const one = run(causalAttention, c, data, compute);
      addon()!.setNumThreads(threads);
      expect(one).toEqual(many);
    }
  });

  it.each(['bfloat16', 'float16'] as const)('in %s is no further from float64 than twice the reference', (compute) => {
    const cases = [shape([90, 30], 4, 2, 32), shape([65], 2, 1, 59, 20), shape([3, 129], 2, 2, 48), shape([70], 8, 1, 8)];
    for (const c of cases) {
      const data = attentionData(c);
      const exact = attentionFloat64(c, data);
      const reference = run(causalAttentionReference, c, data, compute);
      for (const isa of isas) {
        addon()!.setIsa(isa);
        const ours = run(causalAttention, c, data, compute);
        for (const key of ['out', 'dq', 'dk', 'dv'] as const) {
          const error = (x: Float32Array): number => rootMeanSquare(x.map((value, i) => value - exact[key][i]!));
          expect(error(ours[key]), `${isa} D ${c.headDim} ${key}`).toBeLessThanOrEqual(2 * error(reference[key]) + 1e-7);
          expect(ours[key].every(Number.isFinite)).toBe(true);
        }
      }
    }
  });

  it('shows a non-finite input instead of hiding it', () => {
    const c = shape([70], 1, 1, 16);
    const data = attentionData(c);
    data.q[3 * 16] = NaN;
    const { out } = run(causalAttention, c, data);
    expect(out.slice(3 * 16, 4 * 16).every(Number.isNaN)).toBe(true);
    expect(out.slice(4 * 16).every(Number.isFinite)).toBe(true);
  });

  it('leaves no tensor behind', () => {
    const c = shape([20], 2, 1, 8);
    const data = attentionData(c);
    const before = tf.memory().numTensors;
    run(causalAttention, c, data);
    expect(tf.memory().numTensors).toBe(before);
    const x = tf.zeros<tf.Rank.R2>([20, 16]);
    const kv = tf.zeros<tf.Rank.R2>([20, 8]);
    causalAttention(x, kv, kv, { ...c, cuSeqlens: data.cuSeqlens, compute: 'float32' }).dispose();
    expect(tf.memory().numTensors).toBe(before + 2);
    tf.dispose([x, kv]);
  });

  it('names shapes that do not fit', () => {
    const x = tf.zeros<tf.Rank.R2>([4, 6]);
    const attempt = (change: Partial<CausalAttentionOptions>): (() => void) => {
      const options = {
        numHeads: 2,
        numKvHeads: 2,
        headDim: 3,
        slidingWindow: null,
        cuSeqlens: cumulative([4]),
        compute: 'float32' as const,
      };
      return () => causalAttention(x, x, x, { ...options, ...change });
    };
    expect(attempt({ headDim: 4 })).toThrow(/q needs 2 heads x 4 columns.*\[4,6\]/);
    expect(attempt({ numKvHeads: 3 })).toThrow(/share/);
    expect(attempt({ slidingWindow: 0 })).toThrow(/window 0/);
    expect(attempt({ cuSeqlens: cumulative([3]) })).toThrow(/rise from 0 to 4/);
    x.dispose();
  });
});
