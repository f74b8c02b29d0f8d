/**
 * Rounds the values of a float32 tensor to those of a 16-bit type: y = round(x), to nearest, ties to even.
 * Same shape as x, any rank. Saved for backward: nothing (the gradient passes straight through).
 * Numerics: a float16 magnitude of 65520 or more becomes infinity, as it does in hardware; NaN stays NaN.
 */
import { addon } from '../backend/addon.js';
import { type ComputeDtype, DTYPE_CODE } from '../backend/dtype.js';
import { tf, type Tensor, type Tensor2D } from '../backend/tf.js';

/** Rounded values of `values`, as a new array. */
export function roundValues(values: Float32Array, compute: ComputeDtype): Float32Array {
  if (compute === 'float32') return values.slice();
  const out = new Float32Array(values.length);
  const native = addon();
  if (native) {
    const bits = new Uint16Array(values.length);
    const code = compute === 'bfloat16' ? DTYPE_CODE.bfloat16 : DTYPE_CODE.float16;
    native.floatToHalf(values, code as 1 | 2, bits);
    native.halfToFloat(bits, code as 1 | 2, out);
    return out;
  }
  if (compute === 'bfloat16') roundToBfloat16(values, out);
  else for (let i = 0; i < values.length; i++) out[i] = roundToFloat16(values[i] ?? 0);
  return out;
}

function roundToBfloat16(values: Float32Array, out: Float32Array): void {
  out.set(values);
  const bits = new Uint32Array(out.buffer);
  for (let i = 0; i < bits.length; i++) {
    const b = bits[i] ?? 0;
    if ((b & 0x7fffffff) <= 0x7f800000) bits[i] = (b + 0x7fff + ((b >>> 16) & 1)) & 0xffff0000;
  }
}

/** Adding and subtracting 1.5 * 2^52 * ulp in double precision rounds to a multiple of ulp, ties to even. */
function roundToFloat16(value: number): number {
  const magnitude = Math.abs(value);
  if (!(magnitude < 65520)) return Number.isNaN(value) ? NaN : Math.sign(value) * Infinity;
  const exponent = Math.max(-14, Math.floor(Math.log2(magnitude === 0 ? 1 : magnitude)));
  const magic = 1.5 * 2 ** (52 + exponent - 10);
  const rounded = magnitude + magic - magic;
  return value < 0 || Object.is(value, -0) ? -rounded : rounded;
}

function roundedCopy(x: Tensor, compute: ComputeDtype): Tensor {
  return tf.tensor(roundValues(x.dataSync() as Float32Array, compute), x.shape, 'float32');
}

/** x rounded to `compute`, gradient passed straight through. Identity for `float32`. Works on every backend. */
export function roundTo<T extends Tensor>(x: T, compute: ComputeDtype): T {
  if (compute === 'float32') return x;
  const op = tf.customGrad((input) => ({
    value: roundedCopy(input as Tensor, compute),
    gradFunc: (dy: Tensor) => dy.clone(),
  }));
  return op(x) as T;
}

/** Identity whose gradient is rounded to `compute`: what a matrix product in that type receives on the way back. */
export function roundGradient<T extends Tensor>(x: T, compute: ComputeDtype): T {
  if (compute === 'float32') return x;
  const op = tf.customGrad((input) => ({
    value: (input as Tensor).clone(),
    gradFunc: (dy: Tensor) => roundedCopy(dy, compute),
  }));
  return op(x) as T;
}

/** Product in `compute` from stock ops: inputs rounded, sums float32, and likewise for both products of its gradient. */
export function roundedMatMul(a: Tensor2D, b: Tensor2D, compute: ComputeDtype, transposeA = false, transposeB = false): Tensor2D {
  return roundGradient(tf.matMul(roundTo(a, compute), roundTo(b, compute), transposeA, transposeB), compute);
}
