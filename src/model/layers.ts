/**
 * One decoder layer on packed tokens, for all architectures (they differ in biases, norms on q and k, and windows only):
 *
 *   a = x + o_proj(attention(rope(norm(q_proj n)), rope(norm(k_proj n)), v_proj n)),   n = RMSNorm(x)
 *   y = a + down_proj(silu(gate_proj m) * up_proj m),                                   m = RMSNorm(a)
 *
 * Shapes: x, y [N, C]; q [N, H*D]; k, v [N, Hkv*D]; gate, up [N, F]. N = tokens of all sequences, no padding.
 */
import type { ComputeDtype } from '../backend/dtype.js';
import { tf, type Tensor, type Tensor1D, type Tensor2D, type Variable } from '../backend/tf.js';
import { placeSeed } from '../ops/dropout.js';
import { linear } from '../ops/linear.js';
import { loraLinear } from '../ops/loraLinear.js';
import { residualAdd } from '../ops/residualAdd.js';
import { rmsNorm } from '../ops/rmsNorm.js';
import { rotaryEmbedding } from '../ops/rotaryEmbedding.js';
import { swiglu } from '../ops/swiglu.js';
import type { ModelConfig } from './config.js';
import { LINEAR_MODULES, type LinearModule } from './parameters.js';

/** A LoRA pair on one linear module: y += scaling * (drop(x) A^T) B^T. */
export interface LoraPair {
  /** [r, in] */
  a: Variable;
  /** [out, r] */
  b: Variable;
  scaling: number;
  /** Probability of zeroing an input of A while training. */
  dropout: number;
}

export interface Projection {
  /** [out, in] */
  weight: Tensor2D;
  bias: Tensor1D | undefined;
  lora: LoraPair | undefined;
}

export interface DecoderLayer {
  index: number;
  projections: Record<LinearModule, Projection>;
  inputNorm: Tensor1D;
  postAttentionNorm: Tensor1D;
  queryNorm: Tensor1D | undefined;
  keyNorm: Tensor1D | undefined;
}

/** Attention of one layer over whatever the caller keeps: packed sequences, or new tokens plus a cache. */
export type Attend = (q: Tensor2D, k: Tensor2D, v: Tensor2D, layer: number) => Tensor2D;

/** Called with intermediate values while the forward pass runs. The tensor dies soon after: read it at once. */
export type Trace = (name: string, value: Tensor) => void;

export interface LayerContext {
  config: ModelConfig;
  compute: ComputeDtype;
  /** [N, D/2] */
  cos: Tensor2D;
  /** [N, D/2] */
  sin: Tensor2D;
  attend: Attend;
  /** Seed of this pass' dropout masks; null = no dropout (evaluation). */
  dropoutSeed: number | null;
  trace?: Trace | undefined;
}

/** x [N, C] -> y [N, C]. Intermediates that no gradient needs are gone when it returns. */
export function decoderLayer(x: Tensor2D, layer: DecoderLayer, context: LayerContext): Tensor2D {
  return tf.tidy(() => {
    const { rmsNormEps: eps } = context.config;
    const afterAttention = residualAdd(x, attention(rmsNorm(x, layer.inputNorm, eps), layer, context));
    return residualAdd(afterAttention, feedForward(rmsNorm(afterAttention, layer.postAttentionNorm, eps), layer, context));
  });
}

function attention(n: Tensor2D, layer: DecoderLayer, context: LayerContext): Tensor2D {
  const { numHeads, numKvHeads } = context.config;
  const trace = (name: string, value: Tensor): void => context.trace?.(`layer${layer.index}.${name}`, value);
  trace('input_layernorm', n);
  let q = project(n, layer, 'self_attn.q_proj', context);
  let k = project(n, layer, 'self_attn.k_proj', context);
  const v = project(n, layer, 'self_attn.v_proj', context);
  if (layer.queryNorm) q = normHeads(q, layer.queryNorm, context.config);
  if (layer.keyNorm) k = normHeads(k, layer.keyNorm, context.config);
  q = rotaryEmbedding(q, context.cos, context.sin, { numHeads });
  k = rotaryEmbedding(k, context.cos, context.sin, { numHeads: numKvHeads });
  trace('q_rope', q);
  trace('k_rope', k);
  const out = project(context.attend(q, k, v, layer.index), layer, 'self_attn.o_proj', context);
  trace('attn_out', out);
  return out;
}

function feedForward(m: Tensor2D, layer: DecoderLayer, context: LayerContext): Tensor2D {
  const gate = project(m, layer, 'mlp.gate_proj', context);
  const up = project(m, layer, 'mlp.up_proj', context);
  const out = project(swiglu(gate, up), layer, 'mlp.down_proj', context);
  context.trace?.(`layer${layer.index}.mlp_out`, out);
  return out;
}

/** RMSNorm of each head on its own: [N, H*D] -> [N, H*D]. */
function normHeads(x: Tensor2D, weight: Tensor1D, { headDim, rmsNormEps }: ModelConfig): Tensor2D {
  const perHead = tf.reshape<tf.Rank.R2>(x, [x.size / headDim, headDim]);
  return tf.reshape(rmsNorm(perHead, weight, rmsNormEps), x.shape);
}

function project(x: Tensor2D, layer: DecoderLayer, module: LinearModule, context: LayerContext): Tensor2D {
  const { weight, bias, lora } = layer.projections[module];
  const { compute, dropoutSeed } = context;
  if (!lora) return linear(x, weight, { bias, compute });
  const dropout =
    dropoutSeed !== null && lora.dropout > 0
      ? { rate: lora.dropout, seed: placeSeed(dropoutSeed, layer.index, LINEAR_MODULES.indexOf(module)) }
      : undefined;
  return loraLinear(x, weight, lora.a as unknown as Tensor2D, lora.b as unknown as Tensor2D, {
    scaling: lora.scaling,
    bias,
    compute,
    dropout,
  });
}
