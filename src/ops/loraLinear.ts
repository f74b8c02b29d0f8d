/**
 * y = x W^T + bias + s (x A^T) B^T         x [N, in], W [out, in] frozen, A [r, in], B [out, r], y [N, out]
 * with h = x A^T [N, r] and u = s dy B [N, r]:
 * dx = dy W + u A, dA = u^T x, dB = s dy^T h, dbias = sum over N of dy; no dW
 * Saved for backward: x, W, A, B, h. Numerics: inputs of every product (h and u too) rounded to `compute`, sums float32.
 * With dropout the adapter sees drop(x), and the op is composed.
 * Source: Hu et al. 2021 (LoRA), section 4.1, and PEFT's Linear layer.
 */
import { addon, type Addon } from '../backend/addon.js';
import { type ComputeDtype, DTYPE_CODE } from '../backend/dtype.js';
import { tf, type Tensor, type Tensor1D, type Tensor2D } from '../backend/tf.js';
import { NiftError } from '../errors.js';
import { dropout as applyDropout } from './dropout.js';
import { checkLinearShapes, linear, linearReference, sizesOf } from './linear.js';
import { registerNativeKernel } from './nativeKernel.js';
import { usesKernel } from './registry.js';
import { roundedMatMul } from './rounding.js';

export interface LoraLinearOptions {
  /** s: alpha / r, or alpha / sqrt(r) with rsLoRA. */
  scaling: number;
  bias?: Tensor1D | undefined;
  /** Precision that the inputs of each product are rounded to. */
  compute: ComputeDtype;
  /** Dropout on the adapter's input. */
  dropout?: { rate: number; seed: number } | undefined;
}

/**
 * Frozen dense layer with a LoRA adapter. Differentiable in x, a, b and bias, not in weight.
 * @param x [N, in] @param weight [out, in], any storage dtype @param a [r, in] @param b [out, r] @returns [N, out]
 * @throws NIFT_OP_SHAPE when sizes disagree.
 */
export function loraLinear(x: Tensor2D, weight: Tensor2D, a: Tensor2D, b: Tensor2D, options: LoraLinearOptions): Tensor2D {
  checkShapes(x, weight, a, b, options.bias);
  if (!usesKernel('LoraLinear')) return loraLinearReference(x, weight, a, b, options);
  const { scaling, bias, compute, dropout } = options;
  if (dropout && dropout.rate > 0) {
    return tf.tidy(() => {
      const base = linear(x, weight, { bias, compute });
      const h = linear(applyDropout(x, dropout), a, { compute });
      return tf.add(base, tf.mul(linear(h, b, { compute }), scaling));
    });
  }
  const inputs: Record<string, Tensor> = bias ? { x, weight, a, b, bias } : { x, weight, a, b };
  const [y, h] = tf.engine().runKernel('LoraLinear', inputs, { scaling, compute }) as unknown as [Tensor2D, Tensor2D];
  h.dispose();
  return y;
}

/** The definition, from stock ops. */
export function loraLinearReference(
  x: Tensor2D,
  weight: Tensor2D,
  a: Tensor2D,
  b: Tensor2D,
  { scaling, bias, compute, dropout }: LoraLinearOptions,
): Tensor2D {
  return tf.tidy(() => {
    const base = linearReference(x, weight, { bias, compute });
    const dropped = dropout && dropout.rate > 0 ? applyDropout(x, dropout) : x;
    const h = roundedMatMul(dropped, a, compute, false, true);
    return tf.add(base, tf.mul(roundedMatMul(h, b, compute, false, true), scaling));
  });
}

function checkShapes(x: Tensor2D, weight: Tensor2D, a: Tensor2D, b: Tensor2D, bias: Tensor1D | undefined): void {
  checkLinearShapes('loraLinear', x, weight, bias);
  const good =
    a.rank === 2 && b.rank === 2 && a.shape[1] === weight.shape[1] && b.shape[0] === weight.shape[0] && a.shape[0] === b.shape[1];
  if (good) return;
  throw new NiftError(
    'NIFT_OP_SHAPE',
    `loraLinear: a [${a.shape.join(', ')}] and b [${b.shape.join(', ')}] do not fit weight [${weight.shape.join(', ')}]; expected a [r, in], b [out, r]`,
  );
}

let registered = false;

/** Registers the native kernels (when the addon is there) and the gradient; idempotent. */
export function registerLoraLinear(): void {
  if (registered) return;
  registered = true;
  tf.registerGradient({
    kernelName: 'LoraLinear',
    inputsToSave: ['x', 'weight', 'a', 'b'],
    outputsToSave: [false, true],
    gradFunc: (dys, saved, attrs) => {
      const [dy] = dys as Tensor[];
      const [x, weight, a, b, h] = saved as [Tensor, Tensor, Tensor, Tensor, Tensor];
      if (!dy) throw new NiftError('NIFT_INTERNAL', 'LoraLinear: no gradient of its output');
      // One call: dx and dA share dy B.
      const inputs = { dy, x, weight, a, b, h };
      const grads = tf.engine().runKernel('LoraLinearGrad', inputs, attrs) as unknown as [Tensor, Tensor, Tensor];
      return {
        x: () => grads[0],
        weight: () => {
          throw new NiftError('NIFT_INTERNAL', 'LoraLinear: its weight is frozen and has no gradient');
        },
        a: () => grads[1],
        b: () => grads[2],
        bias: () => tf.sum(dy, 0),
      };
    },
  });
  const native = addon();
  if (native) registerNativeKernels(native);
}

interface LoraAttrs {
  scaling: number;
  compute: ComputeDtype;
}

function registerNativeKernels(native: Addon): void {
  type Forward = 'x' | 'weight' | 'a' | 'b' | 'bias';
  registerNativeKernel<Forward, LoraAttrs>('LoraLinear', ({ inputs, backend, attrs }) => {
    const { n, inFeatures, outFeatures } = sizesOf(inputs.x, inputs.weight);
    const [rank = 0] = inputs.a.shape;
    const y = backend.output([n, outFeatures]);
    const h = backend.output([n, rank]);
    const weight = backend.stored(inputs.weight);
    native.loraLinear(
      y.data,
      h.data,
      backend.floats(inputs.x),
      DTYPE_CODE[weight.dtype],
      weight.data,
      backend.floats(inputs.a),
      backend.floats(inputs.b),
      inputs.bias ? backend.floats(inputs.bias) : null,
      n,
      inFeatures,
      outFeatures,
      rank,
      attrs.scaling,
      DTYPE_CODE[attrs.compute],
    );
    return [y.info, h.info];
  });
  type Backward = 'dy' | 'x' | 'weight' | 'a' | 'b' | 'h';
  registerNativeKernel<Backward, LoraAttrs>('LoraLinearGrad', ({ inputs, backend, attrs }) => {
    const { n, inFeatures, outFeatures } = sizesOf(inputs.x, inputs.weight);
    const [rank = 0] = inputs.a.shape;
    const dx = backend.output([n, inFeatures]);
    const da = backend.output([rank, inFeatures]);
    const db = backend.output([outFeatures, rank]);
    const weight = backend.stored(inputs.weight);
    native.loraLinearGrad(
      dx.data,
      da.data,
      db.data,
      backend.floats(inputs.dy),
      backend.floats(inputs.x),
      backend.floats(inputs.h),
      DTYPE_CODE[weight.dtype],
      weight.data,
      backend.floats(inputs.a),
      backend.floats(inputs.b),
      n,
      inFeatures,
      outFeatures,
      rank,
      attrs.scaling,
      DTYPE_CODE[attrs.compute],
    );
    return [dx.info, da.info, db.info];
  });
}
