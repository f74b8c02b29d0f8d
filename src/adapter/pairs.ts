/** LoRA pairs as numbers: read from an adapter, made from an SVD, written as an adapter whose scaling is 1 (alpha = r). */
import { existsSync } from 'node:fs';
import path from 'node:path';
import type { StorageDtype } from '../backend/dtype.js';
import { NiftError } from '../errors.js';
import { newAdapterConfig, writeAdapter, type AdapterConfig } from '../formats/adapter.js';
import { atomicFile, atomicFolderSync } from '../formats/atomic.js';
import { floatToHalf } from '../formats/half.js';
import type { JsonObject } from '../formats/jsonText.js';
import { readManifest, writeManifest } from '../formats/manifest.js';
import type { TensorToWrite } from '../formats/safetensorsWriter.js';
import type { LowRankPart, MergeAdapter } from '../merge/adapterFile.js';
import { VERSION } from '../version.js';
import type { Columns, Svd } from './factor.js';
import { describeTargets } from './targets.js';

/** The change s B A of one module. */
export interface LoraPair {
  /** `model.layers.0.self_attn.q_proj` */
  module: string;
  /** Stored as lora_embedding_A and _B. */
  embedding: boolean;
  r: number;
  in: number;
  out: number;
  /** [r, in], row-major. */
  a: Float32Array;
  /** [out, r], row-major. */
  b: Float32Array;
  scaling: number;
}

/**
 * Refuses what is not a plain sum of products.
 * @param keepWhole replaced modules (modules_to_save) are no obstacle
 * @throws NIFT_ADAPTER_CONFIG
 */
export function requirePlainLora(adapter: MergeAdapter, action: string, keepWhole = false): void {
  const problems: string[] = [];
  if (adapter.parts.some((part) => part.magnitude !== null))
    problems.push('it is DoRA, whose magnitudes depend on the base weights, so its change is no product B A');
  if (adapter.parts.some((part) => part.bias !== null)) problems.push('it has biases on its LoRA layers');
  if (!keepWhole && adapter.replaced.size > 0)
    problems.push(
      `it replaces ${adapter.replaced.size} whole tensors (modules_to_save, bias), first: ${[...adapter.replaced.keys()][0]!}`,
    );
  if (problems.length === 0) return;
  throw new NiftError('NIFT_ADAPTER_CONFIG', `${adapter.folder}: cannot ${action} this adapter: ${problems.join('; ')}`, {
    hint: 'Merge it into its base instead (nift merge); nift extract makes plain LoRA of the result.',
    details: { problems },
  });
}

export function readPair(adapter: MergeAdapter, part: LowRankPart): LoraPair {
  const { tensors } = adapter;
  return {
    module: part.module,
    embedding: isEmbedding(part),
    r: part.r,
    in: tensors.info(part.a).shape[1]!,
    out: tensors.info(part.b).shape[0]!,
    a: tensors.readFloat32(part.a),
    b: tensors.readFloat32(part.b),
    scaling: part.scaling,
  };
}

export const isEmbedding = (part: LowRankPart): boolean => part.a.includes('.lora_embedding_');

/** Columns of B and of A^T (rows of A), times `factor` on B. */
export function columnsOf(pair: LoraPair, factor: number): { b: Columns; a: Columns } {
  return {
    b: Array.from({ length: pair.r }, (_, k) =>
      Float64Array.from({ length: pair.out }, (_, i) => factor * pair.b[i * pair.r + k]!),
    ),
    a: Array.from({ length: pair.r }, (_, k) => Float64Array.from(pair.a.subarray(k * pair.in, (k + 1) * pair.in))),
  };
}

/** B = U sqrt(S), A = sqrt(S) V^T with scaling 1; zeros where the matrix has less than `rank`. */
export function pairFromSvd(
  { u, values, v }: Svd,
  rank: number,
  shape: Pick<LoraPair, 'module' | 'embedding' | 'in' | 'out'>,
): LoraPair {
  const a = new Float32Array(rank * shape.in);
  const b = new Float32Array(shape.out * rank);
  values.forEach((value, k) => {
    const root = Math.sqrt(value);
    for (let i = 0; i < shape.in; i++) a[k * shape.in + i] = root * v[k]![i]!;
    for (let i = 0; i < shape.out; i++) b[i * rank + k] = root * u[k]![i]!;
  });
  return { ...shape, r: rank, a, b, scaling: 1 };
}

export interface AdapterToWrite {
  pairs: readonly LoraPair[];
  /** Whole tensors beside them (modules_to_save), by name in the file. */
  whole?: readonly TensorToWrite[];
  /** Keys of adapter_config.json beyond ranks, alphas and targets. */
  config: JsonObject;
  /** The adapted layers are not all layers of the model. */
  someLayers: boolean;
  dtype?: StorageDtype;
  command: string;
  /** For the manifest: what the adapter was made from. */
  made: JsonObject;
  /** Folder of the base checkpoint, when known. */
  base?: string | undefined;
}

/** Writes an adapter folder, whole or not at all. Every pair must have scaling 1. */
export function writePairs(out: string, adapter: AdapterToWrite, overwrite = false): void {
  const { pairs, dtype = 'float32' } = adapter;
  const config = {
    ...newAdapterConfig({ r: 1, lora_alpha: 1, target_modules: [] }),
    ...adapter.config,
    use_rslora: false,
    init_lora_weights: true,
    ...rankConfig(pairs),
    ...describeTargets(
      pairs.map((pair) => pair.module),
      adapter.someLayers,
    ),
  } as AdapterConfig;
  const tensors = pairs.flatMap((pair) => tensorsOf(pair, dtype));
  writeAdapterFolder(out, config, [...tensors, ...(adapter.whole ?? [])], adapter, overwrite);
}

/** The folder around any adapter that these commands make: card and manifest beside the two files. */
export function writeAdapterFolder(
  out: string,
  config: AdapterConfig,
  tensors: readonly TensorToWrite[],
  { command, made, base }: Pick<AdapterToWrite, 'command' | 'made' | 'base'>,
  overwrite: boolean,
): void {
  atomicFolderSync(
    out,
    (folder) => {
      writeAdapter(folder, config, tensors);
      atomicFile(path.join(folder, 'README.md'), card(out, config, command));
      writeManifest(folder, { command, config: made, ...(base === undefined ? {} : { base }) });
    },
    { replace: overwrite },
  );
}

/** The folder of the base that a manifest names, when it is there. */
export function knownBase(folder: string): string | undefined {
  const base = readManifest(folder)?.base?.path;
  return base !== undefined && existsSync(path.join(base, 'config.json')) ? base : undefined;
}

/** r of most modules, patterns for the others; alpha = r throughout. */
function rankConfig(pairs: readonly LoraPair[]): JsonObject {
  const counts = new Map<number, number>();
  for (const { r } of pairs) counts.set(r, (counts.get(r) ?? 0) + 1);
  const r = [...counts].sort((a, b) => b[1] - a[1] || b[0] - a[0])[0]![0];
  const others = Object.fromEntries(pairs.filter((pair) => pair.r !== r).map((pair) => [patternKey(pair.module), pair.r]));
  return { r, lora_alpha: r, rank_pattern: others, alpha_pattern: others };
}

/** PEFT before 0.14 matches keys only after a dot, so the outermost name is left out. */
const patternKey = (module: string): string => module.replace(/^(model|transformer)\.(?=.*\.)/, '');

function tensorsOf(pair: LoraPair, dtype: StorageDtype): TensorToWrite[] {
  const name = (letter: string): string =>
    pair.embedding
      ? `base_model.model.${pair.module}.lora_embedding_${letter}`
      : `base_model.model.${pair.module}.lora_${letter}.weight`;
  return [
    { name: name('A'), shape: [pair.r, pair.in], ...stored(pair.a, dtype) },
    { name: name('B'), shape: [pair.out, pair.r], ...stored(pair.b, dtype) },
  ];
}

/** Values in a storage dtype, rounded once. */
export function stored(values: Float32Array, dtype: StorageDtype): Pick<TensorToWrite, 'dtype' | 'data'> {
  if (dtype === 'float32') return { dtype: 'F32', data: values };
  const bits = new Uint16Array(values.length);
  const name = dtype === 'bfloat16' ? 'BF16' : 'F16';
  floatToHalf(values, name, bits);
  return { dtype: name, data: bits };
}

function card(out: string, config: AdapterConfig, command: string): string {
  const base = config.base_model_name_or_path;
  return [
    '---',
    'license: other',
    'library_name: peft',
    ...(base ? [`base_model: ${JSON.stringify(base)}`] : []),
    'tags:',
    '- nift',
    '- lora',
    '---',
    '',
    `# ${path.basename(path.resolve(out))}`,
    '',
    `LoRA adapter of rank ${config.r}${base ? ` for ${base}` : ''}, made by nift ${VERSION} (${command}).`,
    '',
  ].join('\n');
}
