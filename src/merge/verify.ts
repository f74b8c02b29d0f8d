/**
 * The check after writing.
 *
 * 1. Tensors that no adapter touches: their CRC-32, read again from both sides, is equal.
 * 2. Rows drawn from every changed matrix are what the definition gives (mergeRows), at most one unit in the last place away.
 * 3. Logits of the merged checkpoint against base plus adapter on random prompts, in float32: the largest difference and the mean one
 *    stay within a bound.
 *
 * The bound follows from the rounding of the storage type, u = 2^-8 (bfloat16), 2^-11 (float16), 2^-24 (float32): each weight moves by at
 * most u relative, the moves of the weights of one product are independent, and those of a residual stream of L layers add up like a
 * random walk, so logits of magnitude m move by some u m sqrt(L + 1). Measured on the reference models, the largest of many differences
 * is 0.7 to 2 times that, the mean an eighth of the largest. Allowed: 6 m u sqrt(L + 1) + 1e-4 m (float32's own noise), and an eighth of
 * that for the mean. A wrong scaling or a missed module of the reference adapters is ten times beyond it.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { StorageDtype } from '../backend/dtype.js';
import { NiftError } from '../errors.js';
import { newAdapterConfig, writeAdapter } from '../formats/adapter.js';
import { readFully } from '../formats/io.js';
import { SAFETENSORS_DTYPES } from '../formats/safetensorsHeader.js';
import type { TensorToWrite } from '../formats/safetensorsWriter.js';
import { deriveSeed, Random } from '../random.js';
import { lowRankChanges, type TensorChange } from './changes.js';
import type { MergePlan } from './merge.js';
import { decode, encode, mergeRows, mergeTensor, STORAGE_OF, type LowRankChange, type StoredTensor } from './mergeTensor.js';
import { RewriteSource } from './rewrite.js';
import { TensorSink } from './tensorSink.js';

export interface VerifyReport {
  untouchedTensors: number;
  checkedRows: number;
  /** null: this engine cannot run the model, or the adapter on it; `skipped` says why. */
  logits: { prompts: number; tokens: number; maxDifference: number; meanDifference: number; bound: number } | null;
  skipped: string | null;
}

const PROMPT_TOKENS = 32;
const ROWS_PER_TENSOR = 2;
const UNIT: Record<StorageDtype, number> = { bfloat16: 2 ** -8, float16: 2 ** -11, float32: 2 ** -24 };

/** @throws NIFT_MERGE_CHECK */
export async function verifyMerge(plan: MergePlan, folder: string, prompts: number): Promise<VerifyReport> {
  const merged = new RewriteSource(folder);
  try {
    const untouchedTensors = await checkUntouched(plan, merged);
    const checkedRows = checkRows(plan, merged);
    const { logits, skipped } = await checkLogits(plan, folder, prompts);
    return { untouchedTensors, checkedRows, logits, skipped };
  } finally {
    merged.close();
  }
}

const failed = (message: string, details: Record<string, unknown>): NiftError =>
  new NiftError('NIFT_MERGE_CHECK', message, {
    exitCode: 1,
    hint: 'The output was removed. --verify 0 writes without this check, for a closer look.',
    details,
  });

async function checkUntouched(plan: MergePlan, merged: RewriteSource): Promise<number> {
  const wrong: string[] = [];
  let count = 0;
  for (const { name, copyOf } of plan.rewrite.shards.flatMap((shard) => shard.tensors)) {
    if (copyOf === undefined) continue;
    count++;
    if ((await crcOf(plan.rewrite.source.stored(copyOf))) !== (await crcOf(merged.stored(name)))) wrong.push(name);
  }
  if (wrong.length === 0) return count;
  throw failed(`${wrong.length} tensors that no adapter touches have other bytes than in the source, first ${wrong[0]}`, {
    wrong,
  });
}

/** A sink that goes nowhere. */
async function crcOf(tensor: StoredTensor): Promise<number> {
  const sink = new TensorSink(-1, tensor.path, 0, tensor.byteLength);
  await mergeTensor(tensor, sink, tensor.dtype, []);
  return sink.crc;
}

/** Computes drawn rows of each changed matrix again, in JavaScript, from the definition. */
function checkRows(plan: MergePlan, merged: RewriteSource): number {
  let checked = 0;
  for (const change of plan.changes.changes.values()) {
    if (change.lowRank.length === 0 || change.replaced.length + change.added.length > 0) continue;
    const from = plan.rewrite.source.stored(change.from);
    const to = merged.stored(change.target);
    const columns = from.shape[from.shape.length - 1]!;
    const rows = from.shape.reduce((product, size) => product * size, 1) / columns;
    const changes = lowRankChanges(change);
    const random = new Random(deriveSeed(1, change.target));
    for (let i = 0; i < ROWS_PER_TENSOR; i++, checked++) {
      const row = random.integer(rows);
      const expected = readRow(from, row, columns);
      mergeRows(expected, row, columns, changes);
      compareRow(expected, readRow(to, row, columns), to, row);
    }
  }
  return checked;
}

function readRow(tensor: StoredTensor, row: number, columns: number): Float32Array {
  const width = columns * SAFETENSORS_DTYPES[tensor.dtype];
  const bytes = new Uint8Array(width);
  if (!readFully(tensor.fd, bytes, tensor.offset + row * width))
    throw failed(`${tensor.name}: the file has become shorter since it was written`, { tensor: tensor.name });
  return decode(bytes, tensor.dtype).slice();
}

function compareRow(expected: Float32Array, found: Float32Array, tensor: StoredTensor, row: number): void {
  const rounded = decode(encode(expected, tensor.dtype), tensor.dtype);
  const unit = 2 * UNIT[STORAGE_OF[tensor.dtype]!];
  for (let i = 0; i < found.length; i++) {
    // One unit in the last place, or float32's noise where terms cancel.
    const allowed = Math.max(Math.abs(rounded[i]!), Math.abs(found[i]!)) * unit + 1e-6;
    if (Math.abs(rounded[i]! - found[i]!) <= allowed) continue;
    throw failed(`${tensor.name}: row ${row}, column ${i} is ${found[i]}, expected ${rounded[i]}`, { tensor: tensor.name, row });
  }
}

type Logits = Pick<VerifyReport, 'logits' | 'skipped'>;

async function checkLogits(plan: MergePlan, folder: string, prompts: number): Promise<Logits> {
  const { loadModelConfig } = await import('../model/config.js');
  let config;
  try {
    config = await loadModelConfig(folder);
  } catch (error) {
    return { logits: null, skipped: error instanceof Error ? error.message : String(error) };
  }
  const temporary = mkdtempSync(path.join(os.tmpdir(), 'nift-verify-'));
  try {
    const random = new Random(deriveSeed(1, 'merge'));
    const length = Math.min(PROMPT_TOKENS, config.contextLength);
    const ids = Array.from({ length: prompts }, () => Int32Array.from({ length }, () => random.integer(config.vocabSize)));
    const expected = await unmergedLogits(plan, temporary, ids);
    if (expected === null)
      return { logits: null, skipped: 'the engine runs plain LoRA on linear layers only; rows were recomputed instead' };
    const found = await logitsOf(folder, null, ids);
    return { logits: compareLogits(plan, config.numLayers, prompts, length, expected, found), skipped: null };
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
}

function compareLogits(
  plan: MergePlan,
  layers: number,
  prompts: number,
  length: number,
  expected: readonly Float32Array[],
  found: readonly Float32Array[],
): NonNullable<VerifyReport['logits']> {
  let [maxDifference, total, count, magnitude] = [0, 0, 0, 0];
  expected.forEach((row, p) =>
    row.forEach((value, i) => {
      const difference = Math.abs(value - found[p]![i]!);
      // A NaN on either side must not pass.
      if (!(difference <= maxDifference)) maxDifference = difference;
      magnitude = Math.max(magnitude, Math.abs(value));
      total += difference;
      count++;
    }),
  );
  const units = plan.rewrite.shards.flatMap((shard) =>
    shard.tensors.map((tensor) => UNIT[STORAGE_OF[tensor.dtype] ?? 'float32']),
  );
  const bound = magnitude * (6 * Math.max(...units) * Math.sqrt(layers + 1) + 1e-4);
  const report = { prompts, tokens: prompts * length, maxDifference, meanDifference: total / count, bound };
  if (maxDifference <= bound && report.meanDifference <= bound / 8) return report;
  throw failed(
    `logits of the merged model differ from base plus adapter by up to ${maxDifference.toPrecision(3)} (mean ` +
      `${report.meanDifference.toPrecision(3)}), allowed are ${bound.toPrecision(3)} (mean ${(bound / 8).toPrecision(3)})`,
    report,
  );
}

async function logitsOf(folder: string, adapter: string | null, prompts: readonly Int32Array[]): Promise<Float32Array[]> {
  const [{ CausalLM }, { currentBackend, useBackend }] = await Promise.all([
    import('../model/causalLM.js'),
    import('../backend/index.js'),
  ]);
  if (currentBackend() === undefined) await useBackend('native');
  const model = await CausalLM.load(folder, { dtype: 'float32', ...(adapter === null ? {} : { adapter }) });
  try {
    return prompts.map((inputIds) => {
      const logits = model.logits({ inputIds, cuSeqlens: Int32Array.of(0, inputIds.length) });
      const values = (logits.dataSync() as Float32Array).slice();
      logits.dispose();
      return values;
    });
  } finally {
    model.dispose();
  }
}

/** Logits of base plus adapters, or null when the engine cannot run them. One adapter of weight 1 is tried as it stands. */
async function unmergedLogits(plan: MergePlan, temporary: string, ids: readonly Int32Array[]): Promise<Float32Array[] | null> {
  const [first] = plan.adapters;
  const { model } = plan.options;
  if (plan.adapters.length === 1 && first!.weight === 1) {
    try {
      return await logitsOf(model, first!.folder, ids);
    } catch (error) {
      if (!(error instanceof NiftError && /^NIFT_(ADAPTER|MODEL)_/.test(error.code))) throw error;
    }
  }
  return plainAdapter(plan, temporary) ? logitsOf(model, temporary, ids) : null;
}

/**
 * Writes one plain adapter that does what all adapters of the plan do together: factors side by side, [w1 s1 B1, w2 s2 B2] [A1; A2].
 * @returns false where there is none
 */
function plainAdapter(plan: MergePlan, temporary: string): boolean {
  const changes = [...plan.changes.changes.values()];
  const plain = (change: TensorChange): boolean =>
    change.replaced.length + change.added.length === 0 &&
    change.lowRank.length > 0 &&
    /^model\.layers\.\d+\./.test(change.target) &&
    change.lowRank.every(({ part }) => part.magnitude === null && !part.transposed);
  if (changes.length === 0 || !changes.every(plain)) return false;
  const tensors: TensorToWrite[] = [];
  const ranks: Record<string, number> = {};
  for (const change of changes) {
    const module = change.target.replace(/\.weight$/, '');
    const { a, b, rank, rows, columns } = sideBySide(lowRankChanges(change));
    ranks[module] = rank;
    const name = `base_model.model.${module}`;
    tensors.push({ name: `${name}.lora_A.weight`, dtype: 'F32', shape: [rank, columns], data: a });
    tensors.push({ name: `${name}.lora_B.weight`, dtype: 'F32', shape: [rows, rank], data: b });
  }
  const config = newAdapterConfig({ r: 1, lora_alpha: 1, target_modules: Object.keys(ranks) });
  writeAdapter(temporary, { ...config, rank_pattern: ranks, alpha_pattern: ranks }, tensors);
  return true;
}

function sideBySide(changes: readonly LowRankChange[]): {
  a: Float32Array;
  b: Float32Array;
  rank: number;
  rows: number;
  columns: number;
} {
  const rank = changes.reduce((total, change) => total + change.rank, 0);
  const columns = changes[0]!.a.length / changes[0]!.rank;
  const rows = changes[0]!.b.length / changes[0]!.rank;
  const a = new Float32Array(rank * columns);
  const b = new Float32Array(rows * rank);
  let at = 0;
  for (const change of changes) {
    a.set(change.a, at * columns);
    for (let row = 0; row < rows; row++)
      for (let r = 0; r < change.rank; r++)
        b[row * rank + at + r] = change.weight * change.scaling * change.b[row * change.rank + r]!;
    at += change.rank;
  }
  return { a, b, rank, rows, columns };
}
