/** `nift merge`: adapters into a checkpoint. Plan first (headers only), then one pass, then a check of what was written. */
import { closeSync, existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { NiftError } from '../errors.js';
import { ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE } from '../formats/adapter.js';
import { sha256File } from '../formats/atomic.js';
import { guardIo, openForReading } from '../formats/io.js';
import type { JsonObject } from '../formats/jsonText.js';
import { EMBEDDING, LM_HEAD } from '../model/parameters.js';
import { openMergeAdapter, type MergeAdapter } from './adapterFile.js';
import { checkBase, requireBase, type BaseCheck } from './baseCheck.js';
import { changeBytes, collectChanges, lowRankChanges, type AdapterChanges, type TensorChange } from './changes.js';
import { mergeCard } from './mergeCard.js';
import { decode, encode, FILE_DTYPE, mergeRows, mergeTensor, STORAGE_OF, type StoredTensor } from './mergeTensor.js';
import { checkOutputFolder, freeBytes } from './outputFolder.js';
import {
  planRewrite,
  runRewrite,
  type PlannedTensor,
  type RewriteDtype,
  type RewritePlan,
  type RewriteResult,
  type RewriteSource,
  type RunOptions,
} from './rewrite.js';
import { verifyMerge, type VerifyReport } from './verify.js';

/** What `nift train` writes beside an adapter (src/train/result.ts). */
const TEMPLATE_FILE = 'nift_template.json';

export interface MergeOptions {
  model: string;
  /** Applied together: W + sum of weight x change. */
  adapters: readonly { folder: string; weight?: number }[];
  /** Storage of the output; default keep. */
  dtype?: RewriteDtype;
  /** Default 5 GB. */
  maxShardBytes?: number;
  /** Merge into a checkpoint that the adapters were not trained on. */
  allowBase?: boolean;
}

export interface MergePlan {
  options: MergeOptions;
  rewrite: RewritePlan;
  adapters: MergeAdapter[];
  changes: AdapterChanges;
  bases: BaseCheck[];
  /** Closes every file. Idempotent. */
  close(): void;
}

/**
 * Checks everything that can be known from headers and configs.
 * @throws NIFT_MERGE_BASE, NIFT_ADAPTER_*, NIFT_SAFETENSORS_*, NIFT_INDEX*, NIFT_FILE_*, NIFT_USAGE
 */
export function planMerge(options: MergeOptions): MergePlan {
  if (options.adapters.length === 0) throw new NiftError('NIFT_USAGE', 'merge: no adapter is named');
  const adapters: MergeAdapter[] = [];
  const files = new AdapterFiles();
  const close = (): void => {
    for (const adapter of adapters) adapter.tensors.close();
    files.close();
  };
  try {
    for (const { folder, weight = 1 } of options.adapters) {
      if (!Number.isFinite(weight)) throw new NiftError('NIFT_USAGE', `merge: the weight of ${folder} is not a number`);
      adapters.push(openMergeAdapter(folder, weight));
    }
    const bases = adapters.map((adapter) => checkBase(options.model, adapter));
    if (!options.allowBase) requireBase(bases);
    return assemble(options, adapters, bases, files, close);
  } catch (error) {
    close();
    throw error;
  }
}

function assemble(
  options: MergeOptions,
  adapters: MergeAdapter[],
  bases: BaseCheck[],
  files: AdapterFiles,
  close: () => void,
): MergePlan {
  let changes: AdapterChanges | undefined;
  const { dtype = 'keep' } = options;
  // The transform sees the source first when it is open; config.json is edited only when a tied matrix is untied.
  const collect = (source: RewriteSource): AdapterChanges =>
    (changes ??= collectChanges(source, adapters, isTied(source.checkpoint.config, source)));
  const rewrite = planRewrite({
    model: options.model,
    command: 'merge',
    config: describe(options, adapters),
    dtype,
    ...(options.maxShardBytes === undefined ? {} : { maxShardBytes: options.maxShardBytes }),
    inputs: adapters.map((adapter) => adapter.folder),
    extraFiles: templateOf(adapters),
    tensorTransform: (name, _entry, source) => {
      const all = collect(source).changes;
      const planned: PlannedTensor[] = [];
      const own = all.get(name);
      planned.push(own ? changedTensor(source, own, dtype, files) : source.carry(name, { dtype }));
      const head = all.get(LM_HEAD);
      if (name === EMBEDDING && head && !source.has(LM_HEAD)) planned.push(changedTensor(source, head, dtype, files));
      return planned;
    },
    editConfig: (config) => (changes?.unties ? { ...config, tie_word_embeddings: false } : config),
  });
  const plan = { options, rewrite, adapters, changes: changes!, bases, close: () => (rewrite.source.close(), close()) };
  if (!plan.changes.unties) delete rewrite.options.editConfig;
  return plan;
}

/** The template that an adapter was trained with goes along; where adapters disagree, none does. */
function templateOf(adapters: readonly MergeAdapter[]): Map<string, Uint8Array> {
  const texts = adapters
    .map((adapter) => path.join(adapter.folder, TEMPLATE_FILE))
    .filter((file) => existsSync(file))
    .map((file) => guardIo(file, 'read', () => readFileSync(file)));
  const [first, ...others] = texts;
  return first !== undefined && others.every((text) => text.equals(first))
    ? new Map([[TEMPLATE_FILE, first]])
    : new Map<string, Uint8Array>();
}

/** lm_head.weight is the embedding. */
const isTied = (config: JsonObject, source: RewriteSource): boolean =>
  config['tie_word_embeddings'] === true || (!source.has(LM_HEAD) && source.has(EMBEDDING));

/** What the output follows from, for the manifest and the plan's hash. */
function describe(options: MergeOptions, adapters: readonly MergeAdapter[]): JsonObject {
  return {
    model: options.model,
    dtype: options.dtype ?? 'keep',
    max_shard_bytes: options.maxShardBytes ?? null,
    adapters: adapters.map((adapter) => ({
      folder: adapter.folder,
      weight: adapter.weight,
      base_model_name_or_path: adapter.config.base_model_name_or_path ?? null,
      config_sha256: sha256File(path.join(adapter.folder, ADAPTER_CONFIG_FILE)),
      weights_sha256: sha256File(path.join(adapter.folder, ADAPTER_WEIGHTS_FILE)),
    })),
  };
}

/** Tensors of adapters as places in files. */
class AdapterFiles {
  private readonly descriptors = new Map<string, number>();

  stored(adapter: MergeAdapter, tensor: string): StoredTensor {
    const file = adapter.tensors.path;
    let fd = this.descriptors.get(file);
    if (fd === undefined) this.descriptors.set(file, (fd = openForReading(file).fd));
    return { name: tensor, path: file, fd, ...adapter.tensors.info(tensor) };
  }

  close(): void {
    for (const fd of this.descriptors.values()) closeSync(fd);
    this.descriptors.clear();
  }
}

function changedTensor(source: RewriteSource, change: TensorChange, dtype: RewriteDtype, files: AdapterFiles): PlannedTensor {
  const { target, from, lowRank, replaced, added } = change;
  const only = replaced.length === 1 && replaced[0]!.adapter.weight === 1 ? replaced[0]! : null;
  const carried = { dtype, as: target, workingBytes: changeBytes(change) };
  // Untied: the output matrix is a copy of the embedding.
  if (lowRank.length + replaced.length + added.length === 0) return source.carry(from, { dtype, as: target });
  if (replaced.length + added.length === 0) return source.carry(from, { ...carried, changes: () => lowRankChanges(change) });
  const { dtype: own, shape } = source.info(from);
  const storage = dtype === 'keep' ? own : FILE_DTYPE[dtype];
  if (STORAGE_OF[own] === undefined)
    throw new NiftError('NIFT_ADAPTER_MISMATCH', `${from} is stored as ${own} in the base, expected F32, BF16 or F16`);
  const plain = { name: target, dtype: storage, shape };
  if (only !== null && added.length === 0)
    return {
      ...plain,
      workingBytes: changeBytes(change),
      write: (sink) => mergeTensor(files.stored(only.adapter, only.tensor), sink, storage, lowRankChanges(change)),
    };
  const elements = shape.reduce((product, size) => product * size, 1);
  return {
    ...plain,
    workingBytes: changeBytes(change) + 16 * elements,
    write: async (sink) => {
      const values = decode(source.checkpoint.tensors.bytes(from), own).slice();
      mix(values, change);
      await sink.write(encode(values, storage));
    },
  };
}

/** W + sum w (S - W) + sum w s b, then the low-rank changes. For vectors, and for whole modules that are blended. */
function mix(values: Float32Array, change: TensorChange): void {
  const base = values.slice();
  const read = (adapter: MergeAdapter, tensor: string): Float32Array => adapter.tensors.readFloat32(tensor);
  for (const { adapter, tensor } of change.replaced) {
    const whole = read(adapter, tensor);
    if (adapter.weight === 1 && change.replaced.length === 1) values.set(whole);
    else for (let i = 0; i < values.length; i++) values[i] = values[i]! + adapter.weight * (whole[i]! - base[i]!);
  }
  for (const { adapter, tensor, scaling } of change.added) {
    const bias = read(adapter, tensor);
    for (let i = 0; i < values.length; i++) values[i] = values[i]! + adapter.weight * scaling * bias[i]!;
  }
  const changes = lowRankChanges(change);
  if (changes.length > 0) mergeRows(values, 0, changes[0]!.a.length / changes[0]!.rank, changes);
}

/** The plan as plain JSON: what `--dry-run --json` prints. */
export function mergePlanReport(plan: MergePlan, out: string): JsonObject {
  const { rewrite, changes } = plan;
  const touched = [...changes.changes.values()];
  return {
    model: plan.options.model,
    out,
    adapters: plan.adapters.map(({ folder, weight, parts, replaced }, i) => ({
      folder,
      weight,
      matrices: parts.length,
      replaced: replaced.size,
      base: { recorded: plan.bases[i]!.recorded, verdict: plan.bases[i]!.verdict, differences: plan.bases[i]!.differences },
    })),
    dtype: plan.options.dtype ?? 'keep',
    tensors: rewrite.tensors,
    changed: touched.filter((change) => change.lowRank.length + change.replaced.length + change.added.length > 0).length,
    unchanged: rewrite.shards.reduce((count, shard) => count + shard.tensors.filter((tensor) => tensor.copyOf).length, 0),
    unties: changes.unties,
    parameters: rewrite.parameters,
    files: rewrite.shards.map(({ file, bytes, tensors }) => ({ file, bytes, tensors: tensors.length })),
    outputBytes: rewrite.outputBytes,
    freeBytes: freeBytes(out),
    largestTensorBytes: rewrite.largestTensorBytes,
    workingBytes: rewrite.workingBytes,
    carried: rewrite.sideFiles.carried,
    left: rewrite.sideFiles.left,
  };
}

export interface MergeRun extends Omit<RunOptions, 'check' | 'readme'> {
  /** Prompts of the check after writing; 0: no check. Default 2. */
  verify?: number;
  onVerify?: () => void;
}

export interface MergeResult extends RewriteResult {
  verify: VerifyReport | null;
}

/**
 * Writes the merged checkpoint, checks it, and gives it its name.
 * @throws those of runRewrite, and NIFT_MERGE_CHECK
 */
export async function runMerge(plan: MergePlan, run: MergeRun): Promise<MergeResult> {
  checkOutputFolder(run.out, [plan.options.model, ...plan.adapters.map((adapter) => adapter.folder)], run.overwrite ?? false);
  const prompts = run.verify ?? 2;
  let verify: VerifyReport | null = null;
  const result = await runRewrite(plan.rewrite, {
    ...run,
    readme: mergeCard(plan, run.out),
    ...(prompts === 0
      ? {}
      : {
          check: async (folder: string) => {
            run.onVerify?.();
            verify = await verifyMerge(plan, folder, prompts);
          },
        }),
  });
  return { ...result, verify };
}

/** Plan, run, close. */
export async function merge(options: MergeOptions & MergeRun): Promise<MergeResult> {
  const plan = planMerge(options);
  try {
    return await runMerge(plan, options);
  } finally {
    plan.close();
  }
}
