/**
 * Attention for decoding: appends the new keys and values of each sequence to a cache and attends over all of them.
 *
 *   o[i] = sum_j p[i, j] v[j],   p[i] = softmax_j(scale * q[i] . k[j])   over i - W < j <= i, j in cache and new tokens
 *
 * Shapes: q, o [N, H*D]; k, v [N, Hkv*D]; N = sum of queryLengths, packed by sequence. So the first call with a ragged
 * batch of prompts and the later ones with a token each are the same op. No gradient.
 * Numerics: as causalAttention; the cache holds fp32.
 */
import { NiftError } from '../errors.js';
import { tf, type Tensor2D } from '../backend/tf.js';
import { addon } from '../backend/addon.js';
import { attendSequence, checkAttention, scoreScale, type AttentionShape } from './causalAttention.js';
import { CACHED_ATTENTION_KERNEL, KvCache, type KvCacheOptions } from './kvCache.js';
import { registerNativeKernel } from './nativeKernel.js';

export { KvCache, type KvCacheOptions } from './kvCache.js';

/** Number of heads and head size default to the cache's for keys and values. */
export interface CachedAttentionOptions extends Omit<AttentionShape, 'numKvHeads' | 'headDim'> {
  /** [B] new tokens of each live sequence of the cache; 0 is allowed. */
  queryLengths: Int32Array;
}

/** An empty cache for the current backend. */
export function createKvCache(options: KvCacheOptions): KvCache {
  return new KvCache(options);
}

/**
 * Appends k and v to `cache` at `layer`, then attends. After the last layer of a step call `cache.advance(queryLengths)`.
 * @param q [N, H*D] @param k [N, Hkv*D] @param v [N, Hkv*D], rotary embedding already applied
 * @returns [N, H*D]
 * @throws NiftError NIFT_OP_SHAPE when shapes, heads or queryLengths do not fit the cache
 */
export function cachedAttention(
  q: Tensor2D,
  k: Tensor2D,
  v: Tensor2D,
  cache: KvCache,
  layer: number,
  options: CachedAttentionOptions,
): Tensor2D {
  const shape: AttentionShape = { ...options, numKvHeads: cache.numKvHeads, headDim: cache.headDim };
  checkAttention('cachedAttention', q, k, v, shape);
  const { queryLengths } = options;
  const total = queryLengths.reduce((sum, length) => sum + length, 0);
  if (queryLengths.length !== cache.batch || total !== q.shape[0] || !(layer >= 0 && layer < cache.numLayers)) {
    throw new NiftError(
      'NIFT_OP_SHAPE',
      `cachedAttention: ${queryLengths.length} query lengths of ${total} tokens at layer ${layer} for ${q.shape[0]} rows, ${cache.batch} sequences, ${cache.numLayers} layers.`,
    );
  }
  if (!cache.native) return cachedAttentionReference(q, k, v, cache, layer, options);
  cache.reserve(cache.lengths.reduce((most, length, b) => Math.max(most, length + queryLengths[b]!), 0));
  const attrs = { cache, layer, shape, queryLengths } satisfies KernelAttrs;
  return tf.engine().runKernel<Tensor2D>(CACHED_ATTENTION_KERNEL, { q, k, v }, attrs as unknown as tf.NamedAttrMap);
}

/** The definition, in stock TF.js ops, over a cache without native buffers. */
export function cachedAttentionReference(
  q: Tensor2D,
  k: Tensor2D,
  v: Tensor2D,
  cache: KvCache,
  layer: number,
  options: CachedAttentionOptions,
): Tensor2D {
  const stored = cache.composed?.[layer];
  if (!stored) throw new NiftError('NIFT_INTERNAL', 'cachedAttentionReference: the cache holds native buffers.');
  const shape: AttentionShape = { ...options, numKvHeads: cache.numKvHeads, headDim: cache.headDim };
  return tf.tidy(() => {
    const outputs: Tensor2D[] = [];
    let begin = 0;
    options.queryLengths.forEach((length, b) => {
      if (length === 0) return;
      const rows = (x: Tensor2D): Tensor2D => tf.slice(x, [begin, 0], [length, -1]);
      const keys = append(stored.keys, b, rows(k));
      const values = append(stored.values, b, rows(v));
      outputs.push(attendSequence(rows(q), keys, values, cache.lengths[b]!, shape));
      begin += length;
    });
    return outputs.length === 0 ? tf.zerosLike(q) : tf.concat(outputs, 0);
  });
}

function append(tensors: (Tensor2D | null)[], b: number, rows: Tensor2D): Tensor2D {
  const old = tensors[b] ?? null;
  const grown = tf.keep(old === null ? rows.clone() : tf.concat([old, rows], 0));
  old?.dispose();
  tensors[b] = grown;
  return grown;
}

interface KernelAttrs {
  cache: KvCache;
  layer: number;
  shape: AttentionShape;
  queryLengths: Int32Array;
}

/** Registers the kernel for `native` when the addon is built. */
export function registerCachedAttention(): void {
  if (!addon()) return;
  registerNativeKernel<'q' | 'k' | 'v', KernelAttrs>(
    CACHED_ATTENTION_KERNEL,
    ({ inputs: { q, k, v }, backend: native, attrs: { cache, layer, shape, queryLengths } }) => {
      const stored = cache.native![layer]!;
      const out = native.output(q.shape);
      addon()!.cachedAttention(
        native.floats(q),
        native.floats(k),
        native.floats(v),
        stored.keys,
        stored.values,
        cache.slots,
        cache.lengths,
        queryLengths,
        out.data,
        shape.numHeads,
        shape.numKvHeads,
        shape.headDim,
        cache.capacity,
        shape.slidingWindow ?? 0,
        scoreScale(shape),
      );
      return out.info;
    },
  );
}
