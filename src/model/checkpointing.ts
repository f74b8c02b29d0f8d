/**
 * Gradient checkpointing: a layer's activations are not kept for the backward pass, which runs the layer again instead.
 * Exact: the second run computes the same values in the same order, so gradients are bitwise those without it.
 *
 * Source: Chen et al., Training Deep Nets with Sublinear Memory Cost (arXiv:1604.06174), one segment per layer.
 */
import { tf, type Tensor2D, type Variable } from '../backend/tf.js';

/**
 * y = f(x), keeping only x for backward. f may depend on `variables`, which get their gradients too; on nothing else
 * that is trainable. f must be deterministic.
 */
export function checkpointed(f: (x: Tensor2D) => Tensor2D, x: Tensor2D, variables: readonly Variable[]): Tensor2D {
  // Not through tf.customGrad's types: they do not know of variables as inputs.
  const op = tf.customGrad((...args: unknown[]) => {
    const input = args[0] as Tensor2D;
    const save = args[args.length - 1] as tf.GradSaveFunc;
    save([input]);
    const value = f(input);
    const gradFunc = (dy: Tensor2D, saved: tf.Tensor[]): tf.Tensor[] => layerGradients(f, saved[0] as Tensor2D, variables, dy);
    return { value, gradFunc: gradFunc as (dy: tf.Tensor, saved: tf.Tensor[]) => tf.Tensor[] };
  });
  return op(x, ...variables) as Tensor2D;
}

function layerGradients(f: (x: Tensor2D) => Tensor2D, x: Tensor2D, variables: readonly Variable[], dy: Tensor2D): tf.Tensor[] {
  const { state } = tf.engine();
  // The nested tape replaces the outer one, which TF.js still needs to clean up after the outer backward pass.
  const outerTape = state.activeTape;
  try {
    const gradients = tf.grads((...inputs: tf.Tensor[]) => f(inputs[0] as Tensor2D));
    return gradients([x, ...variables], dy);
  } finally {
    state.activeTape = outerTape;
  }
}
