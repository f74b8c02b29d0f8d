/**
 * A training recipe: a YAML or JSON file in LLaMA-Factory's keys, plus what the environment and the command line say.
 * Precedence: default < file < environment (NIFT_<KEY>) < key=value < flag. Every problem is found before any is reported.
 */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { NiftError, quote } from '../errors.js';
import { recipeEnvironment } from './env.js';
import { KEY_NAMES, KEYS, keyOf } from './keys.js';
import type { KeyName, RawValues } from './keys.js';
import type { Key } from './schema.js';
import { resolveValues } from './resolve.js';
import type { RecipeValues } from './resolve.js';
import { environmentAssignments, objectAssignments, readRecipeText } from './sources.js';
import type { Assignment, Problem, Source } from './sources.js';

export type { KeyName, RecipeValues, Source };
export { parseRecipeArguments } from './sources.js';
export type { RecipeArguments } from './sources.js';

export interface RecipeInput {
  /** Recipe file; with `text` only its name is used. */
  path?: string;
  text?: string;
  /** key=value arguments. */
  overrides?: Record<string, unknown>;
  /** --key arguments, kebab-case or snake_case. */
  flags?: Record<string, unknown>;
  /** Default: process.env. */
  env?: NodeJS.ProcessEnv;
  /** Default: the current directory. */
  cwd?: string;
}

export interface Origin {
  source: Source;
  /** "train.yaml:14", "NIFT_SEED", "--seed"; empty for defaults. */
  where: string;
}

export interface Recipe {
  /** One value per key, named as in the file. */
  values: RecipeValues;
  origins: Record<KeyName, Origin>;
  /** One sentence each: keys without effect here, values that replace others. */
  notices: string[];
  path: string | null;
}

/**
 * Reads and checks a recipe.
 * @throws NiftError NIFT_RECIPE with one line per problem (details.problems); NIFT_FILE_NOT_FOUND
 */
export function parseRecipe(input: RecipeInput): Recipe {
  const problems: Problem[] = [];
  const name = input.path ?? 'recipe';
  const assignments: Assignment[] = [];
  const text = input.text ?? (input.path === undefined ? undefined : readText(input.path));
  if (text !== undefined) assignments.push(...readRecipeText(text, name, problems));
  // A file that cannot be read as YAML says nothing about its keys.
  if (problems.length > 0 && assignments.length === 0) throw recipeError(problems);
  assignments.push(...environmentAssignments(recipeEnvironment(input.env)));
  assignments.push(...objectAssignments(input.overrides ?? {}, 'override', problems));
  assignments.push(...objectAssignments(input.flags ?? {}, 'flag', problems));

  const set = new Map(assignments.map((assignment) => [assignment.key, assignment]));
  const values = Object.fromEntries(KEY_NAMES.map((key) => [key, structuredClone(KEYS[key].default)])) as RawValues;
  const notices: string[] = [];
  for (const key of KEY_NAMES) {
    const assignment = set.get(key);
    if (assignment !== undefined) Object.assign(values, { [key]: check(assignment, problems, notices) });
    else if (keyOf(key).required) problems.push({ where: name, message: `missing key "${key}": ${KEYS[key].description}` });
  }
  const resolved = resolveValues({ values, set, problems, notices });
  if (problems.length > 0) throw recipeError(problems);
  resolvePaths(resolved, set, input);
  const origins = Object.fromEntries(KEY_NAMES.map((key) => [key, originOf(set.get(key))])) as Record<KeyName, Origin>;
  return { values: resolved, origins, notices, path: input.path ?? null };
}

function readText(file: string): string {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(file);
  } catch (cause) {
    const missing = (cause as NodeJS.ErrnoException).code === 'ENOENT';
    const message = missing ? `${file}: no such recipe` : `${file}: cannot be read: ${(cause as Error).message}`;
    throw new NiftError(missing ? 'NIFT_FILE_NOT_FOUND' : 'NIFT_FILE_IO', message, { cause });
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw recipeError([{ where: file, message: 'not valid UTF-8' }]);
  }
}

const originOf = (assignment: Assignment | undefined): Origin =>
  assignment === undefined ? { source: 'default', where: '' } : { source: assignment.source, where: assignment.where };

/** The value in its type, or the key's default after noting the problem. */
function check(assignment: Assignment, problems: Problem[], notices: string[]): unknown {
  const { key, value, where } = assignment;
  const entry = keyOf(key);
  if (entry.noticed !== undefined) {
    notices.push(`${key} is ignored: ${entry.noticed}`);
    return value;
  }
  const parsed = entry.schema.safeParse(value);
  if (entry.refused !== undefined) {
    if (parsed.success && JSON.stringify(parsed.data) === JSON.stringify(entry.default)) return parsed.data;
    problems.push({ where, message: `"${key}" cannot be ${shown(value)}: ${entry.refused}` });
    return entry.default;
  }
  if (parsed.success) return parsed.data;
  problems.push({ where, message: `"${key}" must be ${entry.expects}, got ${shown(value)}` });
  return entry.default;
}

const shown = (value: unknown): string => (typeof value === 'string' ? quote(value) : quote(JSON.stringify(value)).slice(1, -1));

function recipeError(problems: Problem[]): NiftError {
  const lines = problems.map(({ where, message }) => `${where}: ${message}`);
  return new NiftError('NIFT_RECIPE', lines.join('\n'), {
    hint: 'nift train --help lists every key with its default',
    details: { problems },
  });
}

/**
 * As in LLaMA-Factory, paths are relative to the current directory. One that does not exist there but beside the recipe
 * is taken from beside the recipe, so that a folder with a recipe, a model and data can be moved.
 */
function resolvePaths(values: RecipeValues, set: ReadonlyMap<KeyName, Assignment>, input: RecipeInput): void {
  if (input.path === undefined) return;
  const cwd = input.cwd ?? process.cwd();
  const folder = path.dirname(input.path);
  for (const key of KEY_NAMES) {
    const value: unknown = values[key];
    const source = set.get(key)?.source ?? 'default';
    if (!keyOf(key).path || typeof value !== 'string' || path.isAbsolute(value)) continue;
    if (source !== 'file' && source !== 'default') continue;
    if (existsSync(path.resolve(cwd, value))) continue;
    const beside = path.join(folder, value);
    if (existsSync(path.resolve(cwd, beside))) Object.assign(values, { [key]: beside });
  }
}

export interface RecipeKey extends Omit<Key<unknown>, 'schema' | 'default'> {
  name: KeyName;
  /** "--lora-rank"; snake_case is understood too. */
  flag: string;
  default: unknown;
  /** The default in words, also where it follows from another key. */
  defaultText: string;
}

const DERIVED_DEFAULTS: Partial<Record<KeyName, string>> = { lora_alpha: '2 * lora_rank', data_seed: 'seed' };

/** A scalar as it would be written in a recipe; nothing for null. */
const plain = (value: unknown): string => (typeof value === 'string' ? value : value === null ? '' : JSON.stringify(value));

/** The key table for --help and for the reference page. */
export function recipeKeys(): RecipeKey[] {
  return KEY_NAMES.map((name) => {
    const { schema: _schema, ...entry } = keyOf(name);
    const literal = Array.isArray(entry.default) ? entry.default.join(',') : plain(entry.default);
    return {
      ...entry,
      name,
      flag: `--${name.replaceAll('_', '-')}`,
      defaultText: DERIVED_DEFAULTS[name] ?? (entry.required ? 'required' : literal),
    };
  });
}
