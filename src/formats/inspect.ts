/** What a path holds, as plain JSON: `nift inspect`. Headers and configs only; no weights are loaded. */
import { existsSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { NiftError } from '../errors.js';
import { ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, readAdapter } from './adapter.js';
import { CONFIG_FILE, openCheckpoint } from './checkpoint.js';
import { openGguf } from './gguf/reader.js';
import type { GgufValue } from './gguf/types.js';
import { guardIo } from './io.js';
import { readJsonl } from './jsonl.js';
import { isJsonObject, readJson, readJsonObject, type JsonObject, type JsonValue } from './jsonText.js';
import { readManifest } from './manifest.js';
import { openSafetensors, SAFETENSORS_DTYPES, type TensorSource } from './safetensors.js';
import { INDEX_FILE, WEIGHTS_FILE } from './shards.js';

const TRAINER_STATE_FILE = 'trainer_state.json';

export interface TensorSummary {
  tensors: number;
  parameters: number;
  bytes: number;
  /** Per dtype: bytes. */
  bytesByDtype: Record<string, number>;
}

export type Inspection = Record<string, unknown> & { kind: string; path: string };

/**
 * Describes a safetensors or GGUF file, checkpoint, adapter, training output or dataset.
 * @throws NIFT_FILE_NOT_FOUND, NIFT_USAGE for something else, or what is wrong with the file
 */
export async function inspectPath(target: string): Promise<Inspection> {
  const isFolder = guardIo(target, 'open', () => statSync(target)).isDirectory();
  return isFolder ? inspectFolder(target) : inspectFile(target);
}

function inspectFile(file: string): Inspection {
  if (file.endsWith('.safetensors')) return inspectSafetensors(file);
  if (file.endsWith('.gguf')) return inspectGguf(file);
  if (file.endsWith('.jsonl')) return inspectRows(file, 'jsonl', valuesOf(file));
  if (file.endsWith('.json')) return inspectJson(file);
  throw unknown(file);
}

function inspectFolder(folder: string): Inspection {
  const has = (name: string): boolean => existsSync(path.join(folder, name));
  if (has(TRAINER_STATE_FILE)) return inspectTraining(folder);
  if (has(ADAPTER_CONFIG_FILE)) return inspectAdapter(folder);
  if (has(CONFIG_FILE)) return inspectCheckpoint(folder);
  throw unknown(folder);
}

const unknown = (target: string): NiftError =>
  new NiftError('NIFT_USAGE', `${target}: nothing that nift knows`, {
    hint: 'Name a *.safetensors or *.gguf file, a checkpoint folder (config.json), an adapter folder (adapter_config.json), a training output folder (trainer_state.json), or a *.jsonl or *.json dataset.',
  });

function inspectSafetensors(file: string): Inspection {
  const source = openSafetensors(file);
  try {
    const tensors = source.names().map((name) => {
      const { dtype, shape, byteLength } = source.info(name);
      return { name, dtype, shape, bytes: byteLength };
    });
    return {
      kind: 'safetensors',
      path: file,
      fileBytes: source.byteLength,
      metadata: { ...source.metadata },
      ...summarize(source),
      list: tensors,
    };
  } finally {
    source.close();
  }
}

function inspectGguf(file: string): Inspection {
  const gguf = openGguf(file);
  try {
    const bytesByDtype: Record<string, number> = {};
    let parameters = 0;
    let bytes = 0;
    const list = [...gguf.tensors].map(([name, { type, shape, byteLength }]) => {
      parameters += shape.reduce((product, size) => product * size, 1);
      bytes += byteLength;
      bytesByDtype[type] = (bytesByDtype[type] ?? 0) + byteLength;
      return { name, dtype: type, shape, bytes: byteLength };
    });
    const metadata = Object.fromEntries([...gguf.metadata].map(([key, value]) => [key, plainValue(value)]));
    const { version, alignment, byteLength } = gguf;
    return {
      kind: 'gguf',
      path: file,
      version,
      alignment,
      fileBytes: byteLength,
      metadata,
      tensors: list.length,
      parameters,
      bytes,
      bytesByDtype,
      list,
    };
  } finally {
    gguf.close();
  }
}

/** Long lists by their length; integers that JSON cannot hold as text. */
function plainValue(value: GgufValue): JsonValue {
  if (value.type === 'array') return `${value.value.length} values of type ${value.of}`;
  return typeof value.value === 'bigint' ? String(value.value) : value.value;
}

/** Counts over all tensors of a source. */
export function summarize(source: TensorSource): TensorSummary {
  const bytesByDtype: Record<string, number> = {};
  let parameters = 0;
  let bytes = 0;
  for (const name of source.names()) {
    const { dtype, byteLength } = source.info(name);
    parameters += byteLength / SAFETENSORS_DTYPES[dtype];
    bytes += byteLength;
    bytesByDtype[dtype] = (bytesByDtype[dtype] ?? 0) + byteLength;
  }
  return { tensors: source.names().length, parameters, bytes, bytesByDtype };
}

function inspectCheckpoint(folder: string): Inspection {
  const checkpoint = openCheckpoint(folder);
  try {
    const { config, tensors } = checkpoint;
    const architectures = config['architectures'];
    return {
      kind: 'checkpoint',
      path: folder,
      architecture: Array.isArray(architectures) ? (architectures[0] ?? null) : null,
      modelType: pick(config, 'model_type'),
      ...summarize(tensors),
      dtype: pick(config, 'dtype', 'torch_dtype'),
      tiedEmbeddings: pick(config, 'tie_word_embeddings') ?? !tensors.has('lm_head.weight'),
      contextLength: pick(config, 'max_position_embeddings'),
      vocabulary: pick(config, 'vocab_size'),
      layers: pick(config, 'num_hidden_layers'),
      hiddenSize: pick(config, 'hidden_size'),
      intermediateSize: pick(config, 'intermediate_size'),
      heads: pick(config, 'num_attention_heads'),
      keyValueHeads: pick(config, 'num_key_value_heads') ?? pick(config, 'num_attention_heads'),
      headDim: pick(config, 'head_dim'),
      slidingWindow: pick(config, 'sliding_window'),
      shards: tensors.files.map((file) => ({ file: path.basename(file.path), bytes: file.byteLength })),
      tokenizerFiles: checkpoint.tokenizerFiles,
      ...origin(folder),
    };
  } finally {
    checkpoint.close();
  }
}

function pick(config: JsonObject, ...names: string[]): JsonValue {
  for (const name of names) {
    const value = Object.hasOwn(config, name) ? config[name] : undefined;
    if (value !== undefined && value !== null) return value;
  }
  return null;
}

function inspectAdapter(folder: string): Inspection {
  const adapter = readAdapter(folder);
  try {
    const { config, tensors } = adapter;
    const layers = new Set(tensors.names().map((name) => /\.layers\.(\d+)\./.exec(name)?.[1]));
    layers.delete(undefined);
    return {
      kind: 'adapter',
      path: folder,
      base: config.base_model_name_or_path ?? null,
      r: config.r,
      alpha: config.lora_alpha,
      scaling: config.lora_alpha / (config.use_rslora ? Math.sqrt(config.r) : config.r),
      rsLora: config.use_rslora ?? false,
      dropout: config.lora_dropout ?? 0,
      targets: config.target_modules ?? null,
      adaptedLayers: layers.size,
      ...summarize(tensors),
      ...origin(folder),
    };
  } finally {
    adapter.close();
  }
}

/** What the manifest says about a folder's making. */
function origin(folder: string): { madeBy?: { nift: string; command: string; base: unknown } } {
  const manifest = readManifest(folder);
  return manifest ? { madeBy: { nift: manifest.nift, command: manifest.command, base: manifest.base } } : {};
}

function inspectTraining(folder: string): Inspection {
  const state = readJsonObject(path.join(folder, TRAINER_STATE_FILE));
  const history = (Array.isArray(state['log_history']) ? state['log_history'] : []).filter(isJsonObject);
  const losses = history.map((row) => row['loss']).filter((loss): loss is number => typeof loss === 'number');
  const summary = history.find((row) => typeof row['train_loss'] === 'number');
  const step = pick(state, 'global_step');
  const total = pick(state, 'max_steps');
  const has = (name: string): boolean => existsSync(path.join(folder, name));
  return {
    kind: 'training',
    path: folder,
    step,
    totalSteps: total,
    epoch: pick(state, 'epoch'),
    finished: summary !== undefined && step === total,
    firstLoss: losses[0] ?? null,
    lastLoss: losses[losses.length - 1] ?? null,
    meanLoss: summary?.['train_loss'] ?? null,
    seconds: summary?.['train_runtime'] ?? null,
    checkpoints: checkpointsIn(folder),
    ...(has(ADAPTER_CONFIG_FILE) && has(ADAPTER_WEIGHTS_FILE) ? { adapter: inspectAdapter(folder) } : {}),
    ...(has(CONFIG_FILE) && (has(WEIGHTS_FILE) || has(INDEX_FILE)) ? { checkpoint: inspectCheckpoint(folder) } : {}),
  };
}

function checkpointsIn(folder: string): string[] {
  const steps = readdirSync(folder).flatMap((name) => /^checkpoint-(\d+)$/.exec(name)?.[1] ?? []);
  return steps.sort((a, b) => Number(a) - Number(b)).map((step) => `checkpoint-${step}`);
}

function* valuesOf(file: string): Generator<JsonValue> {
  for (const { value } of readJsonl(file)) yield value;
}

/** One array, or lines in spite of the name, as some datasets on the hub have it. */
function inspectJson(file: string): Inspection {
  let value: JsonValue;
  try {
    value = readJson(file);
  } catch (error) {
    if (!(error instanceof NiftError && error.code === 'NIFT_JSON') || !startsWithRow(file)) throw error;
    return inspectRows(file, 'jsonl', valuesOf(file));
  }
  if (Array.isArray(value)) return inspectRows(file, 'json', value);
  throw unknown(file);
}

function startsWithRow(file: string): boolean {
  try {
    return isJsonObject(valuesOf(file).next().value);
  } catch {
    return false;
  }
}

/** Rows by the keys they have; tokens where rows are token ids already. */
function inspectRows(file: string, format: 'json' | 'jsonl', values: Iterable<JsonValue>): Inspection {
  const keys = new Map<string, number>();
  let rows = 0;
  let notObjects = 0;
  let tokens = 0;
  let supervised = 0;
  for (const value of values) {
    rows++;
    if (!isJsonObject(value)) {
      notObjects++;
      continue;
    }
    for (const key of Object.keys(value)) keys.set(key, (keys.get(key) ?? 0) + 1);
    if (Array.isArray(value['input_ids'])) tokens += value['input_ids'].length;
    if (Array.isArray(value['labels'])) supervised += value['labels'].slice(1).filter((label) => label !== -100).length;
  }
  return {
    kind: 'dataset',
    path: file,
    format,
    fileBytes: statSync(file).size,
    rows,
    ...(notObjects > 0 ? { rowsThatAreNoObjects: notObjects } : {}),
    keys: Object.fromEntries(keys),
    ...(tokens > 0 ? { tokens, supervisedTokens: supervised } : {}),
  };
}
