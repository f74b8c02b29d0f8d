/**
 * Keys and values of the tokens decoded so far, for cachedAttention.
 *
 * On a backend with the kernel each layer holds two buffers [slot, Hkv, capacity, D] that are appended to in place; on
 * others it holds tensors [length, Hkv*D] per sequence that are concatenated. A sequence keeps its slot for life, so
 * dropping finished sequences moves no memory.
 */
import { NiftError } from '../errors.js';
import type { Tensor2D } from '../backend/tf.js';
import { usesKernel } from './registry.js';

export const CACHED_ATTENTION_KERNEL = 'CachedAttention';

export interface KvCacheOptions {
  numLayers: number;
  /** Sequences decoded side by side. */
  batch: number;
  /** Tokens of a sequence that fit before the cache must grow. */
  capacity: number;
  numKvHeads: number;
  headDim: number;
}

/** Buffers of one layer on `native`: [slots, Hkv, capacity, D]. */
export interface NativeLayer {
  keys: Float32Array;
  values: Float32Array;
}

/** Tensors of one layer elsewhere: one [length, Hkv*D] per sequence, null while empty. */
export interface ComposedLayer {
  keys: (Tensor2D | null)[];
  values: (Tensor2D | null)[];
}

export class KvCache {
  readonly numLayers: number;
  readonly numKvHeads: number;
  readonly headDim: number;
  /** Tokens cached of each live sequence; rises in `advance`. */
  lengths: Int32Array;
  /** Slot of each live sequence in the native buffers. */
  slots: Int32Array;
  /** Present on a backend with the kernel. */
  readonly native: NativeLayer[] | null;
  readonly composed: ComposedLayer[] | null;
  private readonly slotCount: number;
  private tokenCapacity: number;

  /** @throws NiftError NIFT_OP_SHAPE for a size that is not positive */
  constructor(options: KvCacheOptions) {
    for (const [name, size] of Object.entries(options)) {
      if (!Number.isInteger(size) || size < (name === 'capacity' ? 0 : 1))
        throw new NiftError('NIFT_OP_SHAPE', `createKvCache: ${name} is ${size}.`);
    }
    this.numLayers = options.numLayers;
    this.numKvHeads = options.numKvHeads;
    this.headDim = options.headDim;
    this.slotCount = options.batch;
    this.tokenCapacity = Math.max(1, options.capacity);
    this.lengths = new Int32Array(options.batch);
    this.slots = Int32Array.from({ length: options.batch }, (_, b) => b);
    const layers = Array.from({ length: options.numLayers });
    const useNative = usesKernel(CACHED_ATTENTION_KERNEL);
    this.native = useNative ? layers.map(() => ({ keys: this.allocate(), values: this.allocate() })) : null;
    const empty = (): null[] => Array.from({ length: options.batch }, () => null);
    this.composed = useNative ? null : layers.map(() => ({ keys: empty(), values: empty() }));
  }

  /** Live sequences. */
  get batch(): number {
    return this.lengths.length;
  }

  /** Tokens of a sequence that fit without growing (native only; elsewhere a hint). */
  get capacity(): number {
    return this.tokenCapacity;
  }

  /** Bytes held. */
  get bytes(): number {
    if (this.native) return this.native.reduce((sum, layer) => sum + layer.keys.byteLength + layer.values.byteLength, 0);
    const elements = this.lengths.reduce((sum, length) => sum + length, 0) * this.numKvHeads * this.headDim;
    return elements * 4 * 2 * this.numLayers;
  }

  /** Ends a step: every layer has appended `queryLengths[b]` tokens to sequence b. */
  advance(queryLengths: Int32Array): void {
    this.lengths = this.lengths.map((length, b) => length + (queryLengths[b] ?? 0));
  }

  /**
   * Keeps the sequences `rows`, in that order, and drops the others.
   * @throws NiftError NIFT_OP_SHAPE when a row is not live or named twice
   */
  select(rows: readonly number[]): void {
    if (new Set(rows).size !== rows.length || rows.some((row) => !(row >= 0 && row < this.batch))) {
      throw new NiftError('NIFT_OP_SHAPE', `KvCache.select: rows [${rows.join(', ')}] must be distinct and below ${this.batch}.`);
    }
    const kept = new Set(rows);
    for (const layer of this.composed ?? []) {
      layer.keys.forEach((tensor, b) => !kept.has(b) && tensor?.dispose());
      layer.values.forEach((tensor, b) => !kept.has(b) && tensor?.dispose());
      layer.keys = rows.map((row) => layer.keys[row] ?? null);
      layer.values = rows.map((row) => layer.values[row] ?? null);
    }
    this.lengths = Int32Array.from(rows, (row) => this.lengths[row]!);
    this.slots = Int32Array.from(rows, (row) => this.slots[row]!);
  }

  /** Makes room for `tokens` tokens of every sequence; at least doubles when it must grow. */
  reserve(tokens: number): void {
    if (tokens <= this.tokenCapacity || !this.native) return;
    const before = this.tokenCapacity * this.headDim;
    this.tokenCapacity = Math.max(tokens, 2 * this.tokenCapacity);
    const after = this.tokenCapacity * this.headDim;
    const grow = (old: Float32Array): Float32Array => {
      const grown = this.allocate();
      for (let head = 0; head < this.slotCount * this.numKvHeads; head++) {
        grown.set(old.subarray(head * before, (head + 1) * before), head * after);
      }
      return grown;
    };
    for (const layer of this.native) {
      layer.keys = grow(layer.keys);
      layer.values = grow(layer.values);
    }
  }

  /** Frees the memory; the cache must not be used afterwards. */
  dispose(): void {
    for (const layer of this.composed ?? []) for (const tensor of [...layer.keys, ...layer.values]) tensor?.dispose();
    this.composed?.splice(0);
    this.native?.splice(0);
    this.lengths = new Int32Array(0);
    this.slots = new Int32Array(0);
  }

  private allocate(): Float32Array {
    return new Float32Array(this.slotCount * this.numKvHeads * this.tokenCapacity * this.headDim);
  }
}
