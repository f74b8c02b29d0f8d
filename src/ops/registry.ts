/** Which fused ops run as kernels of the current TF.js backend, and the one place that registers all of them. */
import { onBackendReady } from '../backend/index.js';
import { tf } from '../backend/tf.js';
import { registerRotaryEmbedding } from './rotaryEmbedding.js';
import { registerLinearCrossEntropy } from './linearCrossEntropy.js';
import { registerCausalAttention } from './causalAttention.js';
import { registerCachedAttention } from './cachedAttention.js';
import { registerAdamW } from './adamw.js';
import { registerDropout } from './dropout.js';
import { registerEmbedding } from './embedding.js';
import { registerRmsNorm } from './rmsNorm.js';
import { registerSwiglu } from './swiglu.js';
import { registerLinear } from './linear.js';
import { registerLoraLinear } from './loraLinear.js';

/** True when the current backend has a kernel of this name; otherwise the op runs as its composed reference. */
export function usesKernel(name: string): boolean {
  return tf.getKernel(name, tf.getBackend()) !== undefined;
}

// Each fused op adds its register function here.
const REGISTER: (() => void)[] = [
  registerRmsNorm,
  registerSwiglu,
  registerEmbedding,
  registerDropout,
  registerAdamW,

  registerRotaryEmbedding,
  registerLinearCrossEntropy,
  registerCausalAttention,
  registerCachedAttention,
  registerLinear,
  registerLoraLinear,
];

let registered = false;

/** Registers kernels (backend `native`, when the addon is there) and gradients of all fused ops, once. */
export function registerOps(): void {
  if (registered) return;
  registered = true;
  for (const register of REGISTER) register();
}

onBackendReady(registerOps);
