/**
 * LoRA from the difference of two checkpoints.
 *
 *   D = W_model - W_base ~ U S V^T (the `rank` largest singular values),   B = U sqrt(S), A = sqrt(S) V^T, alpha = r
 *
 * One matrix is in memory at a time, as float32. What LoRA cannot hold (norms, biases, what was not asked for) is listed, or saved whole
 * as PEFT's modules_to_save.
 * Source: Eckart and Young 1936; Hu et al. (arXiv:2106.09685) for the layout.
 */
import { setImmediate } from 'node:timers/promises';
import type { StorageDtype } from '../backend/dtype.js';
import { nearest, NiftError, quote } from '../errors.js';
import { openCheckpoint, type Checkpoint } from '../formats/checkpoint.js';
import type { TensorToWrite } from '../formats/safetensorsWriter.js';
import { requireAgreement } from '../merge/methods/agreement.js';
import { BlockReader, elementsOf, forBlocks, isFloat, StoredTensors } from '../merge/methods/blocks.js';
import { subtract } from '../merge/methods/formulas.js';
import { checkOutputFolder } from '../merge/outputFolder.js';
import { deriveSeed } from '../random.js';
import { keptEnergy, truncatedSvd } from './factor.js';
import { pairFromSvd, stored, writePairs, type LoraPair } from './pairs.js';

export interface ExtractOptions {
  base: string;
  model: string;
  rank: number;
  out: string;
  /** `all`: the linear layers; or module names (`q_proj`, also `lm_head` and `embed_tokens`). */
  targets?: 'all' | readonly string[];
  /** Modules to save whole: names, or `all` that differ and are no targets. */
  saveModules?: 'all' | readonly string[];
  dtype?: StorageDtype;
  dryRun?: boolean;
  overwrite?: boolean;
  signal?: AbortSignal;
  onProgress?: (done: number, total: number, module: string) => void;
}

export interface ExtractReport {
  out: string;
  rank: number;
  modules: {
    module: string;
    shape: number[];
    /** |D| / |W_base|, Frobenius norms. */
    relativeChange: number;
    /** Share of |D|^2 that the adapter holds. */
    keptEnergy: number;
  }[];
  /** Targets that are equal in both. */
  unchanged: string[];
  /** Tensors saved whole. */
  saved: string[];
  /** Tensors that differ and are in neither. */
  lost: { name: string; relativeChange: number }[];
  /** Of all targets together. */
  keptEnergy: number;
  notes: string[];
}

const EMBEDDING = /(^|\.)(embed_tokens|wte|tok_embeddings)$/;
const OUTPUT = /(^|\.)(lm_head|output|embed_out)$/;

/** Makes and writes the adapter. @throws NIFT_USAGE, NIFT_CHECKPOINT_MISMATCH, NIFT_OUTPUT_DIR, NIFT_FILE_*, NIFT_INTERRUPTED */
export async function extractAdapter(options: ExtractOptions): Promise<ExtractReport> {
  if (!(Number.isSafeInteger(options.rank) && options.rank > 0))
    throw new NiftError('NIFT_USAGE', `--rank ${options.rank}: expected a whole number of at least 1`);
  if (!options.dryRun) checkOutputFolder(options.out, [options.base, options.model], options.overwrite ?? false);
  const source = new Difference(options.base, options.model);
  try {
    const { targets, others } = chooseTargets(source, options.targets ?? 'all');
    const report: ExtractReport = {
      out: options.out,
      rank: options.rank,
      modules: [],
      unchanged: [],
      saved: [],
      lost: [],
      keptEnergy: 1,
      notes: source.notes,
    };
    const pairs = await extractPairs(source, targets, options, report);
    const whole = collectOthers(source, others, options, report);
    if (pairs.length + whole.length === 0)
      throw new NiftError('NIFT_CHECKPOINT_MISMATCH', `extract: ${options.base} and ${options.model} are equal in every target`, {
        hint:
          report.lost.length > 0
            ? 'Other tensors differ: see nift diff, --targets and --save-modules.'
            : 'There is nothing to extract.',
      });
    if (pairs.length === 0)
      throw new NiftError(
        'NIFT_CHECKPOINT_MISMATCH',
        `extract: no linear layer differs between ${options.base} and ${options.model}`,
        {
          hint: 'An adapter needs at least one LoRA module. nift diff shows what differs.',
        },
      );
    if (!options.dryRun) write(source, pairs, whole, options);
    return report;
  } finally {
    source.close();
  }
}

/** Two checkpoints that agree in names and shapes. */
class Difference {
  readonly notes: string[];
  readonly base: StoredTensors;
  readonly model: StoredTensors;
  private readonly checkpoints: Checkpoint[] = [];

  constructor(base: string, model: string) {
    try {
      const members = [base, model].map((folder) => {
        const checkpoint = openCheckpoint(folder, { map: false });
        this.checkpoints.push(checkpoint);
        const tensors = new StoredTensors(checkpoint.tensors.files);
        const entries = new Map(tensors.names().map((name) => [name, tensors.info(name)]));
        return { member: { folder, config: checkpoint.config, tensors: entries }, tensors };
      });
      [this.base, this.model] = [members[0]!.tensors, members[1]!.tensors];
      this.notes = requireAgreement(members[0]!.member, [members[1]!.member], 'extract');
    } catch (error) {
      for (const checkpoint of this.checkpoints) checkpoint.close();
      throw error;
    }
  }

  /** The model's tensor minus the base's. */
  delta(name: string): Float32Array {
    const elements = elementsOf(this.base.stored(name));
    const delta = new Float32Array(elements);
    this.blocks(name, (first, own, other) => {
      subtract(other, own);
      delta.set(other, first);
    });
    return delta;
  }

  /** |D|^2 and |W_base|^2. */
  squares(name: string): { delta: number; base: number } {
    const sum = { delta: 0, base: 0 };
    this.blocks(name, (_, own, other) => {
      for (let i = 0; i < own.length; i++) {
        sum.base += own[i]! ** 2;
        sum.delta += (other[i]! - own[i]!) ** 2;
      }
    });
    return sum;
  }

  private blocks(name: string, visit: (first: number, base: Float32Array, model: Float32Array) => void): void {
    const [own, other] = [this.base.stored(name), this.model.stored(name)];
    const readers = [new BlockReader(own), new BlockReader(other)] as const;
    forBlocks(elementsOf(own), (first, count) => visit(first, readers[0].read(first, count), readers[1].read(first, count)));
  }

  close(): void {
    this.base.close();
    this.model.close();
    for (const checkpoint of this.checkpoints) checkpoint.close();
  }
}

interface Target {
  name: string;
  module: string;
  embedding: boolean;
}

function chooseTargets(source: Difference, wanted: 'all' | readonly string[]): { targets: Target[]; others: string[] } {
  const matrices: Target[] = source.base
    .names()
    .filter((name) => name.endsWith('.weight') && source.base.info(name).shape.length === 2 && isFloat(source.base.info(name)))
    .map((name) => ({ name, module: name.slice(0, -'.weight'.length) }))
    .map((target) => ({ ...target, embedding: EMBEDDING.test(target.module) }));
  const chosen =
    wanted === 'all'
      ? matrices.filter(({ module, embedding }) => !embedding && !OUTPUT.test(module))
      : matrices.filter(({ module }) => wanted.some((name) => isNamed(module, name)));
  const modules = matrices.map(({ module }) => module);
  for (const name of wanted === 'all' ? [] : wanted) requireModule(name, modules, '--targets');
  const taken = new Set(chosen.map(({ name }) => name));
  return { targets: chosen, others: source.base.names().filter((name) => !taken.has(name)) };
}

const isNamed = (module: string, name: string): boolean => module === name || module.endsWith(`.${name}`);

function requireModule(name: string, modules: readonly string[], option: string): void {
  if (modules.some((module) => isNamed(module, name))) return;
  const short = new Set(modules.map((module) => module.slice(module.lastIndexOf('.') + 1)));
  const near = nearest(name, short);
  throw new NiftError('NIFT_USAGE', `extract: ${option} names ${quote(name)}, which the model does not have`, {
    hint: near === undefined ? `Modules: ${[...short].sort().join(', ')}.` : `Did you mean ${quote(near)}?`,
  });
}

async function extractPairs(
  source: Difference,
  targets: readonly Target[],
  options: ExtractOptions,
  report: ExtractReport,
): Promise<LoraPair[]> {
  const pairs: LoraPair[] = [];
  let [total, kept] = [0, 0];
  for (const [i, { name, module, embedding }] of targets.entries()) {
    options.onProgress?.(i, targets.length, module);
    await setImmediate();
    if (options.signal?.aborted)
      throw new NiftError('NIFT_INTERRUPTED', `${options.out}: stopped before it was complete`, {
        exitCode: 1,
        hint: 'Nothing was written.',
      });
    const [rows, columns] = source.base.info(name).shape as [number, number];
    const data = source.delta(name);
    const svd = truncatedSvd({ data, rows, columns }, options.rank, deriveSeed(0, name));
    if (!Number.isFinite(svd.energy))
      throw new NiftError('NIFT_NON_FINITE', `${name}: the difference is not finite`, {
        exitCode: 1,
        hint: 'One of the checkpoints was saved after its training had diverged.',
      });
    if (svd.energy === 0) {
      report.unchanged.push(module);
      continue;
    }
    // An embedding [V, d] is what PEFT adapts by (B A)^T, B [d, r], A [r, V].
    const oriented = embedding ? { ...svd, u: svd.v, v: svd.u } : svd;
    const shape = embedding ? { in: rows, out: columns } : { in: columns, out: rows };
    pairs.push(pairFromSvd(oriented, options.rank, { module, embedding, ...shape }));
    const share = keptEnergy(svd);
    total += svd.energy;
    kept += share * svd.energy;
    report.modules.push({
      module,
      shape: [rows, columns],
      relativeChange: relative(svd.energy, source.squares(name).base),
      keptEnergy: share,
    });
  }
  report.keptEnergy = total === 0 ? 1 : kept / total;
  return pairs;
}

const relative = (delta: number, base: number): number => (delta === 0 ? 0 : Math.sqrt(delta / base));

/** Tensors that are no targets: saved whole when asked for, reported as lost when they differ. */
function collectOthers(
  source: Difference,
  others: readonly string[],
  options: ExtractOptions,
  report: ExtractReport,
): TensorToWrite[] {
  const wanted = options.saveModules ?? [];
  const modules = others.filter((name) => name.endsWith('.weight')).map((name) => name.slice(0, -'.weight'.length));
  for (const name of wanted === 'all' ? [] : wanted) requireModule(name, modules, '--save-modules');
  const changes = others
    .filter((name) => isFloat(source.base.info(name)))
    .map((name) => ({ name, squares: source.squares(name) }))
    .map(({ name, squares }) => ({ name, relativeChange: relative(squares.delta, squares.base) }));
  // PEFT copies every module of a saved name, so all of them go into the file.
  const names =
    wanted === 'all'
      ? [
          ...new Set(
            changes
              .filter((change) => change.relativeChange > 0 && change.name.endsWith('.weight'))
              .map(({ name }) => shortName(name)),
          ),
        ]
      : wanted;
  const saved = new Set(
    others.filter((name) => name.endsWith('.weight') && names.some((own) => isNamed(name.slice(0, -7), own))),
  );
  report.saved = [...saved];
  report.lost = changes.filter((change) => change.relativeChange > 0 && !saved.has(change.name));
  return report.saved.map((name): TensorToWrite => {
    const { dtype, shape } = source.model.info(name);
    const values = new Float32Array(elementsOf(source.model.stored(name)));
    const reader = new BlockReader(source.model.stored(name));
    forBlocks(values.length, (first, count) => values.set(reader.read(first, count), first));
    const keep = dtype === 'BF16' ? 'bfloat16' : dtype === 'F16' ? 'float16' : 'float32';
    return { name: `base_model.model.${name}`, shape, ...stored(values, keep) };
  });
}

const shortName = (name: string): string => name.slice(0, -'.weight'.length).split('.').at(-1)!;

function write(source: Difference, pairs: LoraPair[], whole: TensorToWrite[], options: ExtractOptions): void {
  const savedNames = [...new Set(whole.map(({ name }) => shortName(name)))].sort();
  const layers = new Set(source.base.names().flatMap((name) => /\.(?:layers|h|blocks)\.(\d+)\./.exec(name)?.[1] ?? []));
  const adapted = new Set(pairs.flatMap(({ module }) => /\.(?:layers|h|blocks)\.(\d+)\./.exec(module)?.[1] ?? []));
  writePairs(
    options.out,
    {
      pairs,
      whole,
      config: { base_model_name_or_path: options.base, modules_to_save: savedNames.length === 0 ? null : savedNames },
      someLayers: adapted.size < layers.size,
      dtype: options.dtype ?? 'float32',
      command: `extract --rank ${options.rank}`,
      made: { base: options.base, model: options.model, rank: options.rank },
      base: options.base,
    },
    options.overwrite,
  );
}
