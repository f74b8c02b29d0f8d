/** Physical storage of a tensor whose logical TF.js dtype is `float32`, and the precision that matmul inputs are rounded to. */
export const STORAGE_DTYPES = ['float32', 'bfloat16', 'float16'] as const;
export type StorageDtype = (typeof STORAGE_DTYPES)[number];
/** Precision of matmul inputs; sums are float32 in all three. */
export type ComputeDtype = StorageDtype;

/** The integer by which the addon knows a dtype (`enum class DType` in native/dtype.h). */
export const DTYPE_CODE: Record<StorageDtype, 0 | 1 | 2> = { float32: 0, bfloat16: 1, float16: 2 };

export const BYTES_PER_ELEMENT: Record<StorageDtype, number> = { float32: 4, bfloat16: 2, float16: 2 };

const SCRATCH_BITS = new Uint32Array(1);
const SCRATCH_FLOAT = new Float32Array(SCRATCH_BITS.buffer);

/** The float32 value of one 16-bit pattern, exact. Slow: for use without the addon. */
export function halfBitsToFloat(bits: number, dtype: 'bfloat16' | 'float16'): number {
  const sign = (bits & 0x8000) << 16;
  const exponent = (bits >> 10) & 31;
  const mantissa = bits & 0x3ff;
  if (dtype === 'float16' && exponent === 0) return (sign ? -1 : 1) * mantissa * 2 ** -24;
  if (dtype === 'bfloat16') SCRATCH_BITS[0] = bits << 16;
  else SCRATCH_BITS[0] = sign | (exponent === 31 ? 0x7f800000 : (exponent + 112) << 23) | (mantissa << 13);
  return SCRATCH_FLOAT[0] as number;
}
