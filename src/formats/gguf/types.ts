/**
 * The vocabulary of GGUF, the file format of ggml, llama.cpp and Ollama.
 *
 *   "GGUF", version u32, number of tensors u64, number of keys u64
 *   keys      name string, type u32, value                            (a string is u64 length + UTF-8)
 *   tensors   name string, rank u32, sizes u64 (fastest axis first), type u32, offset u64
 *   padding to `general.alignment`, then the tensors, each padded to it
 *
 * Everything is little-endian. Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */

export const GGUF_MAGIC = 0x46554747; // "GGUF"
export const GGUF_VERSION = 3;
export const DEFAULT_ALIGNMENT = 32;
export const ALIGNMENT_KEY = 'general.alignment';
/** ggml's limits: GGML_MAX_DIMS, and GGML_MAX_NAME less the terminating zero. */
export const MAX_RANK = 4;
export const MAX_TENSOR_NAME = 63;

/** Types of metadata values, at the index that stands for them in the file. */
export const VALUE_TYPES = [
  'u8',
  'i8',
  'u16',
  'i16',
  'u32',
  'i32',
  'f32',
  'bool',
  'string',
  'array',
  'u64',
  'i64',
  'f64',
] as const;
export type ValueType = (typeof VALUE_TYPES)[number];
export type ScalarType = Exclude<ValueType, 'array'>;
/** Bytes of the types that have a fixed size. */
export const VALUE_BYTES: Readonly<Record<Exclude<ScalarType, 'string'>, number>> = {
  u8: 1,
  i8: 1,
  u16: 2,
  i16: 2,
  u32: 4,
  i32: 4,
  f32: 4,
  bool: 1,
  u64: 8,
  i64: 8,
  f64: 8,
};

export type Scalar = number | boolean | string | bigint;
/** A typed metadata value. 64-bit integers beyond 2^53 are bigint. */
export type GgufValue = { type: ScalarType; value: Scalar } | { type: 'array'; of: ScalarType; value: readonly Scalar[] };

export const u32 = (value: number): GgufValue => ({ type: 'u32', value });
export const f32 = (value: number): GgufValue => ({ type: 'f32', value });
export const bool = (value: boolean): GgufValue => ({ type: 'bool', value });
export const text = (value: string): GgufValue => ({ type: 'string', value });
export const list = (of: ScalarType, value: readonly Scalar[]): GgufValue => ({ type: 'array', of, value });

/** Storage types of tensors: number in the file, elements per block, bytes per block. Numbers that are absent were withdrawn. */
export const TENSOR_TYPES = {
  F32: { id: 0, elements: 1, bytes: 4 },
  F16: { id: 1, elements: 1, bytes: 2 },
  Q4_0: { id: 2, elements: 32, bytes: 18 },
  Q4_1: { id: 3, elements: 32, bytes: 20 },
  Q5_0: { id: 6, elements: 32, bytes: 22 },
  Q5_1: { id: 7, elements: 32, bytes: 24 },
  Q8_0: { id: 8, elements: 32, bytes: 34 },
  Q8_1: { id: 9, elements: 32, bytes: 36 },
  Q2_K: { id: 10, elements: 256, bytes: 84 },
  Q3_K: { id: 11, elements: 256, bytes: 110 },
  Q4_K: { id: 12, elements: 256, bytes: 144 },
  Q5_K: { id: 13, elements: 256, bytes: 176 },
  Q6_K: { id: 14, elements: 256, bytes: 210 },
  Q8_K: { id: 15, elements: 256, bytes: 292 },
  IQ2_XXS: { id: 16, elements: 256, bytes: 66 },
  IQ2_XS: { id: 17, elements: 256, bytes: 74 },
  IQ3_XXS: { id: 18, elements: 256, bytes: 98 },
  IQ1_S: { id: 19, elements: 256, bytes: 50 },
  IQ4_NL: { id: 20, elements: 32, bytes: 18 },
  IQ3_S: { id: 21, elements: 256, bytes: 110 },
  IQ2_S: { id: 22, elements: 256, bytes: 82 },
  IQ4_XS: { id: 23, elements: 256, bytes: 136 },
  I8: { id: 24, elements: 1, bytes: 1 },
  I16: { id: 25, elements: 1, bytes: 2 },
  I32: { id: 26, elements: 1, bytes: 4 },
  I64: { id: 27, elements: 1, bytes: 8 },
  F64: { id: 28, elements: 1, bytes: 8 },
  IQ1_M: { id: 29, elements: 256, bytes: 56 },
  BF16: { id: 30, elements: 1, bytes: 2 },
  TQ1_0: { id: 34, elements: 256, bytes: 54 },
  TQ2_0: { id: 35, elements: 256, bytes: 66 },
  MXFP4: { id: 39, elements: 32, bytes: 17 },
} as const;
export type TensorType = keyof typeof TENSOR_TYPES;

/** Bytes of a tensor of this shape (slowest axis first); NaN when rows are no whole number of blocks, Infinity beyond 2^53. */
export function tensorBytes(type: TensorType, shape: readonly number[]): number {
  const { elements, bytes } = TENSOR_TYPES[type];
  const row = shape[shape.length - 1] ?? 1;
  if (row % elements !== 0) return NaN;
  let total = (row / elements) * bytes;
  for (const size of shape.slice(0, -1)) total *= size;
  return Number.isSafeInteger(total) ? total : Infinity;
}

export const alignUp = (offset: number, alignment: number): number => Math.ceil(offset / alignment) * alignment;
