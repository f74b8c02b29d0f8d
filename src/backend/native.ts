/**
 * TF.js backend `native`: the stock CPU backend with 16-bit storage of weights, pooled buffers and true memory figures.
 * Every stock `cpu` kernel works on it (src/backend/register.ts); with the addon the hot ones are replaced.
 */
import { MathBackendCPU } from '@tensorflow/tfjs-backend-cpu';
import { TensorEntry, type EntryOwner, type Storage } from './entry.js';
import { addon } from './addon.js';
import { BufferPool, MIN_POOLED_BYTES } from './pool.js';
import { tf } from './tf.js';
import type { StorageDtype } from './dtype.js';

type Values = tf.backend_util.BackendValues;

export interface MemoryStats {
  /** Bytes of all live tensors, 16-bit storage at its size; clones and reshapes share theirs. */
  bytes: number;
  /** Largest `bytes` since the last resetPeak(). */
  peakBytes: number;
  /** Idle bytes kept for reuse. */
  pooledBytes: number;
  /** How often a 16-bit tensor was expanded to float32 for an op that has no kernel for it. */
  decodes: number;
}

/** An output buffer and the tensor it belongs to. */
export interface Output<T> {
  info: tf.TensorInfo;
  data: T;
}

export class NativeBackend extends MathBackendCPU implements EntryOwner {
  private readonly pool = new BufferPool(addon()?.alignedBuffer);
  private readonly halves = new Set<TensorEntry>();
  private borrowedNow: TensorEntry[] | null = null;
  private nextId = 0;
  private bytes = 0;
  private peakBytes = 0;
  private decodes = 0;

  constructor() {
    super();
    // The stock backend's first write tells Node users to install tfjs-node.
    (this as unknown as { firstUse: boolean }).firstUse = false;
  }

  // --- what kernels of our own use ---------------------------------------------------------------------------------

  /** float32 view of the values. 16-bit storage and other types are converted into a fresh array. Do not keep it. */
  floats(info: tf.TensorInfo): Float32Array {
    const entry = this.entry(info.dataId);
    if (entry.half) return entry.decode();
    const storage = entry.storage;
    if (storage instanceof Float32Array) return storage;
    return Float32Array.from(storage as ArrayLike<number>);
  }

  /** int32 view of the values. Do not keep it. */
  ints(info: tf.TensorInfo): Int32Array {
    const entry = this.entry(info.dataId);
    const storage = entry.half ? entry.decode() : entry.storage;
    return storage instanceof Int32Array ? storage : Int32Array.from(storage as ArrayLike<number>);
  }

  /** Physical storage of a float32 tensor, no copy. Do not keep it. */
  stored(info: tf.TensorInfo): { data: Float32Array | Uint16Array; dtype: StorageDtype } {
    const entry = this.entry(info.dataId);
    if (entry.half) return { data: entry.storage as Uint16Array, dtype: entry.half };
    return { data: this.floats(info), dtype: 'float32' };
  }

  /** A new tensor with an uninitialised buffer. */
  output(shape: readonly number[], dtype?: 'float32'): Output<Float32Array>;
  output(shape: readonly number[], dtype: 'int32'): Output<Int32Array>;
  output(shape: readonly number[], dtype: 'float32' | 'int32'): Output<Float32Array | Int32Array>;
  output(shape: readonly number[], dtype: 'bool'): Output<Uint8Array>;
  output(shape: readonly number[], dtype: 'float32' | 'int32' | 'bool'): Output<Float32Array | Int32Array | Uint8Array>;
  output(
    shape: readonly number[],
    dtype: 'float32' | 'int32' | 'bool' = 'float32',
  ): Output<Float32Array | Int32Array | Uint8Array> {
    const size = tf.util.sizeFromShape(shape as number[]);
    const bytes = dtype === 'bool' ? size : size * 4;
    const pooled = bytes >= MIN_POOLED_BYTES ? this.pool.take(bytes) : null;
    const buffer = pooled ?? new ArrayBuffer(bytes);
    const data =
      dtype === 'float32'
        ? new Float32Array(buffer, 0, size)
        : dtype === 'int32'
          ? new Int32Array(buffer, 0, size)
          : new Uint8Array(buffer, 0, size);
    const entry = new TensorEntry(this, data, dtype);
    entry.pooled = pooled;
    return { info: { dataId: this.add(entry), shape: [...shape], dtype }, data };
  }

  /** The values of a bool tensor, when they are stored as bytes. Do not keep them. */
  bools(info: tf.TensorInfo): Uint8Array | undefined {
    const { storage } = this.entry(info.dataId);
    return storage instanceof Uint8Array ? storage : undefined;
  }

  /** A tensor over stored values, which are not copied. */
  storedTensor(values: Float32Array | Uint16Array, shape: number[], dtype: StorageDtype): tf.Tensor {
    const entry = new TensorEntry(this, values, 'float32', dtype === 'float32' ? null : dtype);
    if (entry.half) this.halves.add(entry);
    return tf.engine().makeTensorFromTensorInfo({ dataId: this.add(entry), shape, dtype: 'float32' }, this);
  }

  /** Physical storage type of a tensor. */
  storageOf(info: tf.TensorInfo): StorageDtype {
    return this.entry(info.dataId).storageDtype;
  }

  // --- memory ------------------------------------------------------------------------------------------------------

  memoryStats(): MemoryStats {
    return { bytes: this.bytes, peakBytes: this.peakBytes, pooledBytes: this.pool.idleBytes, decodes: this.decodes };
  }

  resetPeak(): void {
    this.peakBytes = this.bytes;
  }

  /** Frees the idle buffers. */
  trim(): void {
    this.pool.clear();
  }

  /** `numBytes` counts tensors as TF.js does, but 16-bit storage at its physical size. */
  override memory(): { unreliable: boolean; reasons: string[] } {
    let counted = 0;
    let saved = 0;
    for (const entry of this.halves) saved += entry.bytes * entry.refCount;
    return Object.defineProperty({ unreliable: false, reasons: [] as string[] }, 'numBytes', {
      enumerable: true,
      get: () => counted - saved,
      set: (value: number) => (counted = value),
    });
  }

  // --- KernelBackend -----------------------------------------------------------------------------------------------

  /** Tensors own their memory: what the caller does to its array later changes nothing. */
  override write(values: Values, shape: number[], dtype: tf.DataType): object {
    const copied =
      (dtype === 'float32' && values instanceof Float32Array) ||
      (dtype === 'int32' && values instanceof Int32Array) ||
      (dtype === 'bool' && values instanceof Uint8Array);
    if (!copied || values.length !== tf.util.sizeFromShape(shape)) return this.add(new TensorEntry(this, values, dtype));
    const { info, data } = this.output(shape, dtype);
    data.set(values);
    return info.dataId;
  }

  /** How stock kernels make their outputs: the array is theirs, so it is not copied. */
  override makeTensorInfo(shape: number[], dtype: tf.DataType, values?: Values | string[]): tf.TensorInfo {
    if (dtype === 'string') return super.makeTensorInfo(shape, dtype, values);
    return { dataId: this.add(new TensorEntry(this, values as Values, dtype)), shape, dtype };
  }

  override move(dataId: object, values: Values, _shape: number[], dtype: tf.DataType, refCount: number): void {
    const entry = new TensorEntry(this, values, dtype);
    entry.refCount = refCount;
    this.put(dataId, entry);
  }

  /** A copy: the caller may keep it for as long as it likes, and in-place updates (AdamW) do not reach it. */
  override readSync(dataId: object): Values {
    const { half, complexTensorInfos, storage } = this.entry(dataId);
    if (half === null && complexTensorInfos === undefined && ArrayBuffer.isView(storage))
      return (storage as Float32Array).slice();
    return super.readSync(dataId);
  }

  override disposeData(dataId: object, force = false): boolean {
    if (!this.data.has(dataId)) return true;
    const entry = this.entry(dataId);
    const done = super.disposeData(dataId, force);
    if (done) this.release(entry);
    return done;
  }

  override dispose(): void {
    this.pool.clear();
    super.dispose();
  }

  // --- borrowing: src/backend/register.ts wraps each stock kernel in these -----------------------------------------

  borrowed(entry: TensorEntry): void {
    this.borrowedNow?.push(entry);
  }

  decoded(): void {
    this.decodes++;
  }

  /**
   * Runs a stock kernel. The pooled buffers that it looked at may be reused later, except those that its outputs share
   * and those of a kernel that failed halfway.
   */
  runStock<T extends tf.TensorInfo | tf.TensorInfo[]>(kernel: () => T): T {
    const outer = this.borrowedNow;
    const borrowed: TensorEntry[] = [];
    this.borrowedNow = borrowed;
    try {
      const out = kernel();
      if (borrowed.length > 0) this.endBorrow(borrowed, Array.isArray(out) ? out : [out]);
      return out;
    } finally {
      this.borrowedNow = outer;
    }
  }

  private endBorrow(borrowed: TensorEntry[], outputs: tf.TensorInfo[]): void {
    const shared = new Set<unknown>();
    for (const { dataId } of outputs) {
      const entry = this.entry(dataId);
      if (entry.complexTensorInfos) return;
      // An output that is the very same entry is reference counted and needs no care.
      if (ArrayBuffer.isView(entry.storage) && !borrowed.includes(entry)) shared.add(entry.storage.buffer);
    }
    for (const entry of borrowed) if (!shared.has(entry.pooled)) entry.escaped = false;
  }

  // --- bookkeeping -------------------------------------------------------------------------------------------------

  private entry(dataId: object): TensorEntry {
    return this.data.get(dataId) as unknown as TensorEntry;
  }

  private add(entry: TensorEntry): object {
    const dataId = { id: this.nextId++ };
    this.put(dataId, entry);
    return dataId;
  }

  private put(dataId: object, entry: TensorEntry): void {
    this.data.set(dataId, entry);
    this.bytes += entry.bytes;
    if (this.bytes > this.peakBytes) this.peakBytes = this.bytes;
  }

  private release(entry: TensorEntry): void {
    this.bytes -= entry.bytes;
    if (entry.half) this.halves.delete(entry);
    if (!entry.pooled) return;
    if (entry.escaped) this.pool.lose(entry.pooled);
    else this.pool.give(entry.pooled);
    entry.pooled = null;
  }
}

export type { Storage };
