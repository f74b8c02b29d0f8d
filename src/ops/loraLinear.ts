/**
 * y = x W^T + bias + s (x A^T) B^T         x [N, in], W [out, in] frozen, A [r, in], B [out, r], y [N, out]
 * with h = x A^T [N, r] and u = s dy B [N, r]:
 * dx = dy W + u A, dA = u^T x, dB = s dy^T h, dbias = sum over N of dy; no dW
 * Saved for backward: x, W, A, B, h. Numerics: inputs of every product (h and u too) rounded to `compute`, sums float32.
 * With dropout the adapter sees drop(x), and the op is composed.
 * Source: Hu et al. 2021 (LoRA), section 4.1, and PEFT's Linear layer.
 */
import type { ComputeDtype } from '../backend/dtype.js';
import { tf, type Tensor, type Tensor1D, type Tensor2D } from '../backend/tf.js';
import { NiftError } from '../errors.js';
import { dropout as applyDropout } from './dropout.js';
import { checkLinearShapes, linear, linearReference } from './linear.js';
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
    a.rank === 2 &&
    b.rank === 2 &&
    a.shape[1] === weight.shape[1] &&
    b.shape[0] === weight.shape[0] &&
    a.shape[0] === b.shape[1];
  if (good) return;
  throw new NiftError(
    'NIFT_OP_SHAPE',
    `loraLinear: a [${a.shape.join(', ')}] and b [${b.shape.join(', ')}] do not fit weight [${weight.shape.join(', ')}]; expected a [r, in], b [out, r]`,
  );
}

/** Kernels for backend `native` and their gradient. Called once by registerOps(). */
export function registerLoraLinear(): void {
  // The native kernel is registered here once the addon exports it.
}
