/**
 * `config.json` of a Hugging Face checkpoint, resolved: every default that transformers would fill in is filled in here,
 * and everything that would change the numbers but is not implemented is refused, never ignored.
 *
 * Source: transformers 5.12 (configuration_{llama,mistral,qwen2,qwen3}.py), both spellings of the keys: the classical one
 * (`rope_theta`, `rope_scaling`, `torch_dtype`) and that of transformers 5 (`rope_parameters`, `dtype`).
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { STORAGE_DTYPES, type StorageDtype } from '../backend/dtype.js';
import { NiftError, nearest, quote } from '../errors.js';
import { resolveRope, type RopeParameters } from './rope.js';

export const ARCHITECTURES = ['LlamaForCausalLM', 'MistralForCausalLM', 'Qwen2ForCausalLM', 'Qwen3ForCausalLM'] as const;
export type Architecture = (typeof ARCHITECTURES)[number];

const MODEL_TYPES: Record<Architecture, string> = {
  LlamaForCausalLM: 'llama',
  MistralForCausalLM: 'mistral',
  Qwen2ForCausalLM: 'qwen2',
  Qwen3ForCausalLM: 'qwen3',
};

/** What the model code needs to know, with all defaults resolved. Sizes are counts of elements. */
export interface ModelConfig {
  architecture: Architecture;
  modelType: string;
  hiddenSize: number;
  intermediateSize: number;
  numLayers: number;
  numHeads: number;
  numKvHeads: number;
  headDim: number;
  vocabSize: number;
  rmsNormEps: number;
  rope: RopeParameters;
  /** As the file says; `contextLength` is what the model can take. */
  maxPositionEmbeddings: number;
  /** Longest sequence in tokens: maxPositionEmbeddings, times the factor of linear and dynamic rope scaling. */
  contextLength: number;
  /** Window of each layer in tokens (query i sees keys i - W < j <= i), null = full attention. */
  slidingWindows: (number | null)[];
  tieWordEmbeddings: boolean;
  qkvBias: boolean;
  outputBias: boolean;
  mlpBias: boolean;
  /** RMSNorm over head_dim on queries and keys before the rotation (Qwen3). */
  qkNorm: boolean;
  initializerRange: number;
  bosTokenId: number | null;
  /** Empty when the file names none. */
  eosTokenIds: number[];
  padTokenId: number | null;
  /** What the file says its weights are stored as; undefined when it does not say. */
  dtype: StorageDtype | undefined;
  /** The file as it was read: what a copy of the checkpoint must keep. */
  raw: Record<string, unknown>;
}

const size = z
  .number()
  .int()
  .positive()
  .max(2 ** 31 - 1);
const tokenId = z.number().int().nonnegative();
const optional = <T extends z.ZodType>(type: T) => type.nullish();

const rawConfig = z.looseObject({
  architectures: optional(z.array(z.string())),
  model_type: optional(z.string()),
  hidden_size: size,
  intermediate_size: size,
  // Far above any model, far below what fills memory before a weight is looked at.
  num_hidden_layers: size.max(10_000),
  num_attention_heads: size,
  num_key_value_heads: optional(size),
  head_dim: optional(size),
  vocab_size: size,
  rms_norm_eps: optional(z.number().positive()),
  rope_theta: optional(z.number().positive()),
  rope_scaling: optional(z.record(z.string(), z.unknown())),
  rope_parameters: optional(z.record(z.string(), z.unknown())),
  max_position_embeddings: optional(size),
  partial_rotary_factor: optional(z.number()),
  sliding_window: optional(z.number().int()),
  use_sliding_window: optional(z.boolean()),
  max_window_layers: optional(z.number().int().nonnegative()),
  layer_types: optional(z.array(z.string())),
  tie_word_embeddings: optional(z.boolean()),
  attention_bias: optional(z.boolean()),
  attention_dropout: optional(z.number()),
  mlp_bias: optional(z.boolean()),
  hidden_act: optional(z.string()),
  initializer_range: optional(z.number().nonnegative()),
  bos_token_id: optional(z.union([tokenId, z.array(tokenId)])),
  eos_token_id: optional(z.union([tokenId, z.array(tokenId)])),
  pad_token_id: optional(z.number().int()),
  torch_dtype: optional(z.string()),
  dtype: optional(z.string()),
});
type RawConfig = z.infer<typeof rawConfig>;

/** What each architecture assumes when the file is silent (transformers' defaults). */
interface Defaults {
  kvHeads: number | null;
  headDim: number | null;
  maxPositionEmbeddings: number;
}
const DEFAULTS: Record<Architecture, Defaults> = {
  LlamaForCausalLM: { kvHeads: null, headDim: null, maxPositionEmbeddings: 2048 },
  MistralForCausalLM: { kvHeads: 8, headDim: null, maxPositionEmbeddings: 4096 * 32 },
  Qwen2ForCausalLM: { kvHeads: 32, headDim: null, maxPositionEmbeddings: 32768 },
  Qwen3ForCausalLM: { kvHeads: 32, headDim: 128, maxPositionEmbeddings: 32768 },
};

/**
 * Reads `config.json` of a checkpoint folder.
 * @throws NIFT_FILE_NOT_FOUND, NIFT_JSON, NIFT_MODEL_CONFIG (wrong or missing values), NIFT_MODEL_UNSUPPORTED
 */
export async function loadModelConfig(dir: string): Promise<ModelConfig> {
  const file = path.join(dir, 'config.json');
  return parseModelConfig(await readJson(file, 'Give the folder of a Hugging Face checkpoint.'), file);
}

/**
 * Resolves the parsed content of a `config.json`.
 * @param source what errors call it, usually its path
 * @throws NIFT_MODEL_CONFIG (wrong or missing values, all of them listed), NIFT_MODEL_UNSUPPORTED
 */
export function parseModelConfig(json: unknown, source = 'config.json'): ModelConfig {
  if (typeof json !== 'object' || json === null || Array.isArray(json)) {
    throw new NiftError('NIFT_MODEL_CONFIG', `${source}: expected a JSON object.`);
  }
  // The architecture first: the file of an unknown model need not have our keys at all.
  const architecture = architectureOf(json as Record<string, unknown>, source);
  const parsed = rawConfig.safeParse(json);
  if (!parsed.success) {
    const issues = parsed.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`);
    throw new NiftError('NIFT_MODEL_CONFIG', `${source}: ${issues.join('; ')}.`, { details: { issues } });
  }
  const raw = parsed.data;
  refuseUnsupported(raw, architecture, source);
  return resolve(raw, architecture, source);
}

/** `eos_token_id` of `generation_config.json` when that file exists and names any: it wins over `config.json`. */
export async function generationEosTokenIds(dir: string): Promise<number[] | undefined> {
  const file = path.join(dir, 'generation_config.json');
  let json: unknown;
  try {
    json = await readJson(file, '');
  } catch (error) {
    if (error instanceof NiftError && error.code === 'NIFT_FILE_NOT_FOUND') return undefined;
    throw error;
  }
  const parsed = z.looseObject({ eos_token_id: rawConfig.shape.eos_token_id }).safeParse(json);
  if (!parsed.success) throw new NiftError('NIFT_MODEL_CONFIG', `${file}: eos_token_id must be a token id or a list of them.`);
  const ids = idList(parsed.data.eos_token_id);
  return ids.length > 0 ? ids : undefined;
}

async function readJson(file: string, hint: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (cause) {
    throw new NiftError('NIFT_FILE_NOT_FOUND', `${file}: cannot be read.`, { hint, cause });
  }
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw new NiftError('NIFT_JSON', `${file}: not valid JSON: ${cause instanceof Error ? cause.message : String(cause)}.`, {
      cause,
    });
  }
}

function architectureOf(json: Record<string, unknown>, source: string): Architecture {
  const listed = Array.isArray(json['architectures']) ? json['architectures'].filter((name) => typeof name === 'string') : [];
  const byName = ARCHITECTURES.find((name) => listed.includes(name));
  if (byName !== undefined) return byName;
  const byType = ARCHITECTURES.find((name) => MODEL_TYPES[name] === json['model_type']);
  if (listed.length === 0 && byType !== undefined) return byType;
  const found = listed[0] ?? (typeof json['model_type'] === 'string' ? json['model_type'] : undefined);
  if (found === undefined) throw new NiftError('NIFT_MODEL_CONFIG', `${source}: names neither "architectures" nor "model_type".`);
  throw new NiftError('NIFT_MODEL_UNSUPPORTED', `${source}: architecture ${quote(found)} is not supported.`, {
    hint: `Supported: ${ARCHITECTURES.join(', ')}.`,
    details: { found, nearest: nearest(found, ARCHITECTURES) ?? null },
  });
}

/** Everything here changes the numbers in transformers; running without it would be wrong without a word. */
function refuseUnsupported(raw: RawConfig, architecture: Architecture, source: string): void {
  const problems: string[] = [];
  const act = raw.hidden_act ?? 'silu';
  if (act !== 'silu' && act !== 'swish') problems.push(`hidden_act is ${quote(act)}, only "silu" is implemented`);
  if ((raw['quantization_config'] ?? null) !== null)
    problems.push('quantization_config is set, but weights must be float32, bfloat16 or float16');
  if ((raw.attention_dropout ?? 0) !== 0) problems.push(`attention_dropout is ${raw.attention_dropout}, only 0 is implemented`);
  const partial = raw.partial_rotary_factor ?? raw.rope_parameters?.['partial_rotary_factor'] ?? 1;
  if (partial !== 1) problems.push(`partial_rotary_factor is ${JSON.stringify(partial)}, only 1 is implemented`);
  if (architecture === 'MistralForCausalLM' && raw.attention_bias)
    problems.push('attention_bias is true, but Mistral layers have no biases');
  if (architecture !== 'LlamaForCausalLM' && raw.mlp_bias) problems.push('mlp_bias is true, which only Llama knows');
  if (problems.length === 0) return;
  throw new NiftError('NIFT_MODEL_UNSUPPORTED', `${source}: ${problems.join('; ')}.`, {
    hint: (raw['quantization_config'] ?? null) !== null ? 'Use the unquantised checkpoint.' : 'Use a checkpoint without it.',
    details: { problems },
  });
}

function resolve(raw: RawConfig, architecture: Architecture, source: string): ModelConfig {
  const defaults = DEFAULTS[architecture];
  const heads = raw.num_attention_heads;
  const kvHeads = raw.num_key_value_heads ?? (raw.num_key_value_heads === null ? heads : (defaults.kvHeads ?? heads));
  const headDim = raw.head_dim ?? (raw.head_dim === null ? null : defaults.headDim) ?? raw.hidden_size / heads;
  const problems: string[] = [];
  if (heads % kvHeads !== 0) problems.push(`num_attention_heads ${heads} is not a multiple of num_key_value_heads ${kvHeads}`);
  if (!Number.isInteger(headDim))
    problems.push(`hidden_size ${raw.hidden_size} is not a multiple of num_attention_heads ${heads}`);
  else if (headDim % 2 !== 0) problems.push(`head_dim ${headDim} is odd, the rotation needs pairs`);
  if (problems.length > 0)
    throw new NiftError('NIFT_MODEL_CONFIG', `${source}: ${problems.join('; ')}.`, { details: { problems } });

  const maxPositionEmbeddings = raw.max_position_embeddings ?? defaults.maxPositionEmbeddings;
  const rope = resolveRope(raw, maxPositionEmbeddings, source);
  const stretched = rope.type === 'linear' || rope.type === 'dynamic';
  const llama = architecture === 'LlamaForCausalLM';
  const attentionBias = raw.attention_bias ?? false;
  return {
    architecture,
    modelType: MODEL_TYPES[architecture],
    hiddenSize: raw.hidden_size,
    intermediateSize: raw.intermediate_size,
    numLayers: raw.num_hidden_layers,
    numHeads: heads,
    numKvHeads: kvHeads,
    headDim,
    vocabSize: raw.vocab_size,
    rmsNormEps: raw.rms_norm_eps ?? 1e-6,
    rope,
    maxPositionEmbeddings,
    contextLength: Math.floor(maxPositionEmbeddings * (stretched ? rope.factor : 1)),
    slidingWindows: slidingWindows(raw, architecture, source),
    tieWordEmbeddings: raw.tie_word_embeddings ?? false,
    qkvBias: architecture === 'Qwen2ForCausalLM' || attentionBias,
    outputBias: architecture !== 'Qwen2ForCausalLM' && attentionBias,
    mlpBias: llama && (raw.mlp_bias ?? false),
    qkNorm: architecture === 'Qwen3ForCausalLM',
    initializerRange: raw.initializer_range ?? 0.02,
    bosTokenId: idList(raw.bos_token_id)[0] ?? null,
    eosTokenIds: idList(raw.eos_token_id),
    padTokenId: raw.pad_token_id ?? null,
    dtype: storageDtype(raw.dtype ?? raw.torch_dtype, source),
    raw,
  };
}

function idList(value: number | number[] | null | undefined): number[] {
  return value === null || value === undefined ? [] : Array.isArray(value) ? value : [value];
}

function storageDtype(name: string | null | undefined, source: string): StorageDtype | undefined {
  if (name === null || name === undefined) return undefined;
  const plain = name.replace(/^torch\./, '');
  const dtype = STORAGE_DTYPES.find((known) => known === plain);
  if (dtype !== undefined) return dtype;
  throw new NiftError('NIFT_MODEL_UNSUPPORTED', `${source}: dtype ${quote(name)} is not supported.`, {
    hint: `Supported: ${STORAGE_DTYPES.join(', ')}.`,
  });
}

/**
 * Mistral slides in every layer (4096 when the file is silent, off with null). Qwen2 and Qwen3 slide only with
 * `use_sliding_window`, and then in the layers from `max_window_layers` on (default 28). Llama never does.
 * `layer_types` (transformers 5) overrides which layers slide.
 */
function slidingWindows(raw: RawConfig, architecture: Architecture, source: string): (number | null)[] {
  const layers = raw.num_hidden_layers;
  const qwen = architecture === 'Qwen2ForCausalLM' || architecture === 'Qwen3ForCausalLM';
  let window: number | null = null;
  if (architecture === 'MistralForCausalLM') window = raw.sliding_window === undefined ? 4096 : raw.sliding_window;
  else if (qwen && raw.use_sliding_window) window = raw.sliding_window === undefined ? 4096 : raw.sliding_window;
  if (window !== null && window <= 0)
    throw new NiftError('NIFT_MODEL_CONFIG', `${source}: sliding_window is ${window}, must be positive or null.`);

  const types =
    raw.layer_types ??
    Array.from({ length: layers }, (_, i) =>
      window !== null && (!qwen || i >= (raw.max_window_layers ?? 28)) ? 'sliding_attention' : 'full_attention',
    );
  if (types.length !== layers)
    throw new NiftError('NIFT_MODEL_CONFIG', `${source}: layer_types has ${types.length} entries for ${layers} layers.`);
  return types.map((type, i) => {
    if (type === 'full_attention') return null;
    if (type !== 'sliding_attention')
      throw new NiftError(
        'NIFT_MODEL_UNSUPPORTED',
        `${source}: layer_types[${i}] is ${quote(type)}, only full_attention and sliding_attention are implemented.`,
      );
    if (window === null)
      throw new NiftError(
        'NIFT_MODEL_CONFIG',
        `${source}: layer_types[${i}] is "sliding_attention" but no sliding window is in force.`,
      );
    return window;
  });
}
