/** Frozen weights: logical dtype float32, physical storage float32, bfloat16 or float16. */
import type { StorageDtype } from './dtype.js';
import { decodeHalf } from './entry.js';
import { NativeBackend } from './native.js';
import { tf, type Tensor } from './tf.js';

/**
 * A tensor over stored weights. On backend `native` the values stay as they are and are not copied (the array may be a mapped
 * file, and must not change while the tensor lives); other backends get them as float32.
 * @param values the stored numbers: a Uint16Array of bit patterns for the 16-bit types, else a Float32Array.
 */
export function makeWeight(values: Uint16Array | Float32Array, shape: readonly number[], dtype: StorageDtype): Tensor {
  const backend = tf.backend();
  if (backend instanceof NativeBackend) return backend.storedTensor(values, [...shape], dtype);
  if (dtype === 'float32') return tf.tensor(values, [...shape], 'float32');
  const floats = new Float32Array(values.length);
  decodeHalf(values as Uint16Array, dtype, floats);
  return tf.tensor(floats, [...shape], 'float32');
}

/** Physical storage of a tensor. Everything outside backend `native` is float32. */
export function storageOf(tensor: Tensor): StorageDtype {
  const backend = tf.backend();
  return backend instanceof NativeBackend ? backend.storageOf(tensor) : 'float32';
}
