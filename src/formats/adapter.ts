/**
 * A PEFT LoRA adapter folder: adapter_config.json and adapter_model.safetensors.
 *
 * Of the config only the keys that change the numbers matter. Those that ask for something other than plain LoRA are refused, because
 * ignoring them would give a wrong model; everything else is kept as it is and written back.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { NiftError, quote } from '../errors.js';
import { atomicFile } from './atomic.js';
import { guardIo, makeFolder } from './io.js';
import { readJsonObject, stableJson, type JsonObject } from './jsonText.js';
import { openSafetensors, type OpenOptions, type SafetensorsFile } from './safetensors.js';
import { writeSafetensors, type TensorToWrite } from './safetensorsWriter.js';

export const ADAPTER_CONFIG_FILE = 'adapter_config.json';
export const ADAPTER_WEIGHTS_FILE = 'adapter_model.safetensors';

// PEFT takes regular expressions here; module names (and ^ for a whole name) are what its users write.
const pattern = z
  .record(z.string().regex(/^\^?[\w.-]+$/, 'regular expressions are not supported here'), z.number().positive())
  .nullish();

/** The keys that matter, with PEFT's defaults for those that older versions did not write. */
const adapterSchema = z.looseObject({
  peft_type: z.literal('LORA').default('LORA'),
  base_model_name_or_path: z.string().nullish(),
  r: z.int().positive(),
  lora_alpha: z.number(),
  lora_dropout: z.number().min(0).max(1).nullish(),
  target_modules: z.union([z.array(z.string()), z.string()]).nullish(),
  use_rslora: z.boolean().nullish(),
  rank_pattern: pattern,
  alpha_pattern: pattern,
  // Anything but the listed value is another method than plain LoRA.
  fan_in_fan_out: z.literal(false, 'is for Conv1D layers (GPT-2), which no supported model has').nullish(),
  bias: z.literal('none', 'trained biases are not supported').nullish(),
  use_dora: z.literal(false, 'DoRA is not supported').nullish(),
  use_qalora: z.literal(false, 'QA-LoRA is not supported').nullish(),
  lora_bias: z.literal(false, 'biases on LoRA layers are not supported').nullish(),
  modules_to_save: z.array(z.string()).max(0, 'fully trained modules beside LoRA are not supported').nullish(),
  layer_replication: z.null('replicated layers are not supported').optional(),
  trainable_token_indices: z.null('trained token embeddings are not supported').optional(),
  target_parameters: z.array(z.string()).max(0, 'LoRA on bare parameters is not supported').nullish(),
  alora_invocation_tokens: z.null('activated LoRA is not supported').optional(),
});

/** adapter_config.json: the keys above typed, all others untouched. */
export type AdapterConfig = z.infer<typeof adapterSchema>;

export interface Adapter {
  folder: string;
  config: AdapterConfig;
  tensors: SafetensorsFile;
  /** Closes the weights. Idempotent. */
  close(): void;
}

/** Checks a config object. All problems come in one error. @throws NIFT_ADAPTER_CONFIG */
export function parseAdapterConfig(config: JsonObject, where: string): AdapterConfig {
  const result = adapterSchema.safeParse(config);
  if (result.success) return result.data;
  const problems = result.error.issues.map((issue) => `${issue.path.join('.') || 'the file'}: ${issue.message}`);
  throw new NiftError('NIFT_ADAPTER_CONFIG', `${where}: ${problems.join('; ')}`, { details: { problems } });
}

/** Reads adapter_config.json as it stands. */
export function readAdapterJson(folder: string): JsonObject {
  const file = path.join(folder, ADAPTER_CONFIG_FILE);
  if (!existsSync(file)) {
    throw new NiftError('NIFT_FILE_NOT_FOUND', `${folder}: ${ADAPTER_CONFIG_FILE} is not there`, {
      hint: existsSync(path.join(folder, 'config.json'))
        ? 'This folder holds a whole checkpoint. Give it as the model, not as the adapter.'
        : 'Name a folder with a PEFT adapter (adapter_config.json, adapter_model.safetensors).',
    });
  }
  return readJsonObject(file);
}

/** Reads and checks adapter_config.json. */
export const readAdapterConfig = (folder: string): AdapterConfig =>
  parseAdapterConfig(readAdapterJson(folder), path.join(folder, ADAPTER_CONFIG_FILE));

/** Opens an adapter folder. The weights are mapped, not loaded. */
export function readAdapter(folder: string, options: OpenOptions = {}): Adapter {
  const config = readAdapterConfig(folder);
  const tensors = openAdapterWeights(folder, options);
  return { folder, config, tensors, close: () => tensors.close() };
}

/** Opens adapter_model.safetensors by itself. */
export function openAdapterWeights(folder: string, options: OpenOptions = {}): SafetensorsFile {
  const file = path.join(folder, ADAPTER_WEIGHTS_FILE);
  if (!existsSync(file)) {
    const pickle = existsSync(path.join(folder, 'adapter_model.bin'));
    throw new NiftError('NIFT_FILE_NOT_FOUND', `${folder}: ${ADAPTER_WEIGHTS_FILE} is not there`, {
      hint: pickle
        ? 'adapter_model.bin is a pickle, which can run code when it is read. Convert it with PEFT: save_pretrained(..., safe_serialization=True).'
        : 'The adapter is incomplete. Copy the whole folder.',
    });
  }
  return openSafetensors(file, options);
}

/** Everything that PEFT writes for plain LoRA (the key set of 0.10, which every later version reads). */
export function newAdapterConfig(config: {
  r: number;
  lora_alpha: number;
  target_modules: readonly string[];
  lora_dropout?: number;
  use_rslora?: boolean;
  base_model_name_or_path?: string | null;
}): AdapterConfig {
  return adapterSchema.parse({
    alpha_pattern: {},
    auto_mapping: null,
    base_model_name_or_path: config.base_model_name_or_path ?? null,
    bias: 'none',
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    layers_pattern: null,
    layers_to_transform: null,
    loftq_config: {},
    lora_alpha: config.lora_alpha,
    lora_dropout: config.lora_dropout ?? 0,
    megatron_config: null,
    megatron_core: 'megatron.core',
    modules_to_save: null,
    peft_type: 'LORA',
    r: config.r,
    rank_pattern: {},
    revision: null,
    target_modules: [...config.target_modules].sort(),
    task_type: 'CAUSAL_LM',
    use_dora: false,
    use_rslora: config.use_rslora ?? false,
  });
}

/** Writes an adapter into a folder (made when absent), each file atomically, the weights last. @returns the file names */
export function writeAdapter(folder: string, config: AdapterConfig, tensors: Iterable<TensorToWrite>): string[] {
  guardIo(folder, 'create', () => makeFolder(folder));
  const text = stableJson({ ...config, inference_mode: true }).replace(/^( {2}"lora_dropout": -?\d+)(,?)$/m, '$1.0$2');
  atomicFile(path.join(folder, ADAPTER_CONFIG_FILE), text);
  writeSafetensors(path.join(folder, ADAPTER_WEIGHTS_FILE), tensors);
  return [ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE];
}

type ScalingConfig = Pick<AdapterConfig, 'r' | 'lora_alpha'> & {
  use_rslora?: boolean | null | undefined;
  rank_pattern?: Patterns;
  alpha_pattern?: Patterns;
};
type Patterns = Record<string, number> | null | undefined;

/**
 * r, alpha and the factor s of y = W x + s B A x for one module ("model.layers.0.self_attn.q_proj").
 * @throws NIFT_ADAPTER_CONFIG for a pattern that is no regular expression
 */
export function adapterScaling(config: ScalingConfig, module: string): { r: number; alpha: number; scaling: number } {
  const r = byPattern(config.rank_pattern, module) ?? config.r;
  const alpha = byPattern(config.alpha_pattern, module) ?? config.lora_alpha;
  return { r, alpha, scaling: alpha / (config.use_rslora ? Math.sqrt(r) : r) };
}

/** Like PEFT, the first key that matches the end of the module's name, whole components only. Keys are regular expressions. */
function byPattern(patterns: Patterns, module: string): number | undefined {
  for (const [key, value] of Object.entries(patterns ?? {}))
    if (moduleExpression(`^(?:.*\\.)?(?:${key})$`, key).test(module)) return value;
  return undefined;
}

/** @param shown what the message quotes @throws NIFT_ADAPTER_CONFIG */
export function moduleExpression(source: string, shown: string): RegExp {
  try {
    return new RegExp(source);
  } catch (cause) {
    throw new NiftError('NIFT_ADAPTER_CONFIG', `LoRA: ${quote(shown)} is not a regular expression.`, { cause });
  }
}
