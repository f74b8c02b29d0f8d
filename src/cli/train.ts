/** `nift train RECIPE.yaml [key=value ...] [--key value ...]` */
import type { Command } from 'commander';
import { parseRecipe, parseRecipeArguments, type Recipe, recipeKeys } from '../config/recipe.js';
import { NiftError, quote } from '../errors.js';
import { action, common, type CommonOptions, EXIT, note, onInterrupt, out, outJson, style, warn } from './io.js';
import { renderPlan } from './planView.js';
import { createTrainView } from './trainView.js';

interface TrainOptions extends CommonOptions {
  dryRun?: boolean;
}

/** Commander does not know the recipe's flags (they are generated from the key table), so its own are picked out here. */
const OWN_FLAGS = new Set(['--json', '--quiet', '-q', '--dry-run']);

function recipeFrom(argv: string[]): Recipe {
  const { overrides, flags, rest } = parseRecipeArguments(argv.filter((argument) => !OWN_FLAGS.has(argument)));
  const strayFlags = rest.filter((argument) => argument.startsWith('-'));
  // parseRecipe names an unknown flag and its nearest key together with all other problems.
  for (const flag of strayFlags) flags[flag.replace(/^-+/, '').split('=')[0] ?? ''] = '';
  const [file, ...extra] = rest[0]?.startsWith('-') ? [] : rest;
  if (strayFlags.length === 0 && extra.length > 0) {
    throw new NiftError(
      'NIFT_USAGE',
      `nift train takes one recipe, got also ${extra.map((argument) => quote(argument)).join(', ')}`,
      {
        hint: 'Write settings as key=value or --key value; nift train --help lists the keys.',
      },
    );
  }
  if (file === undefined && Object.keys(overrides).length + Object.keys(flags).length === 0) {
    throw new NiftError('NIFT_USAGE', 'nift train needs a recipe: nift train RECIPE.yaml', {
      hint: 'README.md shows one; nift train --help lists every key with its default.',
    });
  }
  return parseRecipe({ ...(file === undefined ? {} : { path: file }), overrides, flags });
}

/** The reference of all keys for --help, by group. */
function keyHelp(): string {
  const lines: string[] = ['', 'Recipe keys (in the file, as key=value, or as flags):'];
  let group = '';
  for (const key of recipeKeys()) {
    if (key.noticed !== undefined || key.refused !== undefined) continue;
    if (key.group !== group) {
      group = key.group;
      lines.push(`  ${group}`);
    }
    const fallback = key.defaultText === '' ? '' : ` [${key.defaultText}]`;
    lines.push(`    ${key.flag.padEnd(36)} ${key.description}${fallback}`);
  }
  return lines.join('\n');
}

/** A plan needs the model's config only; the run would stop at what is wrong with its weights. */
async function weightProblems({ values }: Recipe): Promise<string[]> {
  if (values.train_from_scratch) return [];
  const [{ openCheckpoint }, { readAdapter }] = await Promise.all([
    import('../formats/checkpoint.js'),
    import('../formats/adapter.js'),
  ]);
  try {
    openCheckpoint(values.model_name_or_path).close();
    if (values.adapter_name_or_path !== null) readAdapter(values.adapter_name_or_path).close();
    return [];
  } catch (error) {
    if (error instanceof NiftError) return [`the run will fail: ${error.message}`];
    throw error;
  }
}

async function dryRun(recipe: Recipe, options: TrainOptions): Promise<number> {
  const { planTraining } = await import('../train/plan.js');
  const plan = await planTraining(recipe);
  plan.warnings.push(...(await weightProblems(recipe)));
  if (options.json) {
    outJson({ plan, recipe: { values: recipe.values, origins: recipe.origins }, notices: recipe.notices });
    return EXIT.done;
  }
  out(renderPlan(plan));
  const set = Object.entries(recipe.origins).filter(([, origin]) => origin.source !== 'default');
  out(`\n${style.bold('settings')} (where each comes from; all others are defaults)`);
  for (const [key, origin] of set)
    out(`  ${key} = ${JSON.stringify(recipe.values[key as keyof Recipe['values']])}  ${style.dim(origin.where)}`);
  for (const text of [...recipe.notices, ...plan.warnings]) warn(text);
  return EXIT.done;
}

async function run(recipe: Recipe, options: TrainOptions): Promise<number> {
  // First of all, so that a signal while modules load ends with its exit code too.
  const interrupt = onInterrupt('Stopping after this step and saving. Press Ctrl+C again to stop at once.');
  if (!options.quiet) for (const notice of recipe.notices) warn(notice);
  const view = createTrainView(options.quiet === true);
  try {
    const [{ train }, { startBackend }] = await Promise.all([import('../train/train.js'), import('./backend.js')]);
    await startBackend(recipe.values.backend, recipe.values.threads ?? undefined);
    const result = await train(recipe, { onEvent: view.onEvent, signal: interrupt.signal });
    view.end();
    if (options.json) outJson(result);
    if (result.status === 'stopped') {
      if (!options.quiet)
        note(
          result.checkpoint === null
            ? 'Stopped before the first step; nothing was written.'
            : `Stopped at step ${result.step} of ${result.totalSteps}, saved in ${result.checkpoint}. Run the same command to go on.`,
        );
      return interrupt.exitCode() ?? EXIT.sigint;
    }
    if (!options.quiet) view.summary(result);
    return EXIT.done;
  } finally {
    view.end();
    interrupt.dispose();
  }
}

export function registerTrain(program: Command): void {
  common(
    program
      .command('train')
      .description('fine-tune a checkpoint from a recipe in LLaMA-Factory keys')
      .usage('RECIPE.yaml [key=value ...] [--key value ...] [--dry-run] [--json]')
      .argument('[arguments...]', 'the recipe and its overrides')
      .option('--dry-run', 'print the plan (steps, tokens, memory, disk, settings with their origin) and stop')
      .allowUnknownOption(),
  )
    .addHelpText('after', keyHelp)
    .action(
      action(async (_arguments: string[], options: TrainOptions) => {
        const recipe = recipeFrom(rawArguments());
        return options.dryRun ? dryRun(recipe, options) : run(recipe, options);
      }),
    );
}

/** What stood behind `train` on the command line, in order: commander separates options from values. */
const rawArguments = (): string[] => process.argv.slice(process.argv.indexOf('train', 2) + 1);
