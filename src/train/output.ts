/** How a run starts in its output folder: from nothing, from a checkpoint, or not at all because it is done. */
import path from 'node:path';
import { KEYS, KEY_NAMES, type KeyName } from '../config/keys.js';
import type { RecipeValues } from '../config/recipe.js';
import { NiftError } from '../errors.js';
import { listCheckpoints, readCheckpoint, verifyCheckpoint } from './checkpoint.js';
import type { OnEvent } from './events.js';
import { claimFolder, readRunFile, removeLeftovers, writeRunFile, type RunFile, type RunIdentity } from './outputFolder.js';
import { checkResume } from './resume.js';

export type Start = { kind: 'fresh' } | { kind: 'resume'; checkpoint: string } | { kind: 'finished'; run: RunFile };

/** Keys that this version reads and ignores. */
const IGNORED: ReadonlySet<string> = new Set(
  KEY_NAMES.filter((key: KeyName) => 'noticed' in KEYS[key] && KEYS[key].noticed !== undefined),
);

/**
 * Decides, and for a fresh start claims the folder.
 * @throws NIFT_OUTPUT_DIR, NIFT_RESUME
 */
export function openOutput(values: RecipeValues, identity: RunIdentity, emit: OnEvent): Start {
  const folder = values.output_dir;
  const wanted = values.resume_from_checkpoint;
  const fromHere = wanted === null || wanted === true;
  claimFolder(folder, values.overwrite_output_dir);
  const run = readRunFile(folder);
  if (run !== null && wanted === false) throw notEmpty(folder);
  // A run that never came to a checkpoint has nothing to lose: it may start anew under another recipe.
  if (run !== null && fromHere && (run.finished !== null || listCheckpoints(folder).length > 0)) {
    for (const change of checkResume(run, identity, IGNORED)) emit({ type: 'notice', message: `resumed with another ${change}` });
    if (run.finished !== null) return { kind: 'finished', run };
  }
  removeLeftovers(folder);
  writeRunFile(folder, identity, null);
  if (typeof wanted === 'string') return { kind: 'resume', checkpoint: namedCheckpoint(wanted, identity) };
  const checkpoint = run === null ? null : newestCheckpoint(folder, identity, emit);
  if (checkpoint !== null) return { kind: 'resume', checkpoint };
  if (wanted === true && run === null)
    throw new NiftError('NIFT_RESUME', `resume_from_checkpoint: true, but ${folder} holds no run`, {
      hint: 'Remove the key to start one.',
    });
  return { kind: 'fresh' };
}

function notEmpty(folder: string): NiftError {
  return new NiftError('NIFT_OUTPUT_DIR', `output_dir ${folder}: holds a run, and resume_from_checkpoint is false`, {
    hint: 'Set overwrite_output_dir: true to start anew here.',
  });
}

function namedCheckpoint(checkpoint: string, identity: RunIdentity): string {
  const problem = verifyCheckpoint(checkpoint);
  if (problem !== null) throw new NiftError('NIFT_RESUME', `${checkpoint}: ${problem}`);
  checkResume(readCheckpoint(checkpoint).identity, identity, IGNORED);
  return checkpoint;
}

/** The newest checkpoint of this run whose files all have their recorded hash; others are reported and left alone. */
function newestCheckpoint(folder: string, identity: RunIdentity, emit: OnEvent): string | null {
  for (const step of listCheckpoints(folder)) {
    const checkpoint = path.join(folder, `checkpoint-${step}`);
    const problem = verifyCheckpoint(checkpoint) ?? otherRun(checkpoint, identity);
    if (problem === null) return checkpoint;
    emit({ type: 'warning', message: `${checkpoint} is not used: ${problem}` });
  }
  return null;
}

/** Why a whole checkpoint does not belong to this run: what an overwritten run left behind. */
function otherRun(checkpoint: string, identity: RunIdentity): string | null {
  try {
    checkResume(readCheckpoint(checkpoint).identity, identity, IGNORED);
    return null;
  } catch (error) {
    if (error instanceof NiftError) return error.message;
    throw error;
  }
}
