/** `nift merge`: adapters into a checkpoint, or into the Instruct sibling of their base. */
import { type Command, InvalidArgumentError, Option } from 'commander';
import { existsSync } from 'node:fs';
import { NiftError } from '../errors.js';
import type { MergePlan, MergeResult } from '../merge/merge.js';
import {
  action,
  common,
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
import { methodOptions, type MethodFlags, requireMethod, runMethod } from './mergeMethods.js';
import { wholeNumber } from './session.js';

interface MergeFlags extends CommonOptions, MethodFlags {
  adapter: { folder: string; weight: number }[];
  out?: string;
  dtype: 'keep' | 'float16' | 'bfloat16' | 'float32';
  maxShardSize: number;
  allowBase?: boolean;
  loraBase?: boolean;
  verify: number;
  dryRun?: boolean;
  resume?: boolean;
  overwrite?: boolean;
  sync: boolean;
}

const UNITS: Record<string, number> = {
  '': 1,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KIB: 2 ** 10,
  MIB: 2 ** 20,
  GIB: 2 ** 30,
  TIB: 2 ** 40,
};

/** "5GB", "500MB", "2GiB", or a number of bytes. */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text.trim());
  const unit = match ? UNITS[match[2]!.toUpperCase()] : undefined;
  const bytes = Math.round(Number(match?.[1]) * (unit ?? NaN));
  if (!(bytes >= 1)) throw new InvalidArgumentError('expected a size like 5GB, 500MB or 2GiB.');
  return bytes;
}

/** DIR, or DIR@weight. A folder whose own name holds an @ is taken as it stands when it is there. */
export function parseAdapter(text: string, previous: MergeFlags['adapter'] = []): MergeFlags['adapter'] {
  const at = text.lastIndexOf('@');
  if (at <= 0 || existsSync(text)) return [...previous, { folder: text, weight: 1 }];
  const weight = Number(text.slice(at + 1));
  if (text.slice(at + 1).trim() === '' || !Number.isFinite(weight))
    throw new InvalidArgumentError(`expected a number behind the @, as in ${text.slice(0, at)}@0.5.`);
  return [...previous, { folder: text.slice(0, at), weight }];
}

async function run(flags: MergeFlags): Promise<number> {
  if (flags.method !== undefined) return runMethod(flags, flags.adapter.length);
  requireMethod(flags);
  const [model] = flags.model ?? [];
  if (model === undefined) throw new NiftError('NIFT_USAGE', '--model DIR is missing: the checkpoint to merge into');
  if (flags.adapter.length === 0) throw new NiftError('NIFT_USAGE', '--adapter DIR is missing: the adapter to merge');
  if (flags.out === undefined) throw new NiftError('NIFT_USAGE', '--out DIR is missing: the folder to write');
  const { mergePlanReport, planMerge, runMerge } = await import('../merge/merge.js');
  const plan = planMerge({
    model,
    adapters: flags.adapter,
    dtype: flags.dtype,
    maxShardBytes: flags.maxShardSize,
    allowBase: flags.allowBase === true || flags.loraBase === true,
  });
  const interrupt = onInterrupt('Stopping after this tensor. Press Ctrl+C again to stop at once.');
  try {
    if (!flags.quiet) notices(plan);
    const report = mergePlanReport(plan, flags.out);
    if (flags.dryRun) {
      if (flags.json) outJson(report);
      else out(renderMergePlan(plan, report));
      return EXIT.done;
    }
    const progress = view(flags.quiet === true);
    const start = performance.now();
    const result = await runMerge(plan, {
      out: flags.out,
      verify: flags.verify,
      overwrite: flags.overwrite === true,
      resume: flags.resume === true,
      sync: flags.sync,
      signal: interrupt.signal,
      onProgress: progress.tick,
      onVerify: progress.verifying,
    }).finally(progress.end);
    const seconds = (performance.now() - start) / 1000;
    if (flags.json) outJson({ ...report, seconds, resumedShards: result.resumedShards, verify: result.verify });
    else if (!flags.quiet) summary(flags.out, result, seconds);
    return EXIT.done;
  } catch (error) {
    return stoppedBy(interrupt, error);
  } finally {
    interrupt.dispose();
    plan.close();
  }
}

function notices(plan: MergePlan): void {
  for (const base of plan.bases) {
    if (base.verdict === 'unknown') warn(`${base.adapter} does not name its base; only names and shapes were compared`);
    for (const difference of base.differences) warn(`${base.adapter}: ${difference}`);
  }
  if (plan.changes.unties)
    warn(
      'the output matrix was tied to the embedding; it becomes a tensor of its own, and config.json says tie_word_embeddings: false',
    );
}

/** One rewriting line on a terminal; nothing elsewhere. */
function view(quiet: boolean): {
  tick: (p: { bytes: number; totalBytes: number }) => void;
  verifying: () => void;
  end: () => void;
} {
  const show = isLive && !quiet;
  const line = (text: string): void => void (show && process.stderr.write(`\r\u001b[2K${style.dim(text)}`));
  return {
    tick: ({ bytes, totalBytes }) => line(`${formatBytes(bytes)} of ${formatBytes(totalBytes)}`),
    verifying: () => line('checking logits against base + adapter'),
    end: () => void (show && process.stderr.write('\r\u001b[2K')),
  };
}

function summary(folder: string, result: MergeResult, seconds: number): void {
  const resumed = result.resumedShards > 0 ? `, ${result.resumedShards} of them from the interrupted run` : '';
  note(`${folder}: ${formatBytes(result.bytes)} in ${plural(result.files.length, 'file')}${resumed}, ${formatSeconds(seconds)}`);
  if (result.discarded) note('an interrupted run was there and has been started anew (--resume would have continued it)');
  const { verify } = result;
  if (verify === null) return;
  note(`checked: ${verify.untouchedTensors} untouched tensors equal, ${verify.checkedRows} rows of changed ones recomputed`);
  if (verify.logits) {
    const { maxDifference, meanDifference, bound, prompts } = verify.logits;
    const [max, mean, limit] = [maxDifference, meanDifference, bound].map((value) => value.toPrecision(3));
    note(
      `logits on ${prompts} prompts, merged against base + adapter: largest difference ${max}, mean ${mean}, allowed ${limit}`,
    );
  } else note(`logits were not compared: ${verify.skipped}`);
}

function renderMergePlan(plan: MergePlan, report: ReturnType<typeof import('../merge/merge.js').mergePlanReport>): string {
  const { rewrite } = plan;
  const free = report['freeBytes'];
  const number = (value: unknown): string => Number(value).toLocaleString('en-US');
  return [
    style.bold('merge'),
    `  ${plan.options.model}: ${number(rewrite.parameters)} parameters in ${number(rewrite.tensors)} tensors`,
    ...plan.adapters.map(
      ({ folder, weight, parts, replaced }) =>
        `  ${weight === 1 ? '+' : `+ ${weight} x`} ${folder}: ${parts.length} matrices${replaced.size > 0 ? `, ${replaced.size} tensors replaced` : ''}`,
    ),
    `  ${number(report['changed'])} tensors change, ${number(report['unchanged'])} are copied byte for byte`,
    style.bold('files'),
    ...rewrite.shards.slice(0, 6).map(({ file, bytes }) => `  ${file}  ${formatBytes(bytes)}`),
    ...(rewrite.shards.length > 6 ? [`  ... and ${rewrite.shards.length - 6} more`] : []),
    `  carried over: ${rewrite.sideFiles.carried.join(', ') || 'none'}`,
    ...(rewrite.sideFiles.left.length > 0 ? [`  left out: ${rewrite.sideFiles.left.join(', ')}`] : []),
    `  needs ${formatBytes(rewrite.outputBytes)}${typeof free === 'number' ? `, free ${formatBytes(free)}` : ''}`,
    style.bold('memory'),
    `  at most ${formatBytes(rewrite.workingBytes)} for tensors while writing (largest tensor: ${formatBytes(rewrite.largestTensorBytes)}); the check maps both models`,
  ].join('\n');
}

export function registerMerge(program: Command): void {
  const command = common(
    program
      .command('merge')
      .description('write a checkpoint with adapters merged into it, or, with --method, of several models')
      // Not requiredOption: commander would complain about it before it names a misspelled flag.
      .option(
        '--model <dir>',
        'folder of the checkpoint to merge into (required); with --method DIR[@weight], several times',
        (text: string, all: string[] = []) => [...all, text],
      )
      .option('--adapter <dir[@weight]>', 'folder of a PEFT adapter; may be given several times (required)', parseAdapter, [])
      .option('--out <dir>', 'folder to write (required)')
      .addOption(
        new Option('--dtype <dtype>', 'storage of the result')
          .choices(['keep', 'float16', 'bfloat16', 'float32'])
          .default('keep'),
      )
      .option('--max-shard-size <size>', 'largest file of weights', parseSize, parseSize('5GB'))
      .option(
        '--lora-base',
        'merge into a sibling of the base that the adapter was trained on (its Instruct model); prints what differs',
      )
      .option('--allow-base', 'the same, for any other base')
      .option(
        '--verify <n>',
        'prompts on which logits are compared with base + adapter afterwards; 0: no check',
        wholeNumber(0),
        2,
      )
      .option('--dry-run', 'print the plan (tensors, files, disk, memory) and stop')
      .option('--resume', 'go on with the same merge where it was interrupted')
      .option('--overwrite', 'replace the output folder')
      .option('--no-sync', 'do not wait for the disk (like cp): a power failure may lose the output'),
  );
  methodOptions(command).action(action(run));
}
