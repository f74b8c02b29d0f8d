/**
 * Rotary position embedding, half-split: dimension i pairs with i + D/2.
 *
 *   y[i]       = x[i] cos[n, i] - x[i + D/2] sin[n, i]
 *   y[i + D/2] = x[i + D/2] cos[n, i] + x[i] sin[n, i]        for i < D/2, per head
 *
 * Shapes: x, y [N, H*D]; cos, sin [N, D/2], N packed tokens.
 * Backward: the inverse rotation (sin negated) of dy; saves cos and sin. No gradient for the tables.
 * Numerics: the angle is a float32 product position * inv_freq, as in transformers; cosine and sine of that float32
 * angle are taken in double and rounded once.
 * Source: Su et al., RoFormer (arXiv 2104.09864), eq. 34; pairing as in transformers' `rotate_half`.
 */
import { NiftError } from '../errors.js';
import { tf, type Tensor, type Tensor2D } from '../backend/tf.js';
import { addon } from '../backend/addon.js';
import { registerNativeKernel } from './nativeKernel.js';
import { usesKernel } from './registry.js';

const KERNEL = 'RotaryEmbedding';

export interface RotaryOptions {
  /** Heads in x: C = numHeads * D. */
  numHeads: number;
}

/**
 * Cosines and sines for packed tokens.
 * @param positions [N] position of each token in its own sequence
 * @param invFreq [D/2] frequencies in radians a token (rope scaling already applied)
 * @param attentionScaling factor on both tables (1 except for scalings that ask for another)
 */
export function rotaryTables(
  positions: Int32Array,
  invFreq: Float32Array,
  attentionScaling = 1,
): { cos: Tensor2D; sin: Tensor2D } {
  const half = invFreq.length;
  const cos = new Float32Array(positions.length * half);
  const sin = new Float32Array(positions.length * half);
  for (let n = 0; n < positions.length; n++) {
    for (let i = 0; i < half; i++) {
      const angle = Math.fround(positions[n]! * invFreq[i]!);
      cos[n * half + i] = Math.fround(Math.cos(angle)) * attentionScaling;
      sin[n * half + i] = Math.fround(Math.sin(angle)) * attentionScaling;
    }
  }
  const shape: [number, number] = [positions.length, half];
  return { cos: tf.tensor2d(cos, shape), sin: tf.tensor2d(sin, shape) };
}

/**
 * Rotates every head of x by the angle of its token.
 * @param x [N, H*D] @param cos [N, D/2] @param sin [N, D/2]
 * @throws NiftError NIFT_OP_SHAPE when the shapes disagree
 */
export function rotaryEmbedding(x: Tensor2D, cos: Tensor2D, sin: Tensor2D, options: RotaryOptions): Tensor2D {
  checkShapes(x, cos, sin, options.numHeads);
  if (!usesKernel(KERNEL)) return rotaryEmbeddingReference(x, cos, sin, options);
  return runRotary(x, cos, sin, options.numHeads, false);
}

/** The definition, in stock TF.js ops. */
export function rotaryEmbeddingReference(x: Tensor2D, cos: Tensor2D, sin: Tensor2D, { numHeads }: RotaryOptions): Tensor2D {
  return tf.tidy(() => {
    const [tokens, channels] = x.shape;
    const half = channels / numHeads / 2;
    const pairs = tf.reshape(x, [tokens, numHeads, 2, half]);
    const [first, second] = tf.unstack(pairs, 2) as [Tensor, Tensor];
    const c = tf.reshape(cos, [tokens, 1, half]);
    const s = tf.reshape(sin, [tokens, 1, half]);
    const rotated = tf.stack([tf.sub(tf.mul(first, c), tf.mul(second, s)), tf.add(tf.mul(second, c), tf.mul(first, s))], 2);
    return tf.reshape<tf.Rank.R2>(rotated, [tokens, channels]);
  });
}

/** Registers the kernel for `native` (when the addon is built) and the gradient. */
export function registerRotaryEmbedding(): void {
  tf.registerGradient({
    kernelName: KERNEL,
    inputsToSave: ['cos', 'sin'],
    gradFunc: (dy, saved, attrs) => {
      const [cos, sin] = saved as [Tensor2D, Tensor2D];
      const { numHeads, inverse } = attrs as unknown as { numHeads: number; inverse: boolean };
      return {
        x: () => runRotary(dy as Tensor2D, cos, sin, numHeads, !inverse),
        cos: () => tf.zerosLike(cos),
        sin: () => tf.zerosLike(sin),
      };
    },
  });
  if (!addon()) return;
  registerNativeKernel<'x' | 'cos' | 'sin', { numHeads: number; inverse: boolean }>(
    KERNEL,
    ({ inputs, backend: native, attrs: { numHeads, inverse } }) => {
      const { x, cos, sin } = inputs as Record<'x' | 'cos' | 'sin', Tensor2D>;
      const out = native.output(x.shape);
      addon()!.rotaryEmbedding(
        native.floats(x),
        native.floats(cos),
        native.floats(sin),
        out.data,
        x.shape[0],
        numHeads,
        x.shape[1] / numHeads,
        inverse,
      );
      return out.info;
    },
  );
}

function runRotary(x: Tensor2D, cos: Tensor2D, sin: Tensor2D, numHeads: number, inverse: boolean): Tensor2D {
  return tf.engine().runKernel<Tensor2D>(KERNEL, { x, cos, sin }, { numHeads, inverse });
}

function checkShapes(x: Tensor2D, cos: Tensor2D, sin: Tensor2D, numHeads: number): void {
  const [tokens, channels] = x.shape;
  const half = channels / numHeads / 2;
  const fits = (table: Tensor2D): boolean => table.shape[0] === tokens && table.shape[1] === half;
  if (Number.isInteger(half) && fits(cos) && fits(sin)) return;
  throw new NiftError(
    'NIFT_OP_SHAPE',
    `rotaryEmbedding: x [${x.shape}] with ${numHeads} heads needs tables [${tokens}, ${half}], got cos [${cos.shape}], sin [${sin.shape}].`,
  );
}
