/**
 * LoRA adapters with PEFT's semantics and names.
 *
 *   y += s * (drop(x) A^T) B^T,   s = alpha / r, or alpha / sqrt(r) with rsLoRA;   A [r, in], B [out, r], float32 masters
 *
 * Initialisation as PEFT's: A kaiming-uniform with a = sqrt(5), which is U(-1/sqrt(in), 1/sqrt(in)); B zero.
 * Source: Hu et al., LoRA (arXiv:2106.09685); Kalajdzievski, rsLoRA (arXiv:2312.03732); PEFT 0.20 tuners/lora.
 */
import { z } from 'zod';
import { NiftError, nearest, quote } from '../errors.js';
import { adapterScaling, moduleExpression, newAdapterConfig, type AdapterConfig } from '../formats/adapter.js';
import { requireTensors } from '../formats/matchTensors.js';
import type { TensorSource } from '../formats/safetensors.js';
import { uniformArray } from '../random.js';
import type { ModelConfig } from './config.js';
import type { LoraPair } from './layers.js';
import { LINEAR_MODULES, layerPrefix, linearShape, type LinearModule } from './parameters.js';
import { FLOAT_DTYPES, ownFloat32, variable } from './weights.js';

export interface LoraConfig {
  r: number;
  alpha: number;
  /** Probability of zeroing an input of A while training; default 0. */
  dropout?: number;
  /** Scaling alpha / sqrt(r) instead of alpha / r. */
  rsLora?: boolean;
  /** Module names (`q_proj`, or a longer suffix), `all`, or like PEFT one regular expression over full module names. */
  targetModules: readonly string[] | string;
  /** Other ranks and alphas for modules whose name ends in a match of the key. */
  rankPattern?: Record<string, number>;
  alphaPattern?: Record<string, number>;
  /** Only these layers; default all. */
  layers?: readonly number[];
}

/** One adapted linear module. */
export interface LoraTarget {
  layer: number;
  module: LinearModule;
  /** `model.layers.0.self_attn.q_proj` */
  name: string;
  in: number;
  out: number;
  r: number;
  scaling: number;
}

const ALL = ['all', 'all-linear'];
const SHORT_NAMES = LINEAR_MODULES.map((module) => module.slice(module.lastIndexOf('.') + 1));

/**
 * Modules that `lora` adapts, in model order.
 * @throws NIFT_ADAPTER_CONFIG when a target names no module, NIFT_MODEL_UNSUPPORTED for embeddings and the output matrix
 */
export function loraTargets(config: ModelConfig, lora: LoraConfig): LoraTarget[] {
  const matches = targetMatcher(lora.targetModules);
  const layers = lora.layers === undefined ? null : new Set(lora.layers);
  const outside = lora.layers?.find((layer) => !(layer >= 0 && layer < config.numLayers));
  if (outside !== undefined) {
    throw new NiftError(
      'NIFT_ADAPTER_CONFIG',
      `LoRA: layer ${outside} does not exist, the model has layers 0 to ${config.numLayers - 1}.`,
    );
  }
  const scalingConfig = {
    r: lora.r,
    lora_alpha: lora.alpha,
    use_rslora: lora.rsLora,
    rank_pattern: lora.rankPattern,
    alpha_pattern: lora.alphaPattern,
  };
  const targets: LoraTarget[] = [];
  for (let layer = 0; layer < config.numLayers; layer++) {
    if (layers !== null && !layers.has(layer)) continue;
    for (const module of LINEAR_MODULES) {
      const name = layerPrefix(layer) + module;
      if (!matches(name)) continue;
      const shape = linearShape(config, module);
      const { r, scaling } = adapterScaling(scalingConfig, name);
      targets.push({ layer, module, name, in: shape.in, out: shape.out, r, scaling });
    }
  }
  if (targets.length > 0) return targets;
  throw new NiftError('NIFT_ADAPTER_CONFIG', `LoRA: no module matches ${quote(JSON.stringify(lora.targetModules))}.`, {
    hint: `Modules: ${SHORT_NAMES.join(', ')}, or all.`,
  });
}

function targetMatcher(targets: readonly string[] | string): (name: string) => boolean {
  if (typeof targets === 'string' && !ALL.includes(targets)) {
    const pattern = moduleExpression(`^(?:${targets})$`, targets);
    return (name) => pattern.test(name);
  }
  const list = typeof targets === 'string' ? [targets] : targets;
  if (list.some((target) => ALL.includes(target))) return () => true;
  for (const target of list) checkTarget(target);
  return (name) => list.some((target) => name === target || name.endsWith(`.${target}`));
}

function checkTarget(target: string): void {
  if (/(^|\.)(lm_head|embed_tokens)$/.test(target)) {
    throw new NiftError('NIFT_MODEL_UNSUPPORTED', `LoRA on ${quote(target)} is not implemented.`, {
      hint: `Use the linear modules of the layers: ${SHORT_NAMES.join(', ')}.`,
    });
  }
  const last = target.slice(target.lastIndexOf('.') + 1);
  if (SHORT_NAMES.includes(last)) return;
  const near = nearest(target, SHORT_NAMES);
  throw new NiftError('NIFT_ADAPTER_CONFIG', `LoRA: the model has no module ${quote(target)}.`, {
    hint: near === undefined ? `Modules: ${SHORT_NAMES.join(', ')}, or all.` : `Did you mean ${quote(near)}?`,
  });
}

export const loraNameA = (target: LoraTarget): string => `base_model.model.${target.name}.lora_A.weight`;
export const loraNameB = (target: LoraTarget): string => `base_model.model.${target.name}.lora_B.weight`;

/** Fresh adapter; each A has its own stream of the seed, in model order. */
export function initLora(targets: readonly LoraTarget[], lora: LoraConfig, seed: number): LoraPair[] {
  return targets.map((target, stream) => ({
    a: variable(uniformArray(target.r * target.in, 1 / Math.sqrt(target.in), seed, stream), [target.r, target.in]),
    b: variable(new Float32Array(target.out * target.r), [target.out, target.r]),
    scaling: target.scaling,
    dropout: lora.dropout ?? 0,
  }));
}

/**
 * Adapter from a file; 16-bit values become float32 masters.
 * @throws NIFT_ADAPTER_MISMATCH listing every missing, unexpected and mis-shaped tensor
 */
export function loadLora(targets: readonly LoraTarget[], lora: LoraConfig, source: TensorSource, where: string): LoraPair[] {
  const shapes = new Map<string, [number, number]>();
  for (const target of targets) {
    shapes.set(loraNameA(target), [target.r, target.in]);
    shapes.set(loraNameB(target), [target.out, target.r]);
  }
  const found = new Map(source.names().map((name) => [name, source.info(name).shape]));
  requireTensors(shapes, found, 'NIFT_ADAPTER_MISMATCH', where, 'Is this the adapter of another model?');
  const wrong = [...shapes.keys()].filter((name) => !(source.info(name).dtype in FLOAT_DTYPES));
  if (wrong.length > 0) {
    const shown = wrong.map((name) => `${name} is stored as ${source.info(name).dtype}`);
    throw new NiftError('NIFT_ADAPTER_MISMATCH', `${where}: expected F32, BF16 or F16, but ${shown.slice(0, 5).join(', ')}.`, {
      details: { wrong },
    });
  }
  return targets.map((target) => {
    const [nameA, nameB] = [loraNameA(target), loraNameB(target)];
    return {
      a: variable(ownFloat32(source, nameA), shapes.get(nameA)!),
      b: variable(ownFloat32(source, nameB), shapes.get(nameB)!),
      scaling: target.scaling,
      dropout: lora.dropout ?? 0,
    };
  });
}

/** Keys beyond those that the reader of adapter files checks: anything but null or empty changes what the adapter computes. */
const MUST_BE_EMPTY = ['exclude_modules', 'layers_pattern', 'megatron_config', 'use_bdlora'];

const layersToTransform = z.union([z.number().int(), z.array(z.number().int())]).nullish();

/**
 * The settings of an adapter file that matter here.
 * @throws NIFT_ADAPTER_CONFIG for values that are wrong or not plain LoRA
 */
export function fromAdapterConfig(config: AdapterConfig, where: string): LoraConfig {
  const problems = MUST_BE_EMPTY.filter((key) => !isEmpty(config[key])).map((key) => `${key} is not supported`);
  const layers = layersToTransform.safeParse(config['layers_to_transform']);
  if (!layers.success) problems.push('layers_to_transform: expected a layer or a list of layers');
  const targetModules = config.target_modules ?? undefined;
  if (targetModules === undefined) problems.push('target_modules is missing');
  if (problems.length > 0 || targetModules === undefined) {
    throw new NiftError('NIFT_ADAPTER_CONFIG', `${where}: ${problems.join('; ')}.`, { details: { problems } });
  }
  const chosen = layers.data ?? undefined;
  return {
    r: config.r,
    alpha: config.lora_alpha,
    dropout: config.lora_dropout ?? 0,
    rsLora: config.use_rslora ?? false,
    targetModules,
    rankPattern: config.rank_pattern ?? {},
    alphaPattern: config.alpha_pattern ?? {},
    ...(chosen === undefined ? {} : { layers: Array.isArray(chosen) ? chosen : [chosen] }),
  };
}

function isEmpty(value: unknown): boolean {
  if (value === undefined || value === null || value === false) return true;
  return typeof value === 'object' && Object.keys(value).length === 0;
}

/** `adapter_config.json` of a fresh adapter; `all` is spelled out. */
export function toAdapterConfig(lora: LoraConfig, baseModel: string | null): AdapterConfig {
  const targets = lora.targetModules;
  const all = typeof targets === 'string' ? ALL.includes(targets) : targets.some((target) => ALL.includes(target));
  const names = all ? SHORT_NAMES : typeof targets === 'string' ? [] : targets;
  return {
    ...newAdapterConfig({
      r: lora.r,
      lora_alpha: lora.alpha,
      target_modules: names,
      lora_dropout: lora.dropout ?? 0,
      use_rslora: lora.rsLora ?? false,
      base_model_name_or_path: baseModel,
    }),
    ...(all || typeof targets !== 'string' ? {} : { target_modules: targets }),
    layers_to_transform: lora.layers === undefined ? null : [...lora.layers],
    rank_pattern: lora.rankPattern ?? {},
    alpha_pattern: lora.alphaPattern ?? {},
  };
}
