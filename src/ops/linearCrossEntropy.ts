/**
 * Language-model head and cross entropy in one, so that the logits never exist whole.
 *
 *   z = x W^T,   nll[n] = logsumexp(z[n]) - z[n, label[n]],   0 where the row has no target (-100)
 *
 * Shapes: x [N, C], W [V, C], labels [N] (already shifted), nll [N].
 * Saved for backward: the gradient of each row's nll with respect to its x, (softmax(z) - onehot) W, computed together
 * with the loss while a tile of logits is at hand; backward scales its rows. A trainable W computes the logits again.
 * On `native` tiles of words pass over all rows with a running maximum, as keys and values do in flash attention.
 * Numerics: products of inputs rounded to `compute`, fp32 sums; softmax in fp32; the label's own term of the gradient
 * is not rounded to `compute`.
 * Source: Liger Kernel, fused linear cross entropy (arXiv 2410.10989), section 3.2; running maximum: Milakov and
 * Gimelshein, Online normalizer calculation for softmax (arXiv 1805.02867), algorithm 3.
 */
import { NiftError } from '../errors.js';
import { tf, type Tensor, type Tensor1D, type Tensor2D } from '../backend/tf.js';
import { addon } from '../backend/addon.js';
import { DTYPE_CODE, type ComputeDtype } from '../backend/dtype.js';
import { registerNativeKernel, type NativeKernelArgs } from './nativeKernel.js';
import { usesKernel } from './registry.js';
import { roundedMatMul } from './rounding.js';

const KERNEL = 'LinearCrossEntropy';
const WEIGHT_GRADIENT_KERNEL = 'LinearCrossEntropyWeightGrad';

/** fp32 hidden states of the rows that are worked on together. */
const CHUNK_BYTES = 32 * 2 ** 20;

/** A row without a target. */
export const IGNORE_INDEX = -100;

export interface LinearCrossEntropyOptions {
  /** Precision that the inputs of the products are rounded to. */
  compute: ComputeDtype;
  /** Rows worked on together; by default as many as have 32 MB of hidden states. Changes rounding only. */
  chunkSize?: number;
}

/**
 * Negative log-likelihood of each row's label.
 * @param x [N, C] hidden states @param weight [V, C] @param labels [N] target of each row, -100 = none
 * @returns nll [N] in nats, 0 where there is no target
 * @throws NiftError NIFT_OP_SHAPE when shapes disagree or a label is outside [0, V)
 */
export function linearCrossEntropy(
  x: Tensor2D,
  weight: Tensor2D,
  labels: Int32Array,
  options: LinearCrossEntropyOptions,
): Tensor1D {
  checkArguments(x, weight, labels);
  if (!usesKernel(KERNEL)) return linearCrossEntropyReference(x, weight, labels, options);
  const chunkSize = options.chunkSize ?? Math.max(512, Math.floor(CHUNK_BYTES / 4 / weight.shape[1]));
  const withGradient = tf.engine().state.gradientDepth > 0;
  const attrs: KernelAttrs = { labels, compute: options.compute, chunkSize, withGradient };
  const outputs = tf.engine().runKernel(KERNEL, { x, weight }, attrs as unknown as tf.NamedAttrMap) as unknown as Tensor[];
  outputs[1]?.dispose(); // the tape holds its own reference
  return outputs[0] as Tensor1D;
}

/** The definition, in stock TF.js ops: holds all logits at once. */
export function linearCrossEntropyReference(
  x: Tensor2D,
  weight: Tensor2D,
  labels: Int32Array,
  options: LinearCrossEntropyOptions,
): Tensor1D {
  return tf.tidy(() => {
    const { compute } = options;
    const vocabulary = weight.shape[0];
    if (labels.length === 0) return tf.zeros<tf.Rank.R1>([0]);
    const logits = roundedMatMul(x, weight, compute, false, true);
    // A label of -1 gives a row of zeros.
    const targets = tf.oneHot(
      tf.tensor1d(
        labels.map((label) => (label === IGNORE_INDEX ? -1 : label)),
        'int32',
      ),
      vocabulary,
    );
    const picked = tf.sum(tf.mul(logits, tf.cast(targets, 'float32')), -1);
    const supervised = tf.tensor1d(
      Array.from(labels, (label) => label !== IGNORE_INDEX),
      'bool',
    );
    const nll = tf.sub<Tensor1D>(tf.logSumExp(logits, -1), picked);
    return tf.where<Tensor1D>(supervised, nll, tf.zerosLike(nll));
  });
}

function checkArguments(x: Tensor2D, weight: Tensor2D, labels: Int32Array): void {
  const vocabulary = weight.shape[0];
  if (x.shape[1] !== weight.shape[1] || labels.length !== x.shape[0]) {
    throw new NiftError(
      'NIFT_OP_SHAPE',
      `linearCrossEntropy: x [${x.shape}], weight [${weight.shape}] and ${labels.length} labels do not fit.`,
    );
  }
  const bad = labels.findIndex((label) => label !== IGNORE_INDEX && !(label >= 0 && label < vocabulary));
  if (bad < 0) return;
  throw new NiftError('NIFT_OP_SHAPE', `linearCrossEntropy: label ${labels[bad]} of row ${bad} is outside [0, ${vocabulary}).`);
}

interface KernelAttrs {
  labels: Int32Array;
  compute: ComputeDtype;
  chunkSize: number;
  /** Compute the gradient of each row together with its loss. */
  withGradient: boolean;
}

/** Registers the kernels for `native` (when the addon is built) and the gradient. */
export function registerLinearCrossEntropy(): void {
  tf.registerGradient({
    kernelName: KERNEL,
    inputsToSave: ['x', 'weight'],
    outputsToSave: [false, true],
    gradFunc: (dy, saved, attrs) => {
      const [x, weight, rowGradients] = saved as [Tensor2D, Tensor2D, Tensor2D];
      const dNll = (dy as Tensor[])[0]!;
      return {
        x: () => tf.mul(rowGradients, tf.reshape(dNll, [-1, 1])),
        weight: () => tf.engine().runKernel<Tensor>(WEIGHT_GRADIENT_KERNEL, { x, weight, dNll }, attrs),
      };
    },
  });
  if (!addon()) return;
  registerNativeKernel(KERNEL, lossKernel);
  registerNativeKernel(WEIGHT_GRADIENT_KERNEL, weightGradientKernel);
}

function lossKernel({ inputs, backend: native, attrs }: NativeKernelArgs<'x' | 'weight', KernelAttrs>): tf.TensorInfo[] {
  const { x, weight } = inputs as Record<'x' | 'weight', Tensor2D>;
  const { labels, compute, chunkSize, withGradient } = attrs;
  const [vocabulary, channels] = weight.shape;
  const head = native.stored(weight);
  const nll = native.output([labels.length]);
  const dx = withGradient ? native.output(x.shape) : null;
  addon()!.linearCrossEntropy(
    native.floats(x),
    head.data,
    DTYPE_CODE[head.dtype],
    labels,
    channels,
    vocabulary,
    DTYPE_CODE[compute],
    chunkSize,
    nll.data,
    dx ? dx.data : null,
  );
  return dx ? [nll.info, dx.info] : [nll.info];
}

function weightGradientKernel({
  inputs,
  backend: native,
  attrs,
}: NativeKernelArgs<'x' | 'weight' | 'dNll', KernelAttrs>): tf.TensorInfo {
  const { x, weight, dNll } = inputs as Record<'x' | 'weight' | 'dNll', Tensor2D>;
  const { labels, compute, chunkSize } = attrs;
  const [vocabulary, channels] = weight.shape;
  const head = native.stored(weight);
  const dWeight = native.output(weight.shape);
  addon()!.linearCrossEntropyWeightGrad(
    native.floats(x),
    head.data,
    DTYPE_CODE[head.dtype],
    labels,
    channels,
    vocabulary,
    DTYPE_CODE[compute],
    chunkSize,
    native.floats(dNll),
    dWeight.data,
  );
  return dWeight.info;
}
