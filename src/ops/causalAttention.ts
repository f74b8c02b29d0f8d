/**
 * Causal attention over packed sequences, grouped-query, with an optional sliding window.
 *
 *   o[i] = sum_j p[i, j] v[j],   p[i] = softmax_j(scale * q[i] . k[j])   over i - W < j <= i of the same sequence
 *
 * Shapes: q, o [N, H*D]; k, v [N, Hkv*D]; head h reads key/value head floor(h / (H/Hkv)); cuSeqlens [B+1].
 * Saved for backward: q, k, v, o and the log-sum-exp of each row [H, N]; the T x T matrix never exists on `native`.
 * Numerics: fp32 scores, softmax and sums. The inputs of every product (q, k, v, p; backward: their gradients) are rounded
 * to `compute`. Differs: the native kernel rounds to bfloat16 where the CPU multiplies bfloat16, and otherwise computes in
 * full fp32, which is closer to the exact result.
 * Source: Dao et al., FlashAttention (arXiv 2205.14135), algorithms 1 and 4; FlashAttention-2 (2307.08691), section 3.1.
 */
import { NiftError } from '../errors.js';
import { tf, type Tensor, type Tensor2D } from '../backend/tf.js';
import { addon } from '../backend/addon.js';
import { DTYPE_CODE, type ComputeDtype } from '../backend/dtype.js';
import { registerNativeKernel, type NativeKernelArgs } from './nativeKernel.js';
import { usesKernel } from './registry.js';
import { roundGradient, roundTo } from './rounding.js';

const KERNEL = 'CausalAttention';
const GRADIENT_KERNEL = 'CausalAttentionGrad';

export interface AttentionShape {
  /** H: query heads. */
  numHeads: number;
  /** Hkv: key/value heads, a divisor of H. */
  numKvHeads: number;
  /** D: size of a head; need not be hidden size / heads. */
  headDim: number;
  /** W: query i sees keys i - W < j <= i; null sees all before it. */
  slidingWindow: number | null;
  /** Factor on the scores; 1/sqrt(D) when absent. */
  scale?: number;
  /** Precision that the inputs of the two products are rounded to. */
  compute: ComputeDtype;
}

export interface CausalAttentionOptions extends AttentionShape {
  /** [B+1] first token of each sequence, and N at the end. */
  cuSeqlens: Int32Array;
}

/**
 * Attention of each token over its own sequence up to itself.
 * @param q [N, H*D] @param k [N, Hkv*D] @param v [N, Hkv*D], rotary embedding already applied
 * @returns [N, H*D]
 * @throws NiftError NIFT_OP_SHAPE when shapes, heads, window or cuSeqlens do not fit together
 */
export function causalAttention(q: Tensor2D, k: Tensor2D, v: Tensor2D, options: CausalAttentionOptions): Tensor2D {
  checkAttention('causalAttention', q, k, v, options);
  checkCuSeqlens(options.cuSeqlens, q.shape[0]);
  if (!usesKernel(KERNEL)) return causalAttentionReference(q, k, v, options);
  const [out, logSumExp] = tf.engine().runKernel(KERNEL, { q, k, v }, toAttrs(options)) as unknown as [Tensor2D, Tensor];
  logSumExp.dispose(); // the tape, when there is one, holds its own reference
  return out;
}

/** The definition, in stock TF.js ops: builds the T x T matrix of each sequence. */
export function causalAttentionReference(q: Tensor2D, k: Tensor2D, v: Tensor2D, options: CausalAttentionOptions): Tensor2D {
  return tf.tidy(() => {
    const outputs: Tensor2D[] = [];
    for (let b = 0; b + 1 < options.cuSeqlens.length; b++) {
      const begin = options.cuSeqlens[b]!;
      const length = options.cuSeqlens[b + 1]! - begin;
      if (length === 0) continue;
      const rows = (x: Tensor2D): Tensor2D => tf.slice(x, [begin, 0], [length, -1]);
      outputs.push(attendSequence(rows(q), rows(k), rows(v), 0, options));
    }
    return outputs.length === 0 ? tf.zerosLike(q) : tf.concat(outputs, 0);
  });
}

/**
 * One sequence: queries [Tq, H*D] at positions past ... past + Tq - 1 over keys and values [past + Tq, Hkv*D].
 * Shared with the reference of cachedAttention.
 */
export function attendSequence(q: Tensor2D, k: Tensor2D, v: Tensor2D, past: number, shape: AttentionShape): Tensor2D {
  const { numHeads, numKvHeads, headDim, slidingWindow, compute } = shape;
  const queries = q.shape[0];
  const keys = k.shape[0];
  const group = numHeads / numKvHeads;
  // [T, heads*D] -> [Hkv, (G*)T, D]
  const split = (x: Tensor2D, heads: number): Tensor =>
    tf.reshape(tf.transpose(tf.reshape(roundTo(x, compute), [x.shape[0], heads, headDim]), [1, 0, 2]), [numKvHeads, -1, headDim]);
  const products = roundGradient(tf.matMul(split(q, numHeads), split(k, numKvHeads), false, true), compute);
  const scores = tf.mul(tf.reshape(products, [numHeads, queries, keys]), scoreScale(shape));
  const p = tf.softmax(tf.add(scores, causalMask(queries, keys, past, slidingWindow)), -1);
  const seen = tf.matMul(tf.reshape(roundTo(p, compute), [numKvHeads, group * queries, keys]), split(v, numKvHeads));
  const o = roundGradient(seen, compute);
  const perHead = tf.transpose(tf.reshape(o, [numHeads, queries, headDim]), [1, 0, 2]);
  return tf.reshape(perHead, [queries, numHeads * headDim]);
}

export function scoreScale(shape: AttentionShape): number {
  return shape.scale ?? 1 / Math.sqrt(shape.headDim);
}

/** [Tq, Tk]: 0 where query i (at position past + i) sees key j, else -Infinity. */
function causalMask(queries: number, keys: number, past: number, slidingWindow: number | null): Tensor2D {
  const mask = new Float32Array(queries * keys).fill(-Infinity);
  for (let i = 0; i < queries; i++) {
    const position = past + i;
    const first = slidingWindow === null ? 0 : Math.max(0, position - slidingWindow + 1);
    mask.fill(0, i * keys + first, i * keys + position + 1);
  }
  return tf.tensor2d(mask, [queries, keys]);
}

/** Throws NIFT_OP_SHAPE unless q, k, v fit the heads. */
export function checkAttention(op: string, q: Tensor2D, k: Tensor2D, v: Tensor2D, shape: AttentionShape): void {
  const { numHeads, numKvHeads, headDim, slidingWindow } = shape;
  const fail = (what: string): never => {
    throw new NiftError('NIFT_OP_SHAPE', `${op}: ${what}; q [${q.shape}], k [${k.shape}], v [${v.shape}].`);
  };
  for (const size of [numHeads, numKvHeads, headDim])
    if (!Number.isInteger(size) || size < 1) fail(`${size} is not a positive size`);
  if (numHeads % numKvHeads !== 0) fail(`${numHeads} query heads cannot share ${numKvHeads} key/value heads evenly`);
  if (q.shape[1] !== numHeads * headDim) fail(`q needs ${numHeads} heads x ${headDim} columns`);
  for (const x of [k, v]) {
    if (x.shape[0] !== q.shape[0] || x.shape[1] !== numKvHeads * headDim)
      fail(`k and v need ${q.shape[0]} rows and ${numKvHeads} heads x ${headDim} columns`);
  }
  if (slidingWindow !== null && !(slidingWindow >= 1)) fail(`sliding window ${slidingWindow} must be at least 1 or null`);
}

function checkCuSeqlens(cuSeqlens: Int32Array, tokens: number): void {
  let valid = cuSeqlens.length >= 1 && cuSeqlens[0] === 0 && cuSeqlens[cuSeqlens.length - 1] === tokens;
  for (let b = 1; valid && b < cuSeqlens.length; b++) valid = cuSeqlens[b]! >= cuSeqlens[b - 1]!;
  if (valid) return;
  throw new NiftError(
    'NIFT_OP_SHAPE',
    `causalAttention: cuSeqlens [${cuSeqlens.slice(0, 20)}] must rise from 0 to ${tokens} tokens.`,
  );
}

interface KernelAttrs {
  numHeads: number;
  numKvHeads: number;
  headDim: number;
  window: number;
  scale: number;
  compute: number;
  cuSeqlens: Int32Array;
}

function toAttrs(options: CausalAttentionOptions): tf.NamedAttrMap {
  const { numHeads, numKvHeads, headDim, slidingWindow, cuSeqlens } = options;
  const compute = DTYPE_CODE[options.compute];
  const attrs: KernelAttrs = {
    numHeads,
    numKvHeads,
    headDim,
    window: slidingWindow ?? 0,
    scale: scoreScale(options),
    compute,
    cuSeqlens,
  };
  return attrs as unknown as tf.NamedAttrMap;
}

/** Registers the kernels for `native` (when the addon is built) and the gradient. */
export function registerCausalAttention(): void {
  tf.registerGradient({
    kernelName: KERNEL,
    inputsToSave: ['q', 'k', 'v'],
    outputsToSave: [true, true],
    gradFunc: (dy, saved, attrs) => {
      const [q, k, v, out, logSumExp] = saved as [Tensor2D, Tensor2D, Tensor2D, Tensor2D, Tensor2D];
      const dOut = (dy as Tensor[])[0] as Tensor2D;
      const inputs = { q, k, v, out, logSumExp, dOut };
      const [dq, dk, dv] = tf.engine().runKernel(GRADIENT_KERNEL, inputs, attrs) as unknown as [Tensor2D, Tensor2D, Tensor2D];
      return { q: () => dq, k: () => dk, v: () => dv };
    },
  });
  if (!addon()) return;
  registerNativeKernel(KERNEL, forwardKernel);
  registerNativeKernel(GRADIENT_KERNEL, gradientKernel);
}

function forwardKernel({ inputs, backend: native, attrs }: NativeKernelArgs<'q' | 'k' | 'v', KernelAttrs>): tf.TensorInfo[] {
  const { q, k, v } = inputs as Record<'q' | 'k' | 'v', Tensor2D>;
  const { cuSeqlens, numHeads, numKvHeads, headDim, window, scale, compute } = attrs;
  const out = native.output(q.shape);
  const lse = native.output([numHeads, q.shape[0]]);
  const [qs, ks, vs] = [native.floats(q), native.floats(k), native.floats(v)];
  addon()!.causalAttention(qs, ks, vs, cuSeqlens, out.data, lse.data, numHeads, numKvHeads, headDim, window, scale, compute);
  return [out.info, lse.info];
}

type GradientInput = 'q' | 'k' | 'v' | 'out' | 'logSumExp' | 'dOut';

function gradientKernel({
  inputs: tensors,
  backend: native,
  attrs,
}: NativeKernelArgs<GradientInput, KernelAttrs>): tf.TensorInfo[] {
  const { cuSeqlens, numHeads, numKvHeads, headDim, window, scale, compute } = attrs;
  const [dq, dk, dv] = [native.output(tensors.q.shape), native.output(tensors.k.shape), native.output(tensors.v.shape)];
  addon()!.causalAttentionGrad(
    native.floats(tensors.q),
    native.floats(tensors.k),
    native.floats(tensors.v),
    cuSeqlens,
    native.floats(tensors.out),
    native.floats(tensors.logSumExp),
    native.floats(tensors.dOut),
    dq.data,
    dk.data,
    dv.data,
    numHeads,
    numKvHeads,
    headDim,
    window,
    scale,
    compute,
  );
  return [dq.info, dk.info, dv.info];
}
