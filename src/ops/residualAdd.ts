/**
 * y = x + block        x, block, y of one shape
 * dx = dblock = dy
 * Saved for backward: nothing. TF.js's own `add` keeps both inputs, because it may have to undo a broadcast; a decoder layer
 * would hold 4 C floats per token for that.
 */
import { tf, type Tensor2D } from '../backend/tf.js';

/** Adds a block's output to the residual stream. @param x [N, C] @param block [N, C] @returns [N, C] */
export function residualAdd(x: Tensor2D, block: Tensor2D): Tensor2D {
  return add(x, block) as Tensor2D;
}

const add = tf.customGrad((x, block) => ({
  value: tf.add(x as tf.Tensor, block as tf.Tensor),
  gradFunc: (dy: tf.Tensor) => [dy, dy],
}));
