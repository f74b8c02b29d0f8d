/**
 * SwiGLU: y = silu(gate) * up, silu(g) = g * sigmoid(g).
 *
 * Shapes: gate [N,F], up [N,F] -> y [N,F].
 * Saved for backward: gate, up.
 * Gradients, with s = sigmoid(gate):
 *   dgate = dy * up * s * (1 + gate * (1 - s))
 *   dup   = dy * gate * s
 * Numerics: float32; the kernel's exp is within 2 ulp.
 * Source: Shazeer 2020, "GLU Variants Improve Transformer", equation 6.
 */
import { addon } from '../backend/addon.js';
import { tf, type Tensor, type Tensor2D } from '../backend/tf.js';
import { NiftError } from '../errors.js';
import { registerNativeKernel } from './nativeKernel.js';
import { usesKernel } from './registry.js';

/**
 * The gated activation of Llama's feed-forward layer.
 * @param gate float32 [N,F]
 * @param up float32 [N,F]
 * @throws NIFT_OP_SHAPE when the shapes differ
 */
export function swiglu(gate: Tensor2D, up: Tensor2D): Tensor2D {
  if (gate.rank !== 2 || up.rank !== 2 || gate.shape[0] !== up.shape[0] || gate.shape[1] !== up.shape[1])
    throw new NiftError('NIFT_OP_SHAPE', `swiglu: gate [${gate.shape}] and up [${up.shape}], expected the same [N,F]`);
  if (!usesKernel('SwiGLU')) return swigluReference(gate, up);
  return tf.engine().runKernel('SwiGLU', { gate, up });
}

/** The definition of {@link swiglu} in stock TF.js ops. */
export function swigluReference(gate: Tensor2D, up: Tensor2D): Tensor2D {
  return tf.tidy(() => tf.mul(tf.mul(gate, tf.sigmoid(gate)), up));
}

let registered = false;

/** Registers the native kernels (when the addon is there) and the gradient; idempotent. */
export function registerSwiglu(): void {
  if (registered) return;
  registered = true;
  tf.registerGradient({
    kernelName: 'SwiGLU',
    inputsToSave: ['gate', 'up'],
    gradFunc: (dy, saved) => {
      const [gate, up] = saved as [Tensor, Tensor];
      // Both come from one pass: every caller that needs one needs the other.
      const [dGate, dUp] = tf.engine().runKernel('SwiGLUGrad', { dy: dy as Tensor, gate, up }) as unknown as [Tensor, Tensor];
      return { gate: () => dGate, up: () => dUp };
    },
  });
  const native = addon();
  if (!native) return;
  registerNativeKernel<'gate' | 'up'>('SwiGLU', ({ inputs: { gate, up }, backend }) => {
    const output = backend.output(gate.shape);
    native.swiglu(backend.floats(gate), backend.floats(up), output.data);
    return output.info;
  });
  registerNativeKernel<'dy' | 'gate' | 'up'>('SwiGLUGrad', ({ inputs: { dy, gate, up }, backend }) => {
    const dGate = backend.output(gate.shape);
    const dUp = backend.output(gate.shape);
    native.swigluGrad(backend.floats(dy), backend.floats(gate), backend.floats(up), dGate.data, dUp.data);
    return [dGate.info, dUp.info];
  });
}
