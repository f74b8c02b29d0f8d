/** Whether a run may go on under the recipe given now: keys that do not touch the numbers may differ, others may not. */
import { KEY_NAMES, type KeyName } from '../config/keys.js';
import { NiftError } from '../errors.js';
import type { RunIdentity } from './outputFolder.js';

/** Change what is written, when, and how much memory is used, never a number of the result. */
const HARMLESS: ReadonlySet<KeyName> = new Set<KeyName>([
  'output_dir',
  'overwrite_output_dir',
  'resume_from_checkpoint',
  'logging_steps',
  'save_steps',
  'save_minutes',
  'save_total_limit',
  'plot_loss',
  'threads',
  'gradient_checkpointing',
  'disable_gradient_checkpointing',
]);

/** Where something lies; what lies there is compared by its hash. */
const PLACES: ReadonlySet<KeyName> = new Set<KeyName>(['model_name_or_path', 'dataset_dir', 'adapter_name_or_path']);

export interface RecipeChange {
  key: KeyName;
  before: unknown;
  now: unknown;
}

/** Keys whose values differ, those without any effect left out. */
export function changedKeys(
  before: RunIdentity['recipe'],
  now: RunIdentity['recipe'],
  ignored: ReadonlySet<string>,
): RecipeChange[] {
  return KEY_NAMES.filter(
    (key) => !ignored.has(key) && JSON.stringify(before[key] ?? null) !== JSON.stringify(now[key] ?? null),
  ).map((key) => ({ key, before: before[key] ?? null, now: now[key] ?? null }));
}

/**
 * @param ignored keys that have no effect in this version
 * @returns one sentence for each allowed change
 * @throws NIFT_RESUME that names every other change, old value and new
 */
export function checkResume(before: RunIdentity, now: RunIdentity, ignored: ReadonlySet<string>): string[] {
  const changes = changedKeys(before.recipe, now.recipe, ignored);
  const describe = ({ key, before: old, now: value }: RecipeChange): string =>
    `${key}: ${JSON.stringify(old)} -> ${JSON.stringify(value)}`;
  const refused = changes.filter(({ key }) => !HARMLESS.has(key) && !PLACES.has(key)).map(describe);
  if (before.base !== now.base) refused.push('the base checkpoint in model_name_or_path is another one');
  if (before.adapter !== now.adapter) refused.push('the adapter in adapter_name_or_path is another one');
  if (before.data !== now.data && refused.length === 0) refused.push('the training rows changed');
  if (refused.length > 0)
    throw new NiftError(
      'NIFT_RESUME',
      `output_dir ${now.recipe.output_dir} holds a run with another recipe: ${refused.join('; ')}`,
      {
        hint:
          'Restore these to go on exactly where it stopped. To train further from its result, use a new output_dir with ' +
          'adapter_name_or_path; to start anew here, set overwrite_output_dir: true.',
        details: { changes: changes.map(({ key, before: old, now: value }) => ({ key, before: old, now: value })) },
      },
    );
  return changes.filter(({ key }) => HARMLESS.has(key) && key !== 'output_dir' && key !== 'resume_from_checkpoint').map(describe);
}
