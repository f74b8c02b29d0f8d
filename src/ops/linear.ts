/**
 * y = x W^T + bias                    x [N, in], W [out, in], bias [out], y [N, out]
 * dx = dy W, dW = dy^T x, dbias = sum over N of dy
 * Saved for backward: x, W. Numerics: inputs of every product rounded to `compute`, sums float32.
 */
import { addon, type Addon } from '../backend/addon.js';
import { type ComputeDtype, DTYPE_CODE } from '../backend/dtype.js';
import { tf, type Tensor, type Tensor1D, type Tensor2D } from '../backend/tf.js';
import { NiftError } from '../errors.js';
import { registerNativeKernel } from './nativeKernel.js';
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
  return tf.engine().runKernel('Linear', inputs, { compute: options.compute });
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

let registered = false;

/** Registers the native kernels (when the addon is there) and the gradient; idempotent. */
export function registerLinear(): void {
  if (registered) return;
  registered = true;
  tf.registerGradient({
    kernelName: 'Linear',
    inputsToSave: ['x', 'weight'],
    gradFunc: (dy, saved, attrs) => {
      const [x, weight] = saved as [Tensor, Tensor];
      const run = (kernel: string, inputs: Record<string, Tensor>): Tensor => tf.engine().runKernel(kernel, inputs, attrs);
      return {
        x: () => run('LinearGradInput', { dy: dy as Tensor, weight }),
        weight: () => run('LinearGradWeight', { dy: dy as Tensor, x }),
        bias: () => tf.sum(dy as Tensor, 0),
      };
    },
  });
  const native = addon();
  if (native) registerNativeKernels(native);
}

function registerNativeKernels(native: Addon): void {
  registerNativeKernel<'x' | 'weight' | 'bias', LinearAttrs>('Linear', ({ inputs, backend, attrs }) => {
    const { n, inFeatures, outFeatures } = sizesOf(inputs.x, inputs.weight);
    const y = backend.output([n, outFeatures]);
    const weight = backend.stored(inputs.weight);
    const bias = inputs.bias ? backend.floats(inputs.bias) : null;
    const compute = DTYPE_CODE[attrs.compute];
    const code = DTYPE_CODE[weight.dtype];
    native.linear(y.data, backend.floats(inputs.x), code, weight.data, bias, n, inFeatures, outFeatures, compute);
    return y.info;
  });
  registerNativeKernel<'dy' | 'weight', LinearAttrs>('LinearGradInput', ({ inputs, backend, attrs }) => {
    const [n = 0] = inputs.dy.shape;
    const [outFeatures = 0, inFeatures = 0] = inputs.weight.shape;
    const dx = backend.output([n, inFeatures]);
    const weight = backend.stored(inputs.weight);
    const dy = backend.floats(inputs.dy);
    const compute = DTYPE_CODE[attrs.compute];
    native.linearGradInput(dx.data, dy, DTYPE_CODE[weight.dtype], weight.data, n, inFeatures, outFeatures, compute);
    return dx.info;
  });
  registerNativeKernel<'dy' | 'x', LinearAttrs>('LinearGradWeight', ({ inputs, backend, attrs }) => {
    const [n = 0, outFeatures = 0] = inputs.dy.shape;
    const [, inFeatures = 0] = inputs.x.shape;
    const dw = backend.output([outFeatures, inFeatures]);
    const dy = backend.floats(inputs.dy);
    native.linearGradWeight(dw.data, dy, backend.floats(inputs.x), n, inFeatures, outFeatures, DTYPE_CODE[attrs.compute]);
    return dw.info;
  });
}

interface LinearAttrs {
  compute: ComputeDtype;
}

/** N, in and out from x [N, in] and weight [out, in]. */
export function sizesOf(x: tf.TensorInfo, weight: tf.TensorInfo): { n: number; inFeatures: number; outFeatures: number } {
  const [n = 0, inFeatures = 0] = x.shape;
  const [outFeatures = 0] = weight.shape;
  return { n, inFeatures, outFeatures };
}
