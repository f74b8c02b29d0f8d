/**
 * What the native backend keeps per data id. Stock `cpu` kernels read `.values`; the getter makes half storage look like
 * float32 to them, and notes that a pooled buffer was seen by code that may keep a reference to it (subarray, identity).
 */
import type { tf } from './tf.js';
import { addon } from './addon.js';
import { DTYPE_CODE, halfBitsToFloat } from './dtype.js';
import type { StorageDtype } from './dtype.js';

type Values = tf.backend_util.BackendValues;
/** Physical storage of a tensor. */
export type Storage = Values | Uint16Array | undefined;

/** What an entry tells its backend. */
export interface EntryOwner {
  borrowed(entry: TensorEntry): void;
  decoded(): void;
}

export class TensorEntry {
  refCount = 1;
  complexTensorInfos?: { real: tf.TensorInfo; imag: tf.TensorInfo };
  /** The pool's buffer under `storage`, to be given back. */
  pooled: ArrayBuffer | null = null;
  /** Somebody outside may hold `pooled`: never reuse it. */
  escaped = false;
  readonly bytes: number;

  constructor(
    private readonly owner: EntryOwner,
    readonly storage: Storage,
    readonly dtype: tf.DataType,
    readonly half: 'bfloat16' | 'float16' | null = null,
  ) {
    this.bytes = storageBytes(storage, dtype);
  }

  get storageDtype(): StorageDtype {
    return this.half ?? 'float32';
  }

  /** The door of the stock kernels. */
  get values(): Values | undefined {
    if (this.half) return this.decode();
    if (this.pooled && !this.escaped) {
      this.escaped = true;
      this.owner.borrowed(this);
    }
    return this.storage as Values | undefined;
  }

  /** A fresh float32 copy of half storage. */
  decode(): Float32Array {
    const bits = this.storage as Uint16Array;
    const out = new Float32Array(bits.length);
    decodeHalf(bits, this.half as 'bfloat16' | 'float16', out);
    this.owner.decoded();
    return out;
  }
}

/** Exact conversion of 16-bit storage to float32. */
export function decodeHalf(bits: Uint16Array, dtype: 'bfloat16' | 'float16', out: Float32Array): void {
  const native = addon();
  if (native) native.halfToFloat(bits, DTYPE_CODE[dtype] as 1 | 2, out);
  else for (let i = 0; i < bits.length; i++) out[i] = halfBitsToFloat(bits[i] as number, dtype);
}

function storageBytes(storage: Storage, dtype: tf.DataType): number {
  if (storage === undefined || storage === null) return 0;
  if (ArrayBuffer.isView(storage)) return storage.byteLength;
  if (dtype === 'string') return (storage as Uint8Array[]).reduce((sum, bytes) => sum + bytes.length, 0);
  return storage.length * (dtype === 'bool' ? 1 : 4);
}
