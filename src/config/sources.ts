/** Where values come from: the recipe file (YAML 1.2 or JSON), the environment, key=value overrides, flags. */
import { isAlias, isMap, isScalar, isSeq, LineCounter, parseDocument } from 'yaml';
import type { Document, Node, Pair } from 'yaml';
import { nearest, quote } from '../errors.js';
import { environmentName } from './env.js';
import { isKey, KEY_NAMES, keyOf } from './keys.js';
import type { KeyName } from './keys.js';

/** In order of precedence, weakest first. */
export const SOURCES = ['default', 'file', 'environment', 'override', 'flag'] as const;
export type Source = (typeof SOURCES)[number];

export interface Assignment {
  key: KeyName;
  value: unknown;
  source: Source;
  /** For messages: "train.yaml:14", "NIFT_SEED", "seed=1", "--seed". */
  where: string;
}

export interface Problem {
  where: string;
  message: string;
}

export function unknownKey(name: string, where: string): Problem {
  const suggestion = nearest(name, KEY_NAMES);
  const end = suggestion === undefined ? '' : ` Did you mean "${suggestion}"?`;
  return { where, message: `unknown key ${quote(name)}.${end}` };
}

/**
 * Key/value pairs of a recipe with the line of each.
 * @param name how the file is called in messages
 */
export function readRecipeText(text: string, name: string, problems: Problem[]): Assignment[] {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: false, version: '1.2' });
  const at = (offset: number): string => `${name}:${lines.linePos(offset).line}`;
  if (document.errors.length > 0) {
    for (const error of document.errors) problems.push({ where: at(error.pos[0]), message: error.message });
    return [];
  }
  const root = document.contents;
  if (root === null) return [];
  if (!isMap(root)) {
    problems.push({ where: at(root.range?.[0] ?? 0), message: 'a recipe is a list of "key: value" lines' });
    return [];
  }
  const assignments: Assignment[] = [];
  const seen = new Map<string, string>();
  for (const pair of root.items as Pair<Node, Node | null>[]) {
    const where = at(pair.key.range?.[0] ?? 0);
    const key = isScalar(pair.key) ? String(pair.key.value) : String(pair.key);
    const first = seen.get(key);
    seen.set(key, first ?? where);
    if (!isKey(key)) problems.push(unknownKey(key, where));
    else if (first !== undefined) problems.push({ where, message: `key "${key}" is given twice, first at ${first}` });
    else {
      try {
        const value = plainValue(pair.value, document, keyOf(key).kind);
        if (value !== null && value !== undefined) assignments.push({ key, value, source: 'file', where });
      } catch (error) {
        // Aliases without anchor, or so many that they were meant to fill memory.
        problems.push({ where, message: `"${key}" cannot be read: ${(error as Error).message}` });
      }
    }
  }
  return assignments;
}

/** The node as plain data; where text is wanted, a scalar keeps its spelling (`dataset: 007`). */
function plainValue(node: Node | null, document: Document, kind: string): unknown {
  if (node === null) return null;
  const spelled = kind === 'string' || kind === 'choice' || kind === 'list';
  if (spelled && isScalar(node) && node.value !== null && node.source !== undefined) return node.source;
  if (spelled && isSeq(node)) return node.items.map((item) => plainValue(item as Node | null, document, kind));
  if (isAlias(node)) {
    const target = node.resolve(document);
    if (target === undefined) throw new Error(`nothing is called &${node.source}`);
    return plainValue(target, document, kind);
  }
  return node.toJS(document) as unknown;
}

export function environmentAssignments(values: Partial<Record<KeyName, string>>): Assignment[] {
  return (Object.entries(values) as [KeyName, string][]).map(([key, value]) => ({
    key,
    value,
    source: 'environment',
    where: environmentName(key),
  }));
}

/** Values set by a program: `overrides` and `flags` of {@link RecipeInput}. */
export function objectAssignments(values: Record<string, unknown>, source: Source, problems: Problem[]): Assignment[] {
  const assignments: Assignment[] = [];
  for (const [name, value] of Object.entries(values)) {
    const where = source === 'flag' ? `--${name.replaceAll('_', '-')}` : name;
    const key = name.replaceAll('-', '_');
    if (!isKey(key)) problems.push(unknownKey(name, where));
    else if (value !== null && value !== undefined) assignments.push({ key, value, source, where });
  }
  return assignments;
}

export interface RecipeArguments {
  overrides: Record<string, unknown>;
  flags: Record<string, unknown>;
  /** What is no recipe key, in order: the recipe's path, --dry-run, ... */
  rest: string[];
}

/**
 * Splits a command line into `key=value`, `--key value` (kebab-case or snake_case, also `--key=value`, `--switch`,
 * `--no-switch`) and the rest. Values are checked later, with all other problems.
 */
export function parseRecipeArguments(argv: readonly string[]): RecipeArguments {
  const result: RecipeArguments = { overrides: {}, flags: {}, rest: [] };
  for (let i = 0; i < argv.length; i++) {
    const argument = argv[i]!;
    const override = /^([A-Za-z_]\w*)=(.*)$/s.exec(argument);
    if (override) {
      result.overrides[override[1]!] = override[2]!;
      continue;
    }
    const flag = /^--([\w-]+)(?:=(.*))?$/s.exec(argument);
    const name = flag?.[1]?.replaceAll('-', '_') ?? '';
    const negated = name.startsWith('no_') ? name.slice(3) : '';
    if (isKey(name)) {
      const next = argv[i + 1];
      const takesNext = flag?.[2] === undefined && next !== undefined && wantsValue(name, next);
      if (takesNext) i++;
      result.flags[name] = flag?.[2] ?? (takesNext ? next : isSwitch(name) ? true : '');
    } else if (isKey(negated) && isSwitch(negated) && flag?.[2] === undefined) result.flags[negated] = false;
    else result.rest.push(argument);
  }
  return result;
}

const isSwitch = (key: KeyName): boolean => keyOf(key).kind === 'boolean' || keyOf(key).kind === 'string or boolean';

function wantsValue(key: KeyName, next: string): boolean {
  if (keyOf(key).kind === 'boolean') return keyOf(key).schema.safeParse(next).success;
  return !next.startsWith('--');
}
