/** Names and shapes of a checkpoint's tensors, and of the linear modules that LoRA can adapt. The one place that spells them. */
import type { ModelConfig } from './config.js';

export const EMBEDDING = 'model.embed_tokens.weight';
export const FINAL_NORM = 'model.norm.weight';
export const LM_HEAD = 'lm_head.weight';

/** The linear modules of a decoder layer in transformers' order; the suffix after the last dot is what `target_modules` names. */
export const LINEAR_MODULES = [
  'self_attn.q_proj',
  'self_attn.k_proj',
  'self_attn.v_proj',
  'self_attn.o_proj',
  'mlp.gate_proj',
  'mlp.up_proj',
  'mlp.down_proj',
] as const;
export type LinearModule = (typeof LINEAR_MODULES)[number];

/** Sizes of one linear module: weight [out, in]. */
export interface LinearShape {
  in: number;
  out: number;
  bias: boolean;
}

export function linearShape(config: ModelConfig, module: LinearModule): LinearShape {
  const { hiddenSize, intermediateSize } = config;
  const query = config.numHeads * config.headDim;
  const keyValue = config.numKvHeads * config.headDim;
  switch (module) {
    case 'self_attn.q_proj':
      return { in: hiddenSize, out: query, bias: config.qkvBias };
    case 'self_attn.k_proj':
    case 'self_attn.v_proj':
      return { in: hiddenSize, out: keyValue, bias: config.qkvBias };
    case 'self_attn.o_proj':
      return { in: query, out: hiddenSize, bias: config.outputBias };
    case 'mlp.gate_proj':
    case 'mlp.up_proj':
      return { in: hiddenSize, out: intermediateSize, bias: config.mlpBias };
    case 'mlp.down_proj':
      return { in: intermediateSize, out: hiddenSize, bias: config.mlpBias };
  }
}

/** `model.layers.3.self_attn.q_proj`: the module's name in transformers. */
export const layerPrefix = (layer: number): string => `model.layers.${layer}.`;

/** Every tensor that a checkpoint of this config holds, name -> shape, in model order. A tied model has no `lm_head.weight`. */
export function parameterShapes(config: ModelConfig): Map<string, number[]> {
  const shapes = new Map<string, number[]>([[EMBEDDING, [config.vocabSize, config.hiddenSize]]]);
  for (let layer = 0; layer < config.numLayers; layer++) {
    const prefix = layerPrefix(layer);
    for (const module of LINEAR_MODULES) {
      const shape = linearShape(config, module);
      shapes.set(`${prefix}${module}.weight`, [shape.out, shape.in]);
      if (shape.bias) shapes.set(`${prefix}${module}.bias`, [shape.out]);
    }
    if (config.qkNorm) {
      shapes.set(`${prefix}self_attn.q_norm.weight`, [config.headDim]);
      shapes.set(`${prefix}self_attn.k_norm.weight`, [config.headDim]);
    }
    shapes.set(`${prefix}input_layernorm.weight`, [config.hiddenSize]);
    shapes.set(`${prefix}post_attention_layernorm.weight`, [config.hiddenSize]);
  }
  shapes.set(FINAL_NORM, [config.hiddenSize]);
  if (!config.tieWordEmbeddings) shapes.set(LM_HEAD, [config.vocabSize, config.hiddenSize]);
  return shapes;
}

/** Number of elements of all tensors of a checkpoint. */
export function parameterCount(config: ModelConfig): number {
  let count = 0;
  for (const shape of parameterShapes(config).values()) count += shape.reduce((product, size) => product * size, 1);
  return count;
}
