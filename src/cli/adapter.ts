/** `nift adapter combine|scale|resize|convert`: arithmetic on adapters, and adapters of other tools. */
import { type Command, Option } from 'commander';
import type { AdapterReport } from '../adapter/combine.js';
import { NiftError } from '../errors.js';
import { action, common, type CommonOptions, note, outJson, warn } from './io.js';
import { requireFolder, weighted } from './mergeMethods.js';
import { decimal, wholeNumber } from './session.js';

interface WriteFlags extends CommonOptions {
  out?: string;
  dtype: 'float32' | 'bfloat16' | 'float16';
  dryRun?: boolean;
  overwrite?: boolean;
}

export const adapterDtype = (): Option =>
  new Option('--dtype <dtype>', 'storage of the factors').choices(['float32', 'bfloat16', 'float16']).default('float32');

function writes(command: Command): Command {
  return common(
    command
      .option('--out <dir>', 'folder to write (required)')
      .option('--dry-run', 'report and write nothing')
      .option('--overwrite', 'replace the output folder'),
  );
}

function target(flags: WriteFlags): { out: string; dryRun: boolean; overwrite: boolean } {
  if (flags.out === undefined) throw new NiftError('NIFT_USAGE', '--out DIR is missing: the folder to write');
  return { out: flags.out, dryRun: flags.dryRun === true, overwrite: flags.overwrite === true };
}

function show(report: AdapterReport, flags: WriteFlags): void {
  if (flags.json) return outJson(report);
  if (flags.quiet) return;
  for (const text of report.notes) warn(text);
  const ranks = [...new Set(report.modules.map(({ rank }) => rank))].sort((a, b) => a - b);
  const lossy = report.modules.filter(({ keptEnergy }) => keptEnergy < 1 - 1e-9).sort((a, b) => a.keptEnergy - b.keptEnergy);
  const [worst] = lossy;
  const loss = worst ? `; least energy kept: ${percent(worst.keptEnergy)} in ${worst.module}` : '; exact';
  note(`${flags.dryRun ? 'would write ' : ''}${report.out}: ${report.modules.length} modules of rank ${ranks.join(', ')}${loss}`);
}

/** Shares as people read them: 99.999 % is not 100 %. */
export const percent = (share: number): string => `${(Math.floor(share * 1e5) / 1e3).toFixed(3)} %`;

function registerCombine(adapter: Command): void {
  writes(
    adapter
      .command('combine')
      .description('weighted sum of adapters: exact, the ranks add up; with --rank the best approximation of that rank')
      .argument('<dir[@weight]...>', 'adapters; weight 1 when not given')
      .option('--rank <r>', 'approximate with this rank', wholeNumber(1))
      .addOption(adapterDtype()),
  ).action(
    action(async (texts: string[], flags: WriteFlags & { rank?: number }) => {
      const adapters = texts.map((text) => weighted(text, 'adapter')).map(({ folder, weight = 1 }) => ({ folder, weight }));
      for (const { folder } of adapters) requireFolder(folder);
      const { combineAdapters } = await import('../adapter/combine.js');
      const rank = flags.rank === undefined ? {} : { rank: flags.rank };
      show(combineAdapters({ adapters, dtype: flags.dtype, ...rank, ...target(flags) }), flags);
    }),
  );
}

function registerScale(adapter: Command): void {
  writes(
    adapter
      .command('scale')
      .description('multiply what an adapter adds; only alpha changes')
      .argument('<dir>', 'adapter')
      .option('--by <x>', 'factor, negative to undo (required)', decimal),
  ).action(
    action(async (folder: string, flags: WriteFlags & { by?: number }) => {
      if (flags.by === undefined) throw new NiftError('NIFT_USAGE', '--by X is missing: the factor');
      requireFolder(folder);
      const { scaleAdapter } = await import('../adapter/combine.js');
      show(scaleAdapter({ adapter: folder, by: flags.by, ...target(flags) }), flags);
    }),
  );
}

function registerResize(adapter: Command): void {
  writes(
    adapter
      .command('resize')
      .description('give an adapter another rank: the best approximation, exact when its products have no more')
      .argument('<dir>', 'adapter')
      .option('--rank <r>', 'rank of every module (required)', wholeNumber(1))
      .addOption(adapterDtype()),
  ).action(
    action(async (folder: string, flags: WriteFlags & { rank?: number }) => {
      if (flags.rank === undefined) throw new NiftError('NIFT_USAGE', '--rank R is missing: the rank of every module');
      requireFolder(folder);
      const { resizeAdapter } = await import('../adapter/combine.js');
      show(resizeAdapter({ adapter: folder, rank: flags.rank, dtype: flags.dtype, ...target(flags) }), flags);
    }),
  );
}

function registerConvert(adapter: Command): void {
  writes(
    adapter
      .command('convert')
      .description('an adapter of mlx-lm or of an older PEFT as a PEFT folder of today')
      .argument('<dir>', 'folder with adapters.safetensors (mlx-lm) or adapter_model.safetensors (PEFT)')
      .option('--base <name>', 'base model to name, in the place of what the source says'),
  ).action(
    action(async (folder: string, flags: WriteFlags & { base?: string }) => {
      requireFolder(folder);
      const { convertAdapter } = await import('../adapter/convert.js');
      const base = flags.base === undefined ? {} : { base: flags.base };
      const report = convertAdapter({ source: folder, ...base, ...target(flags) });
      if (flags.json) return outJson(report);
      if (flags.quiet) return;
      for (const text of report.notes) warn(text);
      note(
        `${flags.dryRun ? 'would write ' : ''}${report.out}: ${report.modules} modules from ${report.from}, rank ${report.rank}, scaling ${report.scaling}`,
      );
    }),
  );
}

export function registerAdapter(program: Command): void {
  const adapter = program.command('adapter').description('combine, scale, resize or convert LoRA adapters, without their base');
  for (const register of [registerCombine, registerScale, registerResize, registerConvert]) register(adapter);
}
