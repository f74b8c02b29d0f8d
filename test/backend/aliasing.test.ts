/**
 * Buffers of disposed tensors are reused. These tests hold references in every way that TF.js allows, recycle as hard as
 * possible, and look whether anything changed.
 */
import { beforeAll, describe, expect, it } from 'vitest';
import { makeWeight, NativeBackend, useBackend } from '../../src/backend/index.js';
import { tf, type Tensor } from '../../src/backend/tf.js';
import { seeded } from './bothBackends.js';

const SIZE = 1024;
const ramp = (): Tensor => tf.range(0, SIZE).add(0);
const values = Array.from({ length: SIZE }, (_, i) => i);

/** Fills every idle buffer of this size with a sign of reuse. */
function recycle(): void {
  tf.tidy(() => {
    for (let i = 0; i < 20; i++) tf.fill([SIZE], -7).add(tf.fill([SIZE], -7));
  });
}

const list = (x: ArrayLike<number>): number[] => Array.from(x);

describe('what outlives a disposed tensor', () => {
  beforeAll(async () => useBackend('native'));

  it('dataSync', () => {
    const x = ramp();
    const held = x.dataSync();
    x.dispose();
    recycle();
    expect(list(held)).toEqual(values);
    expect(held.buffer.byteLength).toBe(SIZE * 4);
  });

  it('data, also when the tensor goes before the promise is awaited', async () => {
    const x = ramp();
    const promise = x.data();
    x.dispose();
    recycle();
    expect(list(await promise)).toEqual(values);
  });

  it('buffer and bytes', async () => {
    const x = ramp();
    const buffer = x.bufferSync();
    const bytes = (await x.bytes()) as Uint8Array;
    x.dispose();
    recycle();
    expect(list(buffer.values)).toEqual(values);
    expect(list(new Float32Array(bytes.buffer))).toEqual(values);
  });

  it.each<[string, (x: Tensor) => Tensor]>([
    ['clone', (x) => x.clone()],
    ['reshape', (x) => x.reshape([2, SIZE / 2])],
    ['expandDims', (x) => x.expandDims(0)],
    ['identity cast', (x) => x.cast('float32')],
    ['transpose without movement', (x) => x.reshape([1, SIZE]).transpose()],
    ['slice of all', (x) => x.slice(0)],
    ['concat of one', (x) => tf.concat([x as tf.Tensor1D])],
    ['stridedSlice', (x) => tf.stridedSlice(x, [0], [SIZE], [1])],
    ['split', (x) => tf.concat(tf.split(x, 4))],
    ['variable', (x) => tf.variable(x)],
    ['keep in tidy', (x) => tf.tidy(() => tf.keep(x.clone()))],
  ])('%s', (_, make) => {
    const x = ramp();
    const other = make(x);
    x.dispose();
    recycle();
    expect(list(other.dataSync())).toEqual(values);
    other.dispose();
  });

  it('a stock kernel whose output is a window of its input', () => {
    const backend = tf.backend() as NativeBackend;
    const x = ramp();
    // What the stock Slice does: subarray instead of a copy.
    const kernel = tf.getKernel('Slice', 'cpu');
    const info = backend.runStock(
      () => kernel.kernelFunc({ inputs: { x }, attrs: { begin: [0], size: [SIZE] }, backend }) as tf.TensorInfo,
    );
    const window = tf.engine().makeTensorFromTensorInfo(info);
    x.dispose();
    recycle();
    expect(list(window.dataSync())).toEqual(values);
    window.dispose();
  });

  it('values that somebody fetched from the backend', () => {
    const x = ramp();
    const held = (tf.backend() as NativeBackend).data.get(x.dataId).values as Float32Array;
    x.dispose();
    recycle();
    expect(list(held)).toEqual(values);
  });

  it('a kernel that fails after it looked', () => {
    const backend = tf.backend() as NativeBackend;
    const x = ramp();
    let held: Float32Array | undefined;
    const failing = (): tf.TensorInfo => {
      held = backend.data.get(x.dataId).values as Float32Array;
      throw new Error('halfway');
    };
    expect(() => backend.runStock(failing)).toThrow('halfway');
    x.dispose();
    recycle();
    expect(list(held as Float32Array)).toEqual(values);
  });

  it("the caller's own array", () => {
    const mine = Float32Array.from(values);
    const x = tf.tensor1d(mine);
    x.dispose();
    recycle();
    expect(list(mine)).toEqual(values);
  });
});

describe('ownership', () => {
  beforeAll(async () => useBackend('native'));

  it('a tensor does not change with the array it was made from', () => {
    const mine = Float32Array.from(values);
    const x = tf.tensor1d(mine);
    mine.fill(5);
    expect(list(x.dataSync())).toEqual(values);
    x.dispose();
  });

  it('a tensor does not change with the array that dataSync gave', () => {
    const x = ramp();
    x.dataSync().fill(5);
    expect(list(x.dataSync())).toEqual(values);
    x.dispose();
  });

  it('a stored weight is the array itself', () => {
    const stored = new Float32Array(SIZE);
    const weight = makeWeight(stored, [SIZE], 'float32');
    expect((tf.backend() as NativeBackend).floats(weight)).toBe(stored);
    weight.dispose();
    recycle();
    expect(stored.every((value) => value === 0)).toBe(true);
  });

  it('reuses the buffers of stock kernels that only looked', () => {
    const backend = tf.backend() as NativeBackend;
    backend.trim();
    const x = tf.tensor1d(Float32Array.from(values));
    tf.softplus(x).dispose();
    const before = backend.memoryStats().pooledBytes;
    x.dispose();
    expect(backend.memoryStats().pooledBytes - before).toBe(SIZE * 4);
  });

  it('moves between backends and back', async () => {
    const x = ramp();
    const half = makeWeight(new Uint16Array(SIZE).fill(0x3f80), [SIZE], 'bfloat16');
    await useBackend('cpu');
    expect(list(tf.add(x, half).dataSync())).toEqual(values.map((value) => value + 1));
    await useBackend('native');
    recycle();
    expect(list(tf.add(x, half).dataSync())).toEqual(values.map((value) => value + 1));
    tf.dispose([x, half]);
  });

  it('gradients through 16-bit weights and reused buffers are those of float32 tensors', () => {
    const random = seeded(3);
    const bits = Uint16Array.from({ length: 32 * 32 }, () => 0x3c00 + Math.floor(random() * 0x400));
    const weight = makeWeight(bits, [32, 32], 'bfloat16') as tf.Tensor2D;
    const plain = tf.tensor2d(weight.dataSync() as Float32Array, [32, 32]);
    const x = tf.randomNormal<tf.Rank.R2>([32, 32], 0, 1, 'float32', 5);
    const gradient = (w: tf.Tensor2D): number[] =>
      tf.tidy(() => {
        const f = tf.grad((y: Tensor) =>
          tf
            .matMul(tf.sigmoid(tf.matMul(y as tf.Tensor2D, w)), w)
            .square()
            .sum(),
        );
        return list(f(x).dataSync());
      });
    const first = gradient(weight);
    recycle();
    expect(gradient(weight)).toEqual(first);
    expect(gradient(plain)).toEqual(first);
    tf.dispose([weight, plain, x]);
  });
});
