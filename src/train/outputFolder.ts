/**
 * What an output folder is before a run starts: empty, an unfinished run of ours, a finished one, or somebody else's.
 * `nift_run.json` marks a folder as ours; it is written before anything else and again, with `finished`, after all else.
 */
import { createHash } from 'node:crypto';
import { closeSync, existsSync, openSync, readFileSync, readdirSync, readSync, rmSync, statSync } from 'node:fs';
import path from 'node:path';
import type { RecipeValues } from '../config/recipe.js';
import { NiftError } from '../errors.js';
import { atomicFile } from '../formats/atomic.js';
import { guardIo, makeFolder } from '../formats/io.js';
import { VERSION } from '../version.js';

export const RUN_FILE = 'nift_run.json';
const FORMAT = 1;

/** What a run is: everything that its numbers follow from. */
export interface RunIdentity {
  recipe: RecipeValues;
  /** Hash of the token ids and labels of all rows, in order. */
  data: string;
  /** Hash of the base checkpoint's config, tensor names and sizes. */
  base: string;
  /** Hash of the adapter that the run starts from. */
  adapter: string | null;
}

export interface RunFile extends RunIdentity {
  format: number;
  version: string;
  finished: { step: number; trainLoss: number | null; seconds: number } | null;
}

export function writeRunFile(folder: string, identity: RunIdentity, finished: RunFile['finished']): void {
  const content: RunFile = { format: FORMAT, version: VERSION, ...identity, finished };
  atomicFile(path.join(folder, RUN_FILE), `${JSON.stringify(content, null, 2)}\n`);
}

/** null when the folder is not ours. @throws NIFT_RESUME when a newer version wrote it. */
export function readRunFile(folder: string): RunFile | null {
  const file = path.join(folder, RUN_FILE);
  if (!existsSync(file)) return null;
  let content: RunFile;
  try {
    content = JSON.parse(readFileSync(file, 'utf8')) as RunFile;
  } catch (cause) {
    throw new NiftError('NIFT_RESUME', `${file}: not valid JSON`, {
      cause,
      hint: 'Set overwrite_output_dir: true to start anew.',
    });
  }
  if (content.format !== FORMAT)
    throw new NiftError(
      'NIFT_RESUME',
      `${file}: written in format ${content.format} by nift ${content.version}, this is nift ${VERSION}`,
      {
        hint: 'Resume with that version, or set overwrite_output_dir: true to start anew.',
      },
    );
  return content;
}

/** Files and folders that a run makes, and its leftovers when it was killed while writing. */
const OURS = [
  /^checkpoint-\d+$/,
  /\.(tmp|old)-\d+$/,
  /^nift_run\.json$/,
  /^trainer_(log\.jsonl|state\.json)$/,
  /^(train|all)_results\.json$/,
  /^training_loss\.(png|svg)$/,
  /^adapter_(config\.json|model\.safetensors)$/,
  /^(model.*\.safetensors|model\.safetensors\.index\.json|config\.json|generation_config\.json)$/,
  /^(tokenizer|tokenizer_config|special_tokens_map|nift_template)\.json$/,
  /^README\.md$/,
];

/** Makes the folder ready to be written to. @throws NIFT_OUTPUT_DIR when it holds files that are not ours. */
export function claimFolder(folder: string, overwrite: boolean): void {
  if (existsSync(folder) && !statSync(folder).isDirectory())
    throw new NiftError('NIFT_OUTPUT_DIR', `output_dir ${folder}: is a file, expected a folder`);
  const names = guardIo(folder, 'create the folder', () => {
    makeFolder(folder);
    return readdirSync(folder);
  });
  if (overwrite) {
    // Of somebody else's folder nothing is removed; what a run writes replaces files of the same name.
    const ours = existsSync(path.join(folder, RUN_FILE))
      ? names.filter((name) => OURS.some((pattern) => pattern.test(name)))
      : [];
    // The mark goes last, so that a kill in between leaves a folder that is still known as ours.
    for (const name of ours.filter((name) => name !== RUN_FILE)) rmSync(path.join(folder, name), { recursive: true });
    rmSync(path.join(folder, RUN_FILE), { force: true });
    return;
  }
  const foreign = names.filter((name) => !isLeftover(name));
  if (foreign.length === 0 || existsSync(path.join(folder, RUN_FILE))) return;
  const shown = foreign.slice(0, 3).join(', ');
  throw new NiftError('NIFT_OUTPUT_DIR', `output_dir ${folder}: holds ${foreign.length} files (${shown}...) but no run of nift`, {
    hint: 'Choose an empty folder, or set overwrite_output_dir: true to write into this one.',
  });
}

/** Takes the mark away from a folder that holds nothing else: the run failed before its first step. */
export function abandonFolder(folder: string): void {
  if (readdirSync(folder).every((name) => name === RUN_FILE)) rmSync(path.join(folder, RUN_FILE), { force: true });
}

/** A half-written or half-replaced file or folder (src/formats/atomic.ts). */
const isLeftover = (name: string): boolean => /\.(tmp|old)-\d+$/.test(name);

/** Removes what a killed run left half written. */
export function removeLeftovers(folder: string): void {
  for (const name of readdirSync(folder)) if (isLeftover(name)) rmSync(path.join(folder, name), { recursive: true, force: true });
}

/** Hash of what identifies the weights of a folder without reading them all: JSON files, tensor headers, sizes, both ends. */
export function hashModelFolder(folder: string): string {
  const hash = createHash('sha256');
  const names = readdirSync(folder)
    .filter((name) => /^(config|adapter_config)\.json$|\.safetensors(\.index\.json)?$/.test(name))
    .sort();
  for (const name of names) {
    const file = path.join(folder, name);
    const { size } = statSync(file);
    hash.update(`${name}\0${size}\0`);
    const fd = openSync(file, 'r');
    try {
      const window = Buffer.alloc(Math.min(size, 1 << 20));
      for (const position of [0, size - window.length]) {
        readSync(fd, window, 0, window.length, position);
        hash.update(window);
      }
    } finally {
      closeSync(fd);
    }
  }
  return hash.digest('hex');
}
