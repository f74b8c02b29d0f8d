/**
 * AdamW over all parameters in one pass: unscale, global norm, clip, update.
 *
 *   g = grad * gradScale;  norm = sqrt(sum over all parameters of g^2)
 *   g = g * min(1, maxGradNorm / (norm + 1e-6))                          (only when maxGradNorm > 0)
 *   p = p * (1 - lr * weightDecay)
 *   m = m + (g - m) * (1 - beta1);  v = v * beta2 + g^2 * (1 - beta2)
 *   p = p - lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
 *
 * Shapes: any, p, g, m, v alike. Parameters and state change in place.
 * Numerics: elements in float32, scalars and the norm in float64 with a fixed order of summation. When any g is not finite,
 * nothing changes at all: loss scaling relies on it.
 * Source: Loshchilov and Hutter 2019, algorithm 2; operation order of torch.optim.AdamW and torch's clip_grad_norm_.
 */
import { addon } from '../backend/addon.js';
import type { NativeBackend } from '../backend/native.js';
import { tf, type Tensor, type Variable } from '../backend/tf.js';
import { NiftError } from '../errors.js';
import { registerNativeKernel } from './nativeKernel.js';
import { usesKernel } from './registry.js';

export interface AdamWHyper {
  lr: number;
  beta1: number;
  beta2: number;
  eps: number;
  weightDecay: number;
  /** Number of this update, from 1. */
  step: number;
  /** <= 0: no clipping. */
  maxGradNorm: number;
  /** Gradients are multiplied by it first: 1 / loss scale, 1 / targets of the window. */
  gradScale: number;
}

/** Moments, float32, in the order of the parameters. */
export interface AdamWState {
  m: Variable[];
  v: Variable[];
}

export interface AdamWResult {
  /** Global L2 norm of grad * gradScale before clipping; NaN or Infinity when not finite. */
  gradNorm: number;
  /** False: some gradient was NaN or infinite, and nothing changed. */
  finite: boolean;
}

/** Zero moments for `params`. */
export function createAdamWState(params: readonly Variable[]): AdamWState {
  const zeros = (): Variable[] => params.map((param) => tf.tidy(() => tf.variable(tf.zeros(param.shape, 'float32'), false)));
  return { m: zeros(), v: zeros() };
}

/** Frees the moments. */
export function disposeAdamWState(state: AdamWState): void {
  tf.dispose([...state.m, ...state.v]);
}

/**
 * One optimizer step, in place.
 * @param params trainable float32 variables
 * @param grads their gradients, same order and shapes
 * @param state from {@link createAdamWState}
 * @throws NIFT_OP_SHAPE when lists or shapes disagree, NIFT_USAGE for a step below 1
 */
export function adamw(params: readonly Variable[], grads: readonly Tensor[], state: AdamWState, hyper: AdamWHyper): AdamWResult {
  check(params, grads, state, hyper);
  if (!usesKernel('AdamW')) return adamwReference(params, grads, state, hyper);
  const native = addon()!;
  const backend = tf.backend() as unknown as NativeBackend;
  const { lr, beta1, beta2, eps, weightDecay, step, maxGradNorm, gradScale } = hyper;
  return native.adamw(
    params.map((param) => ownBuffer(param, backend)),
    grads.map((grad) => backend.floats(grad)),
    state.m.map((m) => ownBuffer(m, backend)),
    state.v.map((v) => ownBuffer(v, backend)),
    Float64Array.of(lr, beta1, beta2, eps, weightDecay, step, maxGradNorm, gradScale),
  );
}

/** Data ids of buffers that were allocated here. */
const ours = new WeakSet<object>();

/**
 * The variable's float32 buffer, safe to change: a variable may start on an array of the caller's or on a mapped file, and a
 * clone shares its buffer, so anything not allocated here is copied first.
 */
function ownBuffer(variable: Variable, backend: NativeBackend): Float32Array {
  if (!ours.has(variable.dataId) || backend.refCount(variable.dataId) > 1) {
    tf.tidy(() => variable.assign(tf.mul(variable, 1)));
    ours.add(variable.dataId);
  }
  const { data, dtype } = backend.stored(variable);
  if (dtype !== 'float32') throw new NiftError('NIFT_INTERNAL', `adamw: "${variable.name}" is stored as ${dtype}`);
  return data as Float32Array;
}

/**
 * The definition of {@link adamw} in stock TF.js ops.
 * Differs: squares are summed in float32 within a tensor, so a gradient beyond 1e19 counts as not finite.
 */
export function adamwReference(
  params: readonly Variable[],
  grads: readonly Tensor[],
  state: AdamWState,
  hyper: AdamWHyper,
): AdamWResult {
  const { lr, beta1, beta2, eps, weightDecay, step, maxGradNorm, gradScale } = hyper;
  return tf.tidy(() => {
    const scaled = grads.map((grad) => tf.mul(grad, gradScale));
    let total = 0;
    if (scaled.length > 0) for (const sum of tf.stack(scaled.map((g) => tf.sum(tf.square(g)))).dataSync()) total += sum;
    const gradNorm = Math.sqrt(total);
    if (!Number.isFinite(gradNorm)) return { gradNorm, finite: false };
    const clip = maxGradNorm > 0 ? Math.min(1, maxGradNorm / (gradNorm + 1e-6)) : 1;
    const stepSize = lr / (1 - beta1 ** step);
    const rootCorrection = Math.sqrt(1 - beta2 ** step);
    params.forEach((param, i) => {
      const g = tf.mul(scaled[i]!, clip);
      const m = state.m[i]!;
      const v = state.v[i]!;
      m.assign(tf.add(m, tf.mul(tf.sub(g, m), 1 - beta1)));
      v.assign(tf.add(tf.mul(v, beta2), tf.mul(tf.square(g), 1 - beta2)));
      const denominator = tf.add(tf.div(tf.sqrt(v), rootCorrection), eps);
      param.assign(tf.sub(tf.mul(param, 1 - lr * weightDecay), tf.mul(tf.div(m, denominator), stepSize)));
    });
    return { gradNorm, finite: true };
  });
}

function check(params: readonly Variable[], grads: readonly Tensor[], state: AdamWState, hyper: AdamWHyper): void {
  const counts = [params.length, grads.length, state.m.length, state.v.length];
  if (counts.some((count) => count !== counts[0]))
    throw new NiftError('NIFT_OP_SHAPE', `adamw: ${counts.join(', ')} parameters, gradients, m and v, expected equally many`);
  params.forEach((param, i) => {
    const shape = String(param.shape);
    for (const other of [grads[i]!, state.m[i]!, state.v[i]!])
      if (String(other.shape) !== shape)
        throw new NiftError(
          'NIFT_OP_SHAPE',
          `adamw: parameter ${i} "${param.name}" is [${shape}], its gradient or state [${other.shape}]`,
        );
  });
  if (!(hyper.step >= 1)) throw new NiftError('NIFT_USAGE', `adamw: step ${hyper.step}, expected 1 or more`);
}

let registered = false;

/** Marks the op as available on `native`; the kernel proper is the addon's `adamw`, which works on lists. Idempotent. */
export function registerAdamW(): void {
  if (registered) return;
  registered = true;
  if (!addon()) return;
  registerNativeKernel('AdamW', () => {
    throw new NiftError('NIFT_INTERNAL', 'AdamW works on lists of parameters: call adamw() of src/ops/adamw.ts');
  });
}
