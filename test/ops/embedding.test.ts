import { beforeAll, describe, expect, it } from 'vitest';
import { addon } from '../../src/backend/addon.js';
import { makeWeight, useBackend } from '../../src/backend/index.js';
import { tf, type Tensor2D } from '../../src/backend/tf.js';
import { embedding, embeddingReference } from '../../src/ops/embedding.js';
import { expectClose } from '../expectClose.js';
import { randomFloats } from './floats.js';

const SHAPES: [number, number, number][] = [
  [1, 1, 1],
  [5, 3, 7],
  [40, 11, 65],
  [129, 7, 128],
  [3, 50, 200],
];

const randomIds = (n: number, vocab: number): Int32Array =>
  Int32Array.from(randomFloats(n, n + vocab), (value) => Math.floor(((value + 1) / 2) * vocab));

describe.each(['native', 'cpu', 'wasm'])('embedding on %s', (backend) => {
  beforeAll(() => useBackend(backend));

  it.each(SHAPES)('looks rows up and adds gradients up, N %i, V %i, C %i', (n, vocab, columns) => {
    const ids = randomIds(n, vocab);
    const table = randomFloats(vocab * columns, 1);
    const dy = randomFloats(n * columns, 2);
    const y = Float32Array.from(
      { length: n * columns },
      (_, i) => table[ids[Math.floor(i / columns)]! * columns + (i % columns)]!,
    );
    const dTable = new Float64Array(vocab * columns);
    dy.forEach((value, i) => (dTable[ids[Math.floor(i / columns)]! * columns + (i % columns)]! += value));
    for (const op of [embedding, embeddingReference]) {
      const run = (x: tf.Tensor): tf.Tensor => op(tf.tensor1d(ids, 'int32'), x as Tensor2D);
      const tensor = tf.tensor2d(table, [vocab, columns]);
      expectClose(run(tensor).dataSync(), y, { abs: 0, label: op.name });
      expectClose(
        tf
          .grad(run)(tensor, tf.tensor2d(dy, [n, columns]))
          .dataSync(),
        dTable,
        { relToMax: 1e-6, label: op.name },
      );
    }
  });

  it('upcasts 16-bit tables exactly', () => {
    const bits = Uint16Array.from([0x3f80, 0xc000, 0x0001, 0x7f7f, 0x8000, 0x4049]);
    const expected = Array.from(bits, (b) => new Float32Array(Uint32Array.of(b << 16).buffer)[0]!);
    const table = makeWeight(bits, [3, 2], 'bfloat16') as Tensor2D;
    expectClose(
      embedding(tf.tensor1d([2, 0, 1], 'int32'), table).dataSync(),
      [4, 5, 0, 1, 2, 3].map((i) => expected[i]!),
      { abs: 0 },
    );
    const half = makeWeight(Uint16Array.of(0x3c00, 0xc100, 0x0001, 0x7bff), [4, 1], 'float16') as Tensor2D;
    expectClose(embedding(tf.tensor1d([3, 2, 1, 0], 'int32'), half).dataSync(), [65504, 2 ** -24, -2.5, 1], { abs: 0 });
  });

  it('adds the gradient of a tied head', () => {
    const table = tf.variable(
      tf.tensor2d([
        [1, 2],
        [3, 4],
        [5, 6],
      ]),
    );
    const ids = tf.tensor1d([2, 2, 0], 'int32');
    const { grads } = tf.variableGrads(() =>
      tf.sum(tf.matMul(embedding(ids, table as unknown as Tensor2D), table as unknown as Tensor2D, false, true)),
    );
    // d/dE sum(E[ids] E^T): row v gets count(v) * column sums + sum of the looked-up rows.
    expectClose(grads[table.name]!.dataSync(), [9 + 11, 12 + 14, 0 + 11, 0 + 14, 18 + 11, 24 + 14], { abs: 1e-5 });
  });

  it('takes no ids, and refuses others than int32', () => {
    expect(embedding(tf.tensor1d([], 'int32'), tf.ones([2, 3])).shape).toEqual([0, 3]);
    expect(() => embedding(tf.tensor1d([0.5]), tf.ones([2, 3]))).toThrow(/embedding: ids float32 \[1\]/);
  });
});

describe.skipIf(!addon())('embedding kernels', () => {
  beforeAll(() => useBackend('native'));

  it.each([[-1], [4], [2 ** 31 - 1]])('refuses the id %i', (id) => {
    const before = tf.memory().numDataBuffers;
    tf.tidy(() => {
      expect(() => embedding(tf.tensor1d([0, id], 'int32'), tf.ones([4, 3]))).toThrow(
        expect.objectContaining({ code: 'NIFT_TOKEN_ID', message: `token id ${id} at position 1 is outside 0 ... 3` }) as Error,
      );
    });
    expect(tf.memory().numDataBuffers).toBe(before);
  });

  it('add gradients in the same order for every number of threads', () => {
    const native = addon()!;
    const { threads } = native.runtimeInfo();
    const ids = tf.tensor1d(randomIds(500, 3), 'int32');
    const dy = tf.tensor2d(randomFloats(500 * 150, 9), [500, 150]);
    const gradient = (): Float32Array =>
      tf.tidy(
        () =>
          tf
            .grad((x) => embedding(ids, x as Tensor2D))(tf.zeros([3, 150]), dy)
            .dataSync() as Float32Array,
      );
    native.setNumThreads(1);
    const expected = gradient();
    native.setNumThreads(3);
    expectClose(gradient(), expected, { abs: 0 });
    native.setNumThreads(threads);
  });
});
