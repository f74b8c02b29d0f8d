/** What the kernels of this folder have in common. */
import type { Addon } from '../addon.js';
import type { NativeBackend } from '../native.js';
import type { tf } from '../tf.js';

export type TensorInfo = tf.TensorInfo;

/** One call of a kernel on backend `native`, with the addon there. */
export interface Call {
  inputs: Readonly<Record<string, TensorInfo>>;
  attrs: Readonly<Record<string, unknown>>;
  backend: NativeBackend;
  native: Addon;
}

/** Returns undefined for what it does not handle (other dtypes, empty tensors, errors): then the stock kernel runs. */
export type Kernel = (call: Call) => TensorInfo | TensorInfo[] | undefined;

/** A required input. */
export function input(call: Call, name: string): TensorInfo {
  return call.inputs[name] as TensorInfo;
}

export function sizeOf(shape: readonly number[]): number {
  let size = 1;
  for (const dimension of shape) size *= dimension;
  return size;
}

/** A float32 tensor that has elements. */
export function isFloat(info: TensorInfo): boolean {
  return info.dtype === 'float32' && sizeOf(info.shape) > 0;
}

/** Values of a float32 or int32 tensor, for kernels that only move them. */
export function words({ backend }: Call, info: TensorInfo): Float32Array | Int32Array | undefined {
  if (info.dtype === 'float32') return backend.floats(info);
  return info.dtype === 'int32' ? backend.ints(info) : undefined;
}

/** The same data under another shape or dtype. */
export function alias({ backend }: Call, info: TensorInfo, shape: number[]): TensorInfo {
  backend.incRef(info.dataId);
  return { dataId: info.dataId, shape, dtype: info.dtype };
}

/** The addon's limit on dimensions, after merging those that can be. */
export const MAX_RANK = 8;
