/** What the tests of linear and loraLinear share: data, float64 loops, and the 2x rule for low precision. */
import { makeWeight } from '../../src/backend/index.js';
import type { ComputeDtype, StorageDtype } from '../../src/backend/dtype.js';
import { tf, type Tensor2D } from '../../src/backend/tf.js';
import { roundValues } from '../../src/ops/rounding.js';
import { seeded } from '../backend/bothBackends.js';
import { expectClose } from '../expectClose.js';

export const STORAGES: StorageDtype[] = ['float32', 'bfloat16', 'float16'];
export const COMPUTES: ComputeDtype[] = ['float32', 'bfloat16', 'float16'];

/** n numbers in [-1, 1). */
export function numbers(n: number, seed: number): Float32Array {
  const next = seeded(seed);
  return Float32Array.from({ length: n }, () => next() * 2 - 1);
}

/** Bit patterns of `values`, which are rounded in place to what is stored. */
export function toStorage(values: Float32Array, dtype: StorageDtype): Float32Array | Uint16Array {
  if (dtype === 'float32') return values;
  values.set(roundValues(values, dtype));
  if (dtype === 'bfloat16') return Uint16Array.from(new Uint32Array(values.buffer), (bits) => bits >>> 16);
  return Uint16Array.from(values, float16Bits);
}

/** Bits of a number that float16 holds exactly. */
function float16Bits(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  if (magnitude < 2 ** -14) return sign | (magnitude * 2 ** 24);
  const exponent = Math.floor(Math.log2(magnitude));
  return sign | ((exponent + 15) << 10) | (magnitude * 2 ** (10 - exponent) - 1024);
}

export function weightTensor(values: Float32Array, shape: [number, number], dtype: StorageDtype): Tensor2D {
  return makeWeight(toStorage(values, dtype), shape, dtype) as Tensor2D;
}

/** Float64 product of op(a) [m, k] and op(b) [k, n]. */
export function product(
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  m: number,
  n: number,
  k: number,
  transposeA = false,
  transposeB = false,
): Float64Array {
  const out = new Float64Array(m * n);
  for (let i = 0; i < m; i++)
    for (let j = 0; j < n; j++)
      for (let t = 0; t < k; t++)
        out[i * n + j]! += a[transposeA ? t * m + i : i * k + t]! * b[transposeB ? j * k + t : t * n + j]!;
  return out;
}

export type Values = Record<string, Float32Array | Float64Array>;

export function read(tensors: Record<string, tf.Tensor>): Record<string, Float32Array> {
  return Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, tensor.dataSync() as Float32Array]));
}

function worstError(actual: ArrayLike<number>, exact: ArrayLike<number>): number {
  let worst = 0;
  for (let i = 0; i < exact.length; i++) worst = Math.max(worst, Math.abs(actual[i]! - exact[i]!));
  return worst;
}

/**
 * float32: every value within 4e-6 of the largest (measured at most 6e-7 with sums of up to 130 terms).
 * Low precision: the error against exact values is at most twice that of the composed reference in the same precision,
 * plus what float32 itself costs.
 */
export function check(label: string, compute: ComputeDtype, actual: Values, exact: Values, plain: Values): void {
  for (const name of Object.keys(exact)) {
    const values = exact[name]!;
    if (compute === 'float32') {
      expectClose(actual[name]!, values, { relToMax: 4e-6, abs: 1e-7, label: `${label} ${name}` });
      continue;
    }
    const allowed = 2 * worstError(plain[name]!, values);
    expectClose(actual[name]!, values, { abs: allowed, relToMax: 4e-6, label: `${label} ${name}` });
  }
}
