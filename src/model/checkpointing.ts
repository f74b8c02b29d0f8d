/**
 * Gradient checkpointing: a layer's activations are not kept for the backward pass, which runs the layer again instead.
 * Exact: the second run computes the same values in the same order, so gradients are bitwise those without it.
 *
 * Source: Chen et al., Training Deep Nets with Sublinear Memory Cost (arXiv:1604.06174), one segment per layer.
 */
import { tf, type Tensor, type Tensor2D, type Variable } from '../backend/tf.js';

type Segment = (x: Tensor2D, constants: readonly Tensor[]) => Tensor2D;

/**
 * y = f(x, constants), keeping only x and the constants for backward. f may depend on `variables`, which get their gradients
 * too; on nothing else that is trainable, and on no other tensor that may be gone by then. f must be deterministic.
 */
export function checkpointed(f: Segment, x: Tensor2D, constants: readonly Tensor[], variables: readonly Variable[]): Tensor2D {
  // Not through tf.customGrad's types: they do not know of variables as inputs.
  const op = tf.customGrad((...args: unknown[]) => {
    const input = args[0] as Tensor2D;
    const save = args[args.length - 1] as tf.GradSaveFunc;
    save([input, ...constants]);
    const gradFunc = (dy: Tensor, saved: Tensor[]): Tensor[] =>
      segmentGradients((again) => f(again, saved.slice(1)), saved[0] as Tensor2D, variables, dy);
    return { value: f(input, constants), gradFunc };
  });
  return op(x, ...variables);
}

function segmentGradients(f: (x: Tensor2D) => Tensor2D, x: Tensor2D, variables: readonly Variable[], dy: Tensor): Tensor[] {
  const { state } = tf.engine();
  // The nested tape replaces the outer one, which TF.js still needs to clean up after the outer backward pass.
  const outerTape = state.activeTape;
  try {
    return tf.grads((...inputs: Tensor[]) => f(inputs[0] as Tensor2D))([x, ...variables], dy);
  } finally {
    state.activeTape = outerTape;
  }
}
