/** Physical storage of a tensor whose logical TF.js dtype is `float32`, and the precision that matmul inputs are rounded to. */
export const STORAGE_DTYPES = ['float32', 'bfloat16', 'float16'] as const;
export type StorageDtype = (typeof STORAGE_DTYPES)[number];
/** Precision of matmul inputs; sums are float32 in all three. */
export type ComputeDtype = StorageDtype;

/** The integer by which the addon knows a dtype (`enum class DType` in native/dtype.h). */
export const DTYPE_CODE: Record<StorageDtype, 0 | 1 | 2> = { float32: 0, bfloat16: 1, float16: 2 };

export const BYTES_PER_ELEMENT: Record<StorageDtype, number> = { float32: 4, bfloat16: 2, float16: 2 };
