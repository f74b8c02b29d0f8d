/** `nift diff A B`: which tensors differ, and by how much. Exit code 0 either way; with --exit-code 1 when anything differs. */
import type { Command } from 'commander';
import type { DiffReport, TensorDifference } from '../merge/diff.js';
import { NiftError } from '../errors.js';
import { percent } from './adapter.js';
import { action, common, type CommonOptions, EXIT, note, onInterrupt, out, outJson, style } from './io.js';
import { counter, wholeNumber } from './session.js';

interface DiffFlags extends CommonOptions {
  top: number;
  exitCode?: boolean;
}

async function run(a: string, b: string, flags: DiffFlags): Promise<number> {
  const { diffModels } = await import('../merge/diff.js');
  const interrupt = onInterrupt('Stopping. Press Ctrl+C again to stop at once.');
  let progress: ReturnType<typeof counter> | undefined;
  try {
    const report = await diffModels(a, b, {
      signal: interrupt.signal,
      onProgress: (done, total) => (progress ??= counter('tensor', total, flags.quiet)).tick(done),
    }).finally(() => progress?.end());
    if (flags.json) outJson(report);
    else if (!flags.quiet) out(render(report, flags.top));
    return flags.exitCode && !report.equal ? EXIT.failed : EXIT.done;
  } catch (error) {
    const code = interrupt.exitCode();
    if (code === undefined || !(error instanceof NiftError && error.code === 'NIFT_INTERRUPTED')) throw error;
    note(error.message);
    return code;
  } finally {
    interrupt.dispose();
  }
}

function render(report: DiffReport, top: number): string {
  if (report.equal) return `equal: ${report.tensors} tensors, configs and tokenizers`;
  const { differing, missing, extra, misshapen, config, tokenizer } = report;
  const compared = report.equalTensors + differing.length;
  return [
    `${differing.length} of ${compared} tensors differ; all together by ${share(report.relative)} of ${report.a}`,
    ...section('differing', differing.map(line), top),
    ...section(`only in ${report.a}`, missing, top),
    ...section(`only in ${report.b}`, extra, top),
    ...section(
      'other shapes',
      misshapen.map(({ name, a, b }) => `${name}  [${a.join(', ')}] and [${b.join(', ')}]`),
      top,
    ),
    ...section(
      'configs',
      config.map(({ file, key, a, b }) => `${file}${key === '' ? '' : ` ${key}`}: ${value(a)} and ${value(b)}`),
      top,
    ),
    ...(tokenizer.length > 0 ? [style.bold('tokenizer'), `  ${tokenizer.join(', ')}`] : []),
  ].join('\n');
}

/** A share, with digits left when it is only rounding. */
const share = (relative: number): string => (relative > 0 && relative < 1e-4 ? relative.toExponential(1) : percent(relative));

function section(title: string, lines: readonly string[], top: number): string[] {
  if (lines.length === 0) return [];
  const more = lines.length > top ? [style.dim(`  ... and ${lines.length - top} more (--top N, --json)`)] : [];
  return [style.bold(`${title} (${lines.length})`), ...lines.slice(0, top).map((text) => `  ${text}`), ...more];
}

function line({ name, shape, elements, differing, maxAbs, relative, dtypes }: TensorDifference): string {
  const parts = [
    relative === null ? 'differs' : share(relative),
    ...(maxAbs === null ? [] : [`max ${maxAbs.toPrecision(3)}`]),
    `${differing} of ${elements} elements`,
    ...(dtypes === null ? [] : [`${dtypes[0]} and ${dtypes[1]}`]),
  ];
  return `${name}  [${shape.join(', ')}]  ${parts.join(', ')}`;
}

const value = (item: unknown): string => (item === null ? 'absent' : JSON.stringify(item).slice(0, 80));

export function registerDiff(program: Command): void {
  common(
    program
      .command('diff')
      .description('which tensors and config keys of two checkpoints, adapters or safetensors files differ, and by how much')
      .argument('<a>', 'folder or file: the reference')
      .argument('<b>', 'folder or file')
      .option('--top <n>', 'lines of each kind', wholeNumber(0), 20)
      .option('--exit-code', 'exit with 1 when anything differs'),
  ).action(action(run));
}
