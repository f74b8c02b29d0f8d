/** `nift extract`: a LoRA adapter out of the difference of two checkpoints. */
import type { Command } from 'commander';
import type { ExtractReport } from '../adapter/extract.js';
import { NiftError } from '../errors.js';
import { adapterDtype, percent } from './adapter.js';
import { action, common, type CommonOptions, EXIT, note, onInterrupt, outJson, stoppedBy, warn } from './io.js';
import { requireFolder } from './mergeMethods.js';
import { counter, wholeNumber } from './session.js';

interface ExtractFlags extends CommonOptions {
  base?: string;
  model?: string;
  rank?: number;
  out?: string;
  targets: 'all' | string[];
  saveModules?: 'all' | string[];
  dtype: 'float32' | 'bfloat16' | 'float16';
  dryRun?: boolean;
  overwrite?: boolean;
}

/** "all", or names between commas. */
const nameList = (text: string): 'all' | string[] =>
  text === 'all'
    ? 'all'
    : text
        .split(',')
        .map((name) => name.trim())
        .filter((name) => name !== '');

function required<T>(value: T | undefined, option: string): T {
  if (value === undefined) throw new NiftError('NIFT_USAGE', `${option} is missing`);
  return value;
}

async function run(flags: ExtractFlags): Promise<number> {
  const options = {
    base: required(flags.base, '--base DIR'),
    model: required(flags.model, '--model DIR'),
    rank: required(flags.rank, '--rank R'),
    out: required(flags.out, '--out DIR'),
  };
  requireFolder(options.base);
  requireFolder(options.model);
  const { extractAdapter } = await import('../adapter/extract.js');
  const interrupt = onInterrupt('Stopping. Press Ctrl+C again to stop at once.');
  let progress: ReturnType<typeof counter> | undefined;
  try {
    const report = await extractAdapter({
      ...options,
      targets: flags.targets,
      ...(flags.saveModules === undefined ? {} : { saveModules: flags.saveModules }),
      dtype: flags.dtype,
      dryRun: flags.dryRun === true,
      overwrite: flags.overwrite === true,
      signal: interrupt.signal,
      onProgress: (done, total) => (progress ??= counter('module', total, flags.quiet)).tick(done),
    }).finally(() => progress?.end());
    if (flags.json) outJson(report);
    else if (!flags.quiet) summary(report, flags.dryRun === true);
    return EXIT.done;
  } catch (error) {
    return stoppedBy(interrupt, error);
  } finally {
    interrupt.dispose();
  }
}

function summary(report: ExtractReport, dryRun: boolean): void {
  for (const text of report.notes) warn(text);
  const worst = [...report.modules].sort((a, b) => a.keptEnergy - b.keptEnergy).slice(0, 5);
  for (const { module, keptEnergy, relativeChange } of worst)
    note(`  ${percent(keptEnergy)} kept of ${module}, which changed by ${percent(relativeChange)}`);
  if (report.modules.length > worst.length)
    note(`  more of the other ${report.modules.length - worst.length} modules (--json lists all)`);
  if (report.unchanged.length > 0) note(`  ${report.unchanged.length} modules are equal in both`);
  if (report.lost.length > 0) {
    const [largest] = [...report.lost].sort((a, b) => b.relativeChange - a.relativeChange);
    warn(
      `${report.lost.length} other tensors differ and are not in the adapter, most of all ${largest!.name} (by ${percent(largest!.relativeChange)}); --save-modules all saves modules whole`,
    );
  }
  const saved = report.saved.length > 0 ? `, ${report.saved.length} tensors saved whole` : '';
  note(
    `${dryRun ? 'would write ' : ''}${report.out}: ${report.modules.length} modules of rank ${report.rank}${saved}; ${percent(report.keptEnergy)} of the energy of their changes`,
  );
}

export function registerExtract(program: Command): void {
  common(
    program
      .command('extract')
      .description('make a LoRA adapter out of the difference of two checkpoints (truncated SVD)')
      .option('--base <dir>', 'checkpoint that the adapter will go on (required)')
      .option('--model <dir>', 'checkpoint that it should become (required)')
      .option('--rank <r>', 'rank of every module (required)', wholeNumber(1))
      .option('--out <dir>', 'folder to write (required)')
      .option(
        '--targets <names>',
        'all linear layers, or module names between commas (also lm_head, embed_tokens)',
        nameList,
        'all',
      )
      .option('--save-modules <names>', 'modules to save whole beside it (norms, embeddings), or all that differ', nameList)
      .addOption(adapterDtype())
      .option('--dry-run', 'report what would be kept and write nothing')
      .option('--overwrite', 'replace the output folder'),
  ).action(action(run));
}
