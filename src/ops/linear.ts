/**
 * y = x W^T + bias                    x [N, in], W [out, in], bias [out], y [N, out]
 * dx = dy W, dW = dy^T x, dbias = sum over N of dy
 * Saved for backward: x, W. Numerics: inputs of every product rounded to `compute`, sums float32.
 */
import type { ComputeDtype } from '../backend/dtype.js';
import { tf, type Tensor, type Tensor1D, type Tensor2D } from '../backend/tf.js';
import { NiftError } from '../errors.js';
import { usesKernel } from './registry.js';
import { roundedMatMul } from './rounding.js';

export interface LinearOptions {
  bias?: Tensor1D | undefined;
  /** Precision that the inputs of each product are rounded to. */
  compute: ComputeDtype;
}

/**
 * Dense layer with weights in [out, in] layout, stored in any storage dtype. Differentiable in x, weight and bias.
 * @param x [N, in] @param weight [out, in] @returns [N, out]
 * @throws NIFT_OP_SHAPE when sizes disagree.
 */
export function linear(x: Tensor2D, weight: Tensor2D, options: LinearOptions): Tensor2D {
  checkLinearShapes('linear', x, weight, options.bias);
  if (!usesKernel('Linear')) return linearReference(x, weight, options);
  const inputs: Record<string, Tensor> = options.bias ? { x, weight, bias: options.bias } : { x, weight };
  return tf.engine().runKernel('Linear', inputs, { compute: options.compute }) as Tensor2D;
}

/** The definition, from stock ops. */
export function linearReference(x: Tensor2D, weight: Tensor2D, { bias, compute }: LinearOptions): Tensor2D {
  return tf.tidy(() => {
    const y = roundedMatMul(x, weight, compute, false, true);
    return bias ? tf.add(y, bias) : y;
  });
}

export function checkLinearShapes(op: string, x: Tensor2D, weight: Tensor2D, bias: Tensor1D | undefined): void {
  const [n, width] = x.shape;
  const [out, weightWidth] = weight.shape;
  const good =
    x.rank === 2 && weight.rank === 2 && width === weightWidth && (!bias || (bias.rank === 1 && bias.shape[0] === out));
  if (good) return;
  const biasText = bias ? `, bias [${bias.shape.join(', ')}]` : '';
  throw new NiftError(
    'NIFT_OP_SHAPE',
    `${op}: x [${x.shape.join(', ')}] and weight [${weight.shape.join(', ')}]${biasText} do not fit; expected x [N, in], weight [out, in], bias [out]`,
    { details: { n, in: width ?? null, out: out ?? null } },
  );
}

/** Kernels for backend `native` and their gradient. Called once by registerOps(). */
export function registerLinear(): void {
  // The native kernel is registered here once the addon exports it.
}
