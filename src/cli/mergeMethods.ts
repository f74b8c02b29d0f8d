/** `nift merge --method`: options, plan and summary of merging whole models. The flags are those of `nift merge`. */
import { type Command, InvalidArgumentError } from 'commander';
import { existsSync } from 'node:fs';
import { NiftError } from '../errors.js';
import type { MergeModelsPlan, WeightedModel } from '../merge/methods/index.js';
import {
  type CommonOptions,
  EXIT,
  formatBytes,
  formatSeconds,
  isLive,
  note,
  onInterrupt,
  out,
  outJson,
  plural,
  stoppedBy,
  style,
  warn,
} from './io.js';
import { decimal, wholeNumber } from './session.js';

export interface MethodFlags extends CommonOptions {
  method?: string;
  base?: string;
  /** As given: DIR or DIR@weight. */
  model?: string[];
  density?: number;
  seed?: number;
  normalize?: boolean;
  lambda?: number;
  t?: number;
  out?: string;
  dtype: 'keep' | 'float16' | 'bfloat16' | 'float32';
  maxShardSize: number;
  dryRun?: boolean;
  resume?: boolean;
  overwrite?: boolean;
  sync: boolean;
  /** Of adapters only. */
  allowBase?: boolean;
  loraBase?: boolean;
}

/** Adds the options that only `--method` takes. */
export const methodOptions = (command: Command): Command =>
  command
    .option('--method <name>', 'merge whole models instead: linear, task_arithmetic, ties, dare_linear, dare_ties, slerp')
    .option('--base <dir>', 'with --method: the model that the others were made from')
    .option('--density <share>', 'ties, dare_*: share of each difference that stays (1)', decimal)
    .option('--seed <n>', 'dare_*: of what is dropped (0)', wholeNumber(0))
    .option('--normalize', 'divide by the sum of weights (default for linear and ties)')
    .option('--no-normalize', 'do not')
    .option('--lambda <x>', 'ties, dare_*, task_arithmetic: factor of the combined difference (1)', decimal)
    .option('--t <t>', 'slerp: 0 is the base, 1 is the model', decimal);

/** DIR, or DIR@weight. A folder whose own name holds an @ is taken as it stands when it is there. */
export function parseWeighted(text: string): WeightedModel {
  const at = text.lastIndexOf('@');
  if (at <= 0 || existsSync(text)) return { folder: text };
  const weight = Number(text.slice(at + 1));
  if (text.slice(at + 1).trim() === '' || !Number.isFinite(weight))
    throw new InvalidArgumentError(`expected a number behind the @, as in ${text.slice(0, at)}@0.5.`);
  return { folder: text.slice(0, at), weight };
}

/** Without --method its options mean nothing. @throws NIFT_USAGE */
export function requireMethod(flags: MethodFlags): void {
  const given = (['base', 'density', 'seed', 'normalize', 'lambda', 't'] as const).filter((key) => flags[key] !== undefined);
  if (given.length > 0) throw new NiftError('NIFT_USAGE', `--${given[0]!} needs --method: it says how whole models are merged`);
  if ((flags.model ?? []).length > 1)
    throw new NiftError('NIFT_USAGE', `--model is given ${flags.model!.length} times`, {
      hint: 'Add --method to merge models with each other, or --adapter for adapters.',
    });
}

/**
 * @param adapters how many --adapter were given
 * @throws what planning and merging throw; the caller reports it
 */
export async function runMethod(flags: MethodFlags, adapters: number): Promise<number> {
  if (adapters > 0)
    throw new NiftError('NIFT_USAGE', '--adapter and --method exclude each other', {
      hint: 'Merge the adapters first, or combine them: nift adapter combine.',
    });
  if (flags.allowBase || flags.loraBase)
    throw new NiftError('NIFT_USAGE', `--${flags.loraBase ? 'lora-base' : 'allow-base'} is for adapters, --method has none`);
  if (flags.out === undefined) throw new NiftError('NIFT_USAGE', '--out DIR is missing: the folder to write');
  const { mergeModels, planMergeModels } = await import('../merge/methods/index.js');
  const { checkOutputFolder } = await import('../merge/outputFolder.js');
  const models = (flags.model ?? []).map((text) => weighted(text, '--model'));
  for (const { folder } of models) requireFolder(folder);
  if (flags.base !== undefined) requireFolder(flags.base);
  const { base, density, seed, normalize, lambda, t } = flags;
  const options = {
    method: flags.method!,
    models,
    dtype: flags.dtype,
    maxShardBytes: flags.maxShardSize,
    ...(base === undefined ? {} : { base }),
    ...(density === undefined ? {} : { density }),
    ...(seed === undefined ? {} : { seed }),
    ...(normalize === undefined ? {} : { normalize }),
    ...(lambda === undefined ? {} : { lambda }),
    ...(t === undefined ? {} : { t }),
  };
  const plan = planMergeModels(options);
  plan.close();
  checkOutputFolder(
    flags.out,
    [...models.map(({ folder }) => folder), ...(base === undefined ? [] : [base])],
    flags.overwrite ?? false,
  );
  if (!flags.quiet) for (const difference of plan.notes) warn(difference);
  const report = planReport(plan, flags.out);
  if (flags.dryRun) {
    if (flags.json) outJson(report);
    else out(renderPlan(plan));
    return EXIT.done;
  }
  const interrupt = onInterrupt('Stopping after this tensor. Press Ctrl+C again to stop at once.');
  const show = isLive && !flags.quiet;
  const start = performance.now();
  try {
    const result = await mergeModels(options, {
      out: flags.out,
      overwrite: flags.overwrite === true,
      resume: flags.resume === true,
      sync: flags.sync,
      signal: interrupt.signal,
      onProgress: ({ bytes, totalBytes }) => {
        if (show) process.stderr.write(`\r\u001b[2K${style.dim(`${formatBytes(bytes)} of ${formatBytes(totalBytes)}`)}`);
      },
    }).finally(() => {
      if (show) process.stderr.write('\r\u001b[2K');
    });
    const seconds = (performance.now() - start) / 1000;
    if (flags.json) outJson({ ...report, seconds, resumedShards: result.resumedShards });
    else if (!flags.quiet)
      note(`${flags.out}: ${formatBytes(result.bytes)} in ${plural(result.files.length, 'file')}, ${formatSeconds(seconds)}`);
    return EXIT.done;
  } catch (error) {
    return stoppedBy(interrupt, error);
  } finally {
    interrupt.dispose();
  }
}

export function requireFolder(folder: string): void {
  if (!existsSync(folder)) throw new NiftError('NIFT_FILE_NOT_FOUND', `${folder}: no such folder`);
}

/** `parseWeighted` outside of commander's own parsing. */
export function weighted(text: string, option: string): WeightedModel {
  try {
    return parseWeighted(text);
  } catch (error) {
    if (error instanceof InvalidArgumentError) throw new NiftError('NIFT_USAGE', `${option} ${text}: ${error.message}`);
    throw error;
  }
}

function planReport({ method, rewrite, notes, carried }: MergeModelsPlan, folder: string): Record<string, unknown> {
  return {
    out: folder,
    ...(rewrite.options.config as Record<string, unknown>),
    tensors: rewrite.tensors,
    parameters: rewrite.parameters,
    carried,
    notes,
    files: rewrite.shards.map(({ file, bytes }) => ({ file, bytes })),
    outputBytes: rewrite.outputBytes,
    workingBytes: rewrite.workingBytes,
    sideFiles: rewrite.sideFiles,
    method: method.name,
  };
}

function renderPlan({ method, rewrite, carried }: MergeModelsPlan): string {
  const config = rewrite.options.config as { base: string | null; models: { folder: string; weight: number }[] };
  const number = (value: number): string => value.toLocaleString('en-US');
  return [
    style.bold(`merge, ${method.name}`),
    ...(config.base === null ? [] : [`  base ${config.base}`]),
    ...config.models.map(({ folder, weight }) => `  ${method.name === 'slerp' ? `t ${method.t}` : weight} x ${folder}`),
    ...(method.taskVectors ? [`  density ${method.density}, lambda ${method.lambda}, normalize ${method.normalize}`] : []),
    `  ${number(rewrite.parameters)} parameters in ${number(rewrite.tensors)} tensors${carried.length > 0 ? `, ${carried.length} of them without floats: taken from the first` : ''}`,
    style.bold('files'),
    ...rewrite.shards.slice(0, 6).map(({ file, bytes }) => `  ${file}  ${formatBytes(bytes)}`),
    ...(rewrite.shards.length > 6 ? [`  ... and ${rewrite.shards.length - 6} more`] : []),
    `  needs ${formatBytes(rewrite.outputBytes)}; at most ${formatBytes(rewrite.workingBytes)} of memory for tensors`,
  ].join('\n');
}
