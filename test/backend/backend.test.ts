import { beforeEach, describe, expect, it } from 'vitest';
import { currentBackend, makeWeight, NativeBackend, storageOf, useBackend } from '../../src/backend/index.js';
import { tf } from '../../src/backend/tf.js';

const native = (): NativeBackend => tf.backend() as NativeBackend;

describe('useBackend', () => {
  it.each(['native', 'cpu', 'wasm'])('runs on %s', async (name) => {
    await useBackend(name);
    expect(currentBackend()).toBe(name);
    expect([...tf.tidy(() => tf.add([1, 2], [3, 4]).dataSync())]).toEqual([4, 6]);
  });

  it('explains what is missing', async () => {
    await expect(useBackend('nativ')).rejects.toMatchObject({ code: 'NIFT_BACKEND_UNKNOWN', hint: 'Did you mean "native"?' });
    await expect(useBackend('tensorflow')).rejects.toMatchObject({
      code: 'NIFT_BACKEND_UNKNOWN',
      hint: expect.stringContaining('npm install @tensorflow/tfjs-node-gpu') as string,
    });
  });

  it('names the op that made a NaN when asked to', async () => {
    await useBackend('native', { check: true });
    expect(() => tf.log(tf.tensor1d([1, -1, 1]))).toThrow(/Log made NaN at element 1 of \[3\]/);
    expect([...tf.log(tf.tensor1d([1, 1])).dataSync()]).toEqual([0, 0]);
    tf.registerKernel({
      kernelName: 'Forgetful',
      backendName: 'native',
      kernelFunc: ({ backend }) => {
        (backend as NativeBackend).output([300]);
        return (backend as NativeBackend).output([300], 'int32').info;
      },
    });
    expect(() => tf.engine().runKernel('Forgetful', {})).toThrow(/memory leak.*Forgetful/);
  });
});

describe('16-bit storage', () => {
  beforeEach(async () => useBackend('native'));
  const bits = new Uint16Array([0x3f80, 0xc000, 0x3e80, 0x0000]); // bfloat16 1, -2, 0.25, 0

  it('looks like float32 to every op and every accessor', async () => {
    const weight = makeWeight(bits, [2, 2], 'bfloat16');
    expect(weight.dtype).toBe('float32');
    expect(storageOf(weight)).toBe('bfloat16');
    expect(native().stored(weight).data).toBe(bits);
    const expected = [1, -2, 0.25, 0];
    expect([...weight.dataSync()]).toEqual(expected);
    expect([...(await weight.data())]).toEqual(expected);
    expect(weight.arraySync()).toEqual([
      [1, -2],
      [0.25, 0],
    ]);
    expect([...weight.clone().reshape([4]).dataSync()]).toEqual(expected);
    expect([...tf.softplus(weight).dataSync()]).toEqual([...tf.softplus(tf.tensor(expected)).dataSync()]);
    expect([...tf.matMul(weight as never, tf.eye(2)).dataSync()]).toEqual(expected);
    const half = makeWeight(new Uint16Array([0x3c00, 0x0001, 0x7c00, 0xbc00]), [4], 'float16');
    expect([...half.dataSync()]).toEqual([1, 2 ** -24, Infinity, -1]);
  });

  it('counts its physical size', () => {
    const before = tf.memory().numBytes;
    const weight = makeWeight(new Uint16Array(1000), [10, 100], 'float16');
    expect(tf.memory().numBytes - before).toBe(2000);
    const copy = weight.reshape([1000]);
    expect(tf.memory().numBytes - before).toBe(4000);
    weight.dispose();
    copy.dispose();
    expect(tf.memory().numBytes).toBe(before);
  });
});
