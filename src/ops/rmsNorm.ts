/**
 * RMSNorm: y[r,c] = x[r,c] * rsqrt(mean_c(x[r,c]^2) + eps) * weight[c].
 *
 * Shapes: x [R,C], weight [C] -> y [R,C]. (R rows are tokens, or tokens * heads for Qwen3's q/k norms.)
 * Saved for backward: x, weight. The row's 1/rms is recomputed, so nothing of size R is kept.
 * Gradients, with r = 1/rms of the row:
 *   dx = r * (dy * weight) - x * r^3 / C * sum_c(dy * weight * x)
 *   dweight[c] = sum_r(dy * x * r)
 * Numerics: everything in float32; row sums in 16 fixed lanes, dweight in blocks of 64 rows.
 * Source: Zhang and Sennrich 2019; the order of operations is that of transformers' LlamaRMSNorm.
 */
import { addon } from '../backend/addon.js';
import { tf, type Tensor, type Tensor1D, type Tensor2D } from '../backend/tf.js';
import { NiftError } from '../errors.js';
import { registerNativeKernel } from './nativeKernel.js';
import { usesKernel } from './registry.js';

interface Attrs {
  eps: number;
}

/**
 * Root-mean-square normalisation of the rows of `x`.
 * @param x float32 [R,C]
 * @param weight float32 [C] (any storage)
 * @param eps added to the mean square
 * @throws NIFT_OP_SHAPE when the shapes disagree
 */
export function rmsNorm(x: Tensor2D, weight: Tensor1D, eps: number): Tensor2D {
  if (x.rank !== 2 || weight.rank !== 1 || x.shape[1] !== weight.shape[0])
    throw new NiftError('NIFT_OP_SHAPE', `rmsNorm: x [${x.shape}] and weight [${weight.shape}], expected [R,C] and [C]`);
  if (!usesKernel('RMSNorm')) return rmsNormReference(x, weight, eps);
  return tf.engine().runKernel('RMSNorm', { x, weight }, { eps });
}

/** The definition of {@link rmsNorm} in stock TF.js ops. */
export function rmsNormReference(x: Tensor2D, weight: Tensor1D, eps: number): Tensor2D {
  return tf.tidy(() => {
    const meanSquare = tf.mean(tf.square(x), -1, true);
    return tf.mul(tf.mul(x, tf.rsqrt(tf.add(meanSquare, eps))), weight);
  });
}

let registered = false;

/** Registers the native kernels (when the addon is there) and the gradient; idempotent. */
export function registerRmsNorm(): void {
  if (registered) return;
  registered = true;
  tf.registerGradient({
    kernelName: 'RMSNorm',
    inputsToSave: ['x', 'weight'],
    gradFunc: (dy, saved, attrs) => {
      const [x, weight] = saved as [Tensor, Tensor];
      const inputs = { dy: dy as Tensor, x, weight };
      return {
        x: () => tf.engine().runKernel<Tensor>('RMSNormGradX', inputs, attrs),
        weight: () => tf.engine().runKernel<Tensor>('RMSNormGradWeight', inputs, attrs),
      };
    },
  });
  const native = addon();
  if (!native) return;
  registerNativeKernel<'x' | 'weight', Attrs>('RMSNorm', ({ inputs: { x, weight }, backend, attrs }) => {
    const output = backend.output(x.shape);
    const [rows, columns] = x.shape as [number, number];
    native.rmsNorm(backend.floats(x), backend.floats(weight), rows, columns, attrs.eps, output.data);
    return output.info;
  });
  registerNativeKernel<'dy' | 'x' | 'weight', Attrs>('RMSNormGradX', ({ inputs: { dy, x, weight }, backend, attrs }) => {
    const output = backend.output(x.shape);
    const [rows, columns] = x.shape as [number, number];
    native.rmsNormGradX(backend.floats(dy), backend.floats(x), backend.floats(weight), rows, columns, attrs.eps, output.data);
    return output.info;
  });
  registerNativeKernel<'dy' | 'x' | 'weight', Attrs>('RMSNormGradWeight', ({ inputs: { dy, x, weight }, backend, attrs }) => {
    const output = backend.output(weight.shape);
    const [rows, columns] = x.shape as [number, number];
    native.rmsNormGradWeight(backend.floats(dy), backend.floats(x), rows, columns, attrs.eps, output.data);
    return output.info;
  });
}
