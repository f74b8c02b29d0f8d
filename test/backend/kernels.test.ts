/** Each replaced kernel against the stock one: odd shapes, broadcasting, NaN, infinities, signed zeros, other dtypes. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { addon } from '../../src/backend/addon.js';
import { makeWeight, useBackend } from '../../src/backend/index.js';
import { tf, type Tensor } from '../../src/backend/tf.js';
import { expectClose } from '../expectClose.js';
import { onBoth, seeded } from './bothBackends.js';

type Program = () => Tensor | Tensor[];

async function compare(program: Program): Promise<{ cpu: number[]; native: number[] }[]> {
  const run = (): { shape: number[]; dtype: string; values: number[] }[] =>
    tf.tidy(() => {
      const out = program();
      return (Array.isArray(out) ? out : [out]).map((x) => ({
        shape: x.shape,
        dtype: x.dtype,
        values: Array.from(x.dataSync()),
      }));
    });
  const { cpu, native } = await onBoth(run);
  expect(native.map(({ shape, dtype }) => ({ shape, dtype }))).toEqual(cpu.map(({ shape, dtype }) => ({ shape, dtype })));
  return cpu.map((expected, i) => ({ cpu: expected.values, native: native[i]?.values ?? [] }));
}

/** Bit for bit; -0 differs from 0. */
async function exact(program: Program): Promise<void> {
  for (const { cpu, native } of await compare(program)) {
    const at = native.findIndex((value, i) => !Object.is(value, cpu[i]));
    if (at >= 0) throw new Error(`element ${at}: ${native[at]}, expected ${cpu[at]}`);
  }
}

async function close(program: Program, relToMax: number): Promise<void> {
  for (const { cpu, native } of await compare(program)) expectClose(native, cpu, { relToMax, allowNonFinite: true });
}

const SPECIAL = [NaN, Infinity, -Infinity, 0, -0, 1, -1, 1e-40, -3e38, 0.5, 88.8, -104];

/** Numbers of many sizes with the special ones strewn in. */
function sample(shape: number[], seed: number, special = true): Tensor {
  const random = seeded(seed);
  const size = shape.reduce((product, d) => product * d, 1);
  const values = Float32Array.from({ length: size }, () => {
    if (special && random() < 0.15) return SPECIAL[Math.floor(random() * SPECIAL.length)] as number;
    return (random() - 0.5) * 10 ** (random() * 4 - 2);
  });
  return tf.tensor(values, shape);
}

const BROADCASTS: [number[], number[]][] = [
  [[], []],
  [[7], []],
  [[], [7]],
  [[7], [7]],
  [[1], [13]],
  [[3, 5], [5]],
  [
    [3, 5],
    [3, 1],
  ],
  [
    [3, 1],
    [1, 5],
  ],
  [
    [2, 3, 5],
    [3, 1],
  ],
  [
    [2, 1, 5, 1],
    [1, 3, 1, 4],
  ],
  [
    [4, 1, 1, 3],
    [4, 2, 5, 3],
  ],
  [
    [257, 129],
    [257, 129],
  ],
  [[257, 129], [129]],
  [
    [301, 1],
    [301, 131],
  ],
  [[40001], [40001]],
  [
    [2, 1, 2, 1, 2, 1],
    [1, 2, 1, 2, 1, 2],
  ],
  [[0, 3], [3]],
];

describe.skipIf(!addon())('elementwise', () => {
  const exactOps = [
    'add',
    'sub',
    'mul',
    'div',
    'maximum',
    'minimum',
    'equal',
    'notEqual',
    'less',
    'lessEqual',
    'greater',
    'greaterEqual',
  ] as const;

  it.each(exactOps)('%s equals the stock kernel bit for bit', async (op) => {
    for (const [i, [a, b]] of BROADCASTS.entries()) await exact(() => tf[op](sample(a, i), sample(b, i + 100)));
  });

  it('squaredDifference', async () => {
    for (const [i, [a, b]] of BROADCASTS.entries())
      await close(() => tf.squaredDifference(sample(a, i, false), sample(b, i + 9, false)), 3e-7);
  });

  it.each(['neg', 'abs', 'square', 'sqrt', 'relu', 'step'] as const)('%s equals the stock kernel bit for bit', async (op) => {
    for (const shape of [[], [1], [33], [5, 7], [40001], [0]]) await exact(() => tf[op](sample(shape, 5)));
  });

  it.each(['rsqrt', 'reciprocal', 'exp', 'log', 'sigmoid', 'tanh'] as const)('%s is good to a few ulp', async (op) => {
    // Measured on all instruction sets: 2.4e-7 of the value at most; stock: float64, rounded once.
    for (const { cpu, native } of await compare(() => tf[op](sample([9001], 6)))) {
      const at = native.findIndex((value, i) => {
        const expected = cpu[i] as number;
        if (!Number.isFinite(expected) || expected === 0) return !Object.is(value, expected);
        return !(Math.abs(value - expected) <= 6e-7 * Math.abs(expected) + 1e-44);
      });
      if (at >= 0) throw new Error(`element ${at}: ${native[at]}, expected ${cpu[at]}`);
    }
  });

  it('step with a slope', async () => exact(() => tf.step(sample([33], 5), 0.25)));

  it('addN and where', async () => {
    await exact(() => tf.addN([sample([257, 33], 1, false), sample([257, 33], 2), sample([257, 33], 3)]));
    await exact(() => tf.where(tf.greater(sample([31, 17], 1), 0), sample([31, 17], 2), sample([31, 17], 3)));
    await exact(() => tf.where(tf.tensor1d([1, 0, 1], 'bool'), sample([3], 2), sample([3], 3)));
  });

  it('leaves other dtypes to the stock kernels', async () => {
    const ints = (seed: number): Tensor => tf.cast(sample([5, 7], seed, false).mul(1e9), 'int32');
    await exact(() => tf.add(ints(1), ints(2)));
    await exact(() => tf.mul(ints(1), sample([5, 7], 3)));
    await exact(() => tf.maximum(ints(1), tf.scalar(3, 'int32')));
    await exact(() => tf.add(tf.complex([1, 2], [3, 4]), tf.complex([5, 6], [7, 8])).abs());
    await exact(() => tf.equal(tf.tensor(['a', 'b'], [2], 'string'), tf.tensor(['a', 'c'], [2], 'string')));
  });
});

const REDUCTIONS: [number[], number[] | undefined][] = [
  [[1], undefined],
  [[33], undefined],
  [[40001], undefined],
  [[5, 7], [0]],
  [[5, 7], [1]],
  [
    [5, 7],
    [0, 1],
  ],
  [[3, 1, 5], [1]],
  [[3, 4, 5], [1]],
  [
    [3, 4, 5],
    [0, 2],
  ],
  [
    [2, 3, 4, 5],
    [1, 3],
  ],
  [
    [2, 3, 4, 5],
    [0, 2],
  ],
  [[301, 517], [0]],
  [[301, 517], [-1]],
  [[3, 40000], [1]],
  [[4, 0, 3], [1]],
];

describe.skipIf(!addon())('reductions', () => {
  it.each(['sum', 'mean', 'max', 'min', 'prod'] as const)('%s', async (op) => {
    for (const [i, [shape, axes]] of REDUCTIONS.entries())
      for (const keepDims of [false, true]) await close(() => tf[op](sample(shape, i, false), axes, keepDims), 4e-7);
  });

  it.each(['max', 'min'] as const)('%s lets NaN through and copes with infinities', async (op) => {
    for (const [i, [shape, axes]] of REDUCTIONS.entries()) {
      const zeroFree = (): Tensor => tf.where(tf.equal(sample(shape, i), 0), tf.onesLike(sample(shape, i)), sample(shape, i));
      if (!shape.includes(0)) await exact(() => tf[op](zeroFree(), axes));
    }
  });

  it('sums in float64, the same for any number of threads', async () => {
    await useBackend('native', { threads: 1 });
    const one = tf.tidy(() => tf.sum(sample([1_000_003], 4, false)).dataSync()[0]);
    await useBackend('native', { threads: 2 });
    const two = tf.tidy(() => tf.sum(sample([1_000_003], 4, false)).dataSync()[0]);
    expect(two).toBe(one);
    const total = tf.tidy(() => Array.from(sample([1_000_003], 4, false).dataSync()).reduce((sum, value) => sum + value, 0));
    expect(one).toBe(Math.fround(total));
  });

  it('reduces int32 and bool as the stock kernels do', async () => {
    await exact(() => tf.sum(tf.tensor2d([1, 2, 3, 4], [2, 2], 'int32'), 0));
    await exact(() => tf.mean(tf.tensor2d([1, 2, 3, 4], [2, 2], 'int32'), 0));
    await exact(() => tf.sum(tf.tensor1d([1, 0, 1], 'bool')));
    await exact(() => tf.max(tf.tensor1d([1, 5, 2], 'int32')));
  });

  it('softmax', async () => {
    for (const shape of [[1], [7], [3, 1], [5, 33], [2, 3, 129], [3, 40000]])
      await close(() => tf.softmax(sample(shape, 8, false)), 1e-6);
    await close(() => tf.softmax(tf.tensor2d([1, NaN, 2, -Infinity, 0, 1, 3e38, 3e38, 0], [3, 3])), 1e-6);
  });
});

describe.skipIf(!addon())('movement', () => {
  it('transpose', async () => {
    const cases: [number[], number[]][] = [
      [[5], [0]],
      [
        [5, 7],
        [1, 0],
      ],
      [
        [5, 7],
        [0, 1],
      ],
      [
        [1, 7],
        [1, 0],
      ],
      [
        [129, 257],
        [1, 0],
      ],
      [
        [2, 3, 4],
        [1, 0, 2],
      ],
      [
        [2, 3, 4],
        [2, 1, 0],
      ],
      [
        [2, 33, 4, 65],
        [0, 2, 1, 3],
      ],
      [
        [2, 33, 4, 65],
        [0, 2, 3, 1],
      ],
      [
        [2, 1, 3, 1, 5, 2],
        [5, 1, 4, 3, 0, 2],
      ],
    ];
    for (const [shape, perm] of cases) {
      await exact(() => tf.transpose(sample(shape, 3), perm));
      await exact(() => tf.transpose(sample(shape, 3, false).mul(1000).cast('int32'), perm));
      await exact(() => tf.transpose(sample(shape, 3).greater(0), perm));
    }
  });

  it('slice, split, unstack, concat, stack', async () => {
    const x = (): Tensor => sample([5, 7, 9], 4);
    await exact(() => tf.slice(x(), [1, 0, 0], [3, 7, 9]));
    await exact(() => tf.slice(x(), [1, 2, 3], [2, -1, 4]));
    await exact(() => tf.slice(x(), [0, 6], [5, 1]));
    await exact(() => tf.slice(x(), [0, 2, 0], [5, 0, 9]));
    await exact(() => tf.split(x(), [2, 4, 1], 1));
    await exact(() => tf.split(x(), 3, 2));
    await exact(() => tf.unstack(x(), 1));
    await exact(() => tf.unstack(x(), -1));
    await exact(() => tf.stack([x(), x().neg()], 1));
    await exact(() => tf.stack([x(), x().neg()], -1));
    for (const axis of [0, 1, 2, -1]) await exact(() => tf.concat([x(), x().neg(), x()], axis));
    await exact(() => tf.concat([sample([3, 0], 1) as tf.Tensor2D, sample([3, 4], 1) as tf.Tensor2D], 1));
    await exact(() => tf.concat([tf.tensor1d([1, 2], 'int32'), tf.tensor1d([3], 'int32')]));
    await exact(() => tf.concat([tf.tensor1d([true, false], 'bool'), tf.tensor1d([true], 'bool')]));
    await exact(() => tf.concat([tf.tensor1d(['a']), tf.tensor1d(['b'])]).equal('a'));
  });

  it('gather, also from 16-bit tables, and refuses what is outside', async () => {
    const indices = [4, 0, 2, 2];
    for (const axis of [0, 1, 2]) await exact(() => tf.gather(sample([5, 6, 7], 4), tf.tensor1d(indices, 'int32'), axis));
    await exact(() => tf.gather(sample([5, 3], 4), tf.tensor2d(indices, [2, 2], 'int32')));
    await exact(() => tf.gather(tf.tensor1d([5, 6, 7, 8, 9], 'int32'), tf.tensor1d(indices, 'int32')));
    await exact(() => tf.gather(sample([2, 3, 4], 4), tf.tensor2d([0, 1, 2, 0], [2, 2], 'int32'), 1, 1));
    const bits = Uint16Array.from({ length: 15 }, (_, i) => 0x3f00 + 16 * i);
    for (const dtype of ['bfloat16', 'float16'] as const)
      await exact(() => tf.gather(makeWeight(bits, [5, 3], dtype), tf.tensor1d(indices, 'int32')));
    await useBackend('native');
    expect(() => tf.gather(tf.ones([5, 3]), tf.tensor1d([5], 'int32'))).toThrow('the index value 5 is not in [0, 4]');
  });

  it('cast and fill', async () => {
    await exact(() => tf.cast(tf.tensor1d([1.9, -1.9, NaN, Infinity, 3e9, -0]), 'int32'));
    await exact(() => tf.cast(tf.tensor1d([1, -2, 3], 'int32'), 'float32'));
    await exact(() => tf.cast(tf.tensor1d([1, 0, 1], 'bool'), 'float32'));
    await exact(() => tf.cast(tf.tensor1d([1.5, 0, NaN]), 'bool'));
    await exact(() => tf.fill([3, 2], 1.5));
    await exact(() => tf.fill([3, 0], 1.5));
    await exact(() => [tf.zerosLike(tf.ones([3])), tf.onesLike(tf.zeros([3], 'int32')), tf.zerosLike(tf.ones([2], 'bool'))]);
    await useBackend('native');
    const floats = tf.cast(tf.tensor1d([1, 2], 'int32'), 'float32');
    expect(floats.dataSync()).toBeInstanceOf(Float32Array);
  });
});

describe.skipIf(!addon())('matmul', () => {
  beforeAll(async () => useBackend('native'));

  it.each([
    [
      [1, 1],
      [1, 1],
    ],
    [
      [5, 7],
      [7, 3],
    ],
    [
      [65, 33],
      [33, 17],
    ],
    [
      [2, 5, 7],
      [2, 7, 3],
    ],
    [
      [2, 5, 7],
      [7, 3],
    ],
    [
      [5, 7],
      [2, 7, 3],
    ],
    [
      [1, 5, 7],
      [4, 7, 3],
    ],
    [
      [2, 3, 5, 7],
      [2, 3, 7, 4],
    ],
    [
      [0, 7],
      [7, 3],
    ],
  ])('%j by %j, transposed in every way', async (a, b) => {
    const swap = (shape: number[]): number[] => [...shape.slice(0, -2), shape.at(-1) as number, shape.at(-2) as number];
    for (const transposeA of [false, true])
      for (const transposeB of [false, true])
        await close(
          () =>
            tf.matMul(
              sample(transposeA ? swap(a) : a, 1, false),
              sample(transposeB ? swap(b) : b, 2, false),
              transposeA,
              transposeB,
            ),
          2e-6,
        );
  });

  it.each(['linear', 'relu', 'sigmoid', 'relu6', 'elu', 'leakyrelu'] as const)('fused with bias and %s', async (activation) => {
    for (const bias of [[3], [1, 3], [5, 3], []])
      await close(
        () =>
          tf.fused.matMul({
            a: sample([5, 7], 1, false),
            b: sample([7, 3], 2, false),
            bias: sample(bias, 3, false),
            activation,
          }),
        2e-6,
      );
  });
});

describe.skipIf(!addon())('every instruction set', () => {
  const { isa: best, isas } = addon()?.runtimeInfo() ?? { isa: '', isas: [] };
  afterAll(() => addon()?.setIsa(best));

  it.each(isas)('%s', async (isa) => {
    addon()?.setIsa(isa);
    await exact(() => [tf.maximum(sample([3001], 1), sample([3001], 2)), tf.mul(sample([61, 50], 1), sample([61, 1], 2))]);
    await exact(() => [tf.greater(sample([3001], 1), 0), tf.relu(sample([3001], 1)), tf.sqrt(sample([3001], 1))]);
    await close(() => [tf.exp(sample([3001], 1, false)), tf.tanh(sample([3001], 1)), tf.log(sample([3001], 2).abs())], 3e-7);
    await close(() => [tf.sum(sample([301, 77], 1, false), 0), tf.sum(sample([301, 77], 1, false), 1)], 1e-7);
    await close(() => [tf.softmax(sample([31, 1077], 1, false)), tf.max(sample([31, 77], 1), 1)], 1e-6);
  });
});
