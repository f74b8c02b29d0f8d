/**
 * Arithmetic on adapters, without their base.
 *
 *   combine    sum_i w_i s_i B_i A_i = [w_1 s_1 B_1 | w_2 s_2 B_2 | ...] [A_1; A_2; ...]      exact, the ranks add up
 *   scale      x s B A, by alpha alone                                                       exact, the tensors stay
 *   resize     the best approximation of s B A of another rank                               SVD of the product
 */
import type { StorageDtype } from '../backend/dtype.js';
import { NiftError } from '../errors.js';
import { readAdapterJson, type AdapterConfig } from '../formats/adapter.js';
import type { JsonObject } from '../formats/jsonText.js';
import { openMergeAdapter, type MergeAdapter } from '../merge/adapterFile.js';
import { checkOutputFolder } from '../merge/outputFolder.js';
import { keptEnergy, productSvd } from './factor.js';
import {
  columnsOf,
  knownBase,
  pairFromSvd,
  readPair,
  requirePlainLora,
  writeAdapterFolder,
  writePairs,
  type LoraPair,
} from './pairs.js';

export interface AdapterReport {
  out: string;
  modules: { module: string; rank: number; keptEnergy: number }[];
  /** What a user should know of. */
  notes: string[];
}

export interface WriteOptions {
  /** Write nothing, only report. */
  dryRun?: boolean;
  overwrite?: boolean;
  dtype?: StorageDtype;
}

/** An output that cannot be written is said before the work. The sources are never replaced. */
function checkTarget(options: Pick<CombineOptions, 'out' | 'dryRun' | 'overwrite'>, inputs: readonly string[]): void {
  if (!options.dryRun) checkOutputFolder(options.out, inputs, options.overwrite ?? false);
}

export interface CombineOptions extends WriteOptions {
  adapters: readonly { folder: string; weight: number }[];
  out: string;
  /** Approximate with this rank; default: the sum of the ranks, which is exact. */
  rank?: number;
}

/** Writes the weighted sum of adapters. @throws NIFT_ADAPTER_CONFIG, NIFT_ADAPTER_MISMATCH, NIFT_OUTPUT_DIR, NIFT_FILE_* */
export function combineAdapters(options: CombineOptions): AdapterReport {
  checkTarget(
    options,
    options.adapters.map(({ folder }) => folder),
  );
  const adapters: MergeAdapter[] = [];
  try {
    for (const { folder, weight } of options.adapters) adapters.push(openMergeAdapter(folder, weight));
    for (const adapter of adapters) requirePlainLora(adapter, 'combine');
    requireSameLayout(adapters);
    const groups = groupByModule(adapters);
    const report: AdapterReport = { out: options.out, modules: [], notes: baseNotes(adapters) };
    const pairs = [...groups.values()].map((group) => {
      const whole = concatenate(group);
      if (options.rank === undefined) {
        report.modules.push({ module: whole.module, rank: whole.r, keptEnergy: 1 });
        return whole;
      }
      return shrink(whole, options.rank, report);
    });
    if (!options.dryRun)
      writePairs(
        options.out,
        {
          pairs,
          config: {
            base_model_name_or_path: adapters[0]!.config.base_model_name_or_path ?? null,
            fan_in_fan_out: adapters[0]!.config.fan_in_fan_out ?? false,
          },
          someLayers: adapters.some(listsLayers),
          dtype: options.dtype ?? 'float32',
          command: 'adapter combine',
          made: { adapters: options.adapters.map(({ folder, weight }) => ({ folder, weight })), rank: options.rank ?? null },
          base: knownBase(adapters[0]!.folder),
        },
        options.overwrite,
      );
    return report;
  } finally {
    for (const adapter of adapters) adapter.tensors.close();
  }
}

const listsLayers = (adapter: MergeAdapter): boolean => ((adapter.config as JsonObject)['layers_to_transform'] ?? null) !== null;

/** Pairs of one module from all adapters, B times weight and scaling. */
function groupByModule(adapters: readonly MergeAdapter[]): Map<string, LoraPair[]> {
  const groups = new Map<string, LoraPair[]>();
  const problems: string[] = [];
  for (const adapter of adapters)
    for (const part of adapter.parts) {
      const pair = readPair(adapter, part);
      const group = groups.get(part.module) ?? [];
      const known = group[0];
      if (known && (known.in !== pair.in || known.out !== pair.out || known.embedding !== pair.embedding))
        problems.push(`${part.module} is [${pair.out}, ${pair.in}] in ${adapter.folder}, [${known.out}, ${known.in}] before`);
      group.push({ ...pair, scaling: pair.scaling * adapter.weight });
      groups.set(part.module, group);
    }
  if (problems.length === 0) return groups;
  const more = problems.length > 3 ? `; and ${problems.length - 3} more` : '';
  throw new NiftError(
    'NIFT_ADAPTER_MISMATCH',
    `combine: adapters of different models: ${problems.slice(0, 3).join('; ')}${more}`,
    {
      details: { problems },
    },
  );
}

function concatenate(group: readonly LoraPair[]): LoraPair {
  const first = group[0]!;
  const r = group.reduce((sum, pair) => sum + pair.r, 0);
  const a = new Float32Array(r * first.in);
  const b = new Float32Array(first.out * r);
  let from = 0;
  for (const pair of group) {
    a.set(pair.a, from * first.in);
    for (let i = 0; i < pair.out; i++)
      for (let k = 0; k < pair.r; k++) b[i * r + from + k] = pair.scaling * pair.b[i * pair.r + k]!;
    from += pair.r;
  }
  return { ...first, r, a, b, scaling: 1 };
}

/** The best pair of rank `rank`; padded with zeros where the product has less. */
function shrink(pair: LoraPair, rank: number, report: AdapterReport): LoraPair {
  const { b, a } = columnsOf(pair, pair.scaling);
  const svd = productSvd(b, a, rank);
  report.modules.push({ module: pair.module, rank, keptEnergy: keptEnergy(svd) });
  return pairFromSvd(svd, rank, pair);
}

function requireSameLayout(adapters: readonly MergeAdapter[]): void {
  const layouts = new Set(adapters.map((adapter) => adapter.config.fan_in_fan_out === true));
  if (layouts.size > 1)
    throw new NiftError(
      'NIFT_ADAPTER_CONFIG',
      'combine: fan_in_fan_out is set in some adapters and not in others: these are different models',
    );
}

function baseNotes(adapters: readonly MergeAdapter[]): string[] {
  const bases = new Set(adapters.map((adapter) => adapter.config.base_model_name_or_path ?? '(none)'));
  return bases.size > 1 ? [`the adapters name different bases: ${[...bases].join(', ')}; the result names the first`] : [];
}

export interface ScaleOptions extends Omit<WriteOptions, 'dtype'> {
  adapter: string;
  by: number;
  out: string;
}

/** Multiplies what an adapter adds by `by`. Alpha takes the factor; only a negative sign goes into B. */
export function scaleAdapter(options: ScaleOptions): AdapterReport {
  const { by, out } = options;
  if (!Number.isFinite(by) || by === 0)
    throw new NiftError('NIFT_USAGE', `--by ${by}: expected a number other than 0`, {
      hint: 'By 0 the adapter would do nothing.',
    });
  checkTarget(options, [options.adapter]);
  const adapter = openMergeAdapter(options.adapter, 1);
  try {
    requirePlainLora(adapter, 'scale');
    const json = readAdapterJson(options.adapter);
    const factor = Math.abs(by);
    const config = {
      ...json,
      lora_alpha: adapter.config.lora_alpha * factor,
      alpha_pattern: Object.fromEntries(
        Object.entries(adapter.config.alpha_pattern ?? {}).map(([key, alpha]) => [key, alpha * factor]),
      ),
    } as unknown as AdapterConfig;
    const negated = new Set(by < 0 ? adapter.parts.map((part) => part.b) : []);
    const tensors = adapter.tensors.names().map((name) => {
      const { dtype, shape } = adapter.tensors.info(name);
      // The sign is the highest bit of the last byte of each value.
      const bytes = Uint8Array.from(adapter.tensors.bytes(name));
      const width = dtype === 'F32' ? 4 : 2;
      if (negated.has(name)) for (let i = width - 1; i < bytes.length; i += width) bytes[i]! ^= 0x80;
      return { name, dtype, shape, data: bytes };
    });
    if (!options.dryRun)
      writeAdapterFolder(
        out,
        config,
        tensors,
        { command: `adapter scale --by ${by}`, made: { adapter: options.adapter, by }, base: knownBase(options.adapter) },
        options.overwrite ?? false,
      );
    return { out, modules: adapter.parts.map(({ module, r }) => ({ module, rank: r, keptEnergy: 1 })), notes: [] };
  } finally {
    adapter.tensors.close();
  }
}

export interface ResizeOptions extends WriteOptions {
  adapter: string;
  rank: number;
  out: string;
}

/** Gives every module rank `rank`: the best approximation, exact where the product has no more. Whole modules are carried over. */
export function resizeAdapter(options: ResizeOptions): AdapterReport {
  const { rank, out } = options;
  checkTarget(options, [options.adapter]);
  const adapter = openMergeAdapter(options.adapter, 1);
  try {
    requirePlainLora(adapter, 'resize', true);
    const json = readAdapterJson(options.adapter);
    const report: AdapterReport = { out, modules: [], notes: [] };
    const pairs = adapter.parts.map((part) => shrink(readPair(adapter, part), rank, report));
    const whole = [...adapter.replaced.values()].map((name) => {
      const { dtype, shape } = adapter.tensors.info(name);
      return { name, dtype, shape, data: adapter.tensors.bytes(name) };
    });
    if (!options.dryRun)
      writePairs(
        out,
        {
          pairs,
          whole,
          config: json,
          someLayers: listsLayers(adapter),
          dtype: options.dtype ?? 'float32',
          command: `adapter resize --rank ${rank}`,
          made: { adapter: options.adapter, rank },
          base: knownBase(options.adapter),
        },
        options.overwrite,
      );
    return report;
  } finally {
    adapter.tensors.close();
  }
}
