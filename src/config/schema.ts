/** Building blocks of the key table: each pairs a zod schema with the words that describe it in --help and in errors. */
import { z } from 'zod';

export interface KeyType<T> {
  schema: z.ZodType<T>;
  /** Completes "must be ...". */
  expects: string;
  kind: 'string' | 'integer' | 'number' | 'boolean' | 'list' | 'choice' | 'string or boolean' | 'any';
  choices?: readonly string[];
}

export interface Key<T> extends KeyType<T> {
  /** Value when nobody sets the key. */
  default: T;
  /** One sentence for --help and the reference page. */
  description: string;
  group: KeyGroup;
  required?: true;
  /** Relative to the current directory; the recipe's folder is tried second. */
  path?: true;
  /** Accepted and without effect: the reason, shown once when the key is set. */
  noticed?: string;
  /** Only the default is accepted: the reason given for anything else. */
  refused?: string;
}

export const KEY_GROUPS = ['model', 'method', 'data', 'output', 'train', 'precision', 'compatibility'] as const;
export type KeyGroup = (typeof KEY_GROUPS)[number];

interface Range {
  min?: number;
  /** Exclusive lower bound. */
  above?: number;
  max?: number;
  /** Exclusive upper bound. */
  below?: number;
}

/** "1e-5" is a string in YAML 1.1 and everything is one on the command line: numeric text counts as a number. */
function numeric(value: unknown): unknown {
  if (typeof value !== 'string') return value;
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(value.trim()) ? Number(value) : value;
}

const BOOLEANS = new Map(
  Object.entries({ true: true, yes: true, on: true, '1': true, false: false, no: false, off: false, '0': false }),
);

/** YAML 1.1 called yes/no/on/off booleans, and the command line and the environment have only text. */
function truth(value: unknown): unknown {
  return typeof value === 'string' ? (BOOLEANS.get(value.trim().toLowerCase()) ?? value) : value;
}

function text(value: unknown): unknown {
  return typeof value === 'number' || typeof value === 'boolean' ? String(value) : value;
}

function ranged(base: z.ZodNumber, range: Range): z.ZodNumber {
  let schema = base;
  if (range.min !== undefined) schema = schema.min(range.min);
  if (range.above !== undefined) schema = schema.gt(range.above);
  if (range.max !== undefined) schema = schema.max(range.max);
  if (range.below !== undefined) schema = schema.lt(range.below);
  return schema;
}

function rangeWords(range: Range): string {
  const parts: string[] = [];
  if (range.min !== undefined) parts.push(`at least ${range.min}`);
  if (range.above !== undefined) parts.push(`above ${range.above}`);
  if (range.max !== undefined) parts.push(`at most ${range.max}`);
  if (range.below !== undefined) parts.push(`below ${range.below}`);
  return parts.length === 0 ? '' : ` ${parts.join(' and ')}`;
}

export function integer(range: Range = {}): KeyType<number> {
  const schema = z.preprocess(numeric, ranged(z.number().int(), range)) as z.ZodType<number>;
  return { schema, kind: 'integer', expects: `a whole number${rangeWords(range)}` };
}

export function number(range: Range = {}): KeyType<number> {
  const schema = z.preprocess(numeric, ranged(z.number(), range)) as z.ZodType<number>;
  return { schema, kind: 'number', expects: `a number${rangeWords(range)}` };
}

export function boolean(): KeyType<boolean> {
  return { schema: z.preprocess(truth, z.boolean()), kind: 'boolean', expects: 'true or false' };
}

export function string(): KeyType<string> {
  return { schema: z.preprocess(text, z.string().trim().min(1)), kind: 'string', expects: 'text' };
}

export function choice<const C extends readonly [string, ...string[]]>(...choices: C): KeyType<C[number]> {
  const schema = z.preprocess(text, z.enum(choices)) as unknown as z.ZodType<C[number]>;
  return { schema, kind: 'choice', choices, expects: `one of ${choices.join(', ')}` };
}

/** A YAML list or one comma-separated string; empty entries and repetitions go. */
export function list(): KeyType<string[]> {
  const split = (value: unknown): unknown => {
    const items: unknown = typeof value === 'string' ? value.split(',') : value;
    if (!Array.isArray(items)) return items;
    return items.map(text).map((item) => (typeof item === 'string' ? item.trim() : item));
  };
  const schema = z.preprocess(split, z.array(z.string())).transform((items) => [...new Set(items.filter((item) => item !== ''))]);
  const filled = schema.refine((items) => items.length > 0);
  return { schema: filled, kind: 'list', expects: 'a list, or names separated by commas' };
}

/** The same type with "not set" as a value of its own. */
export function optional<T>(type: KeyType<T>): KeyType<T | null> {
  return { ...type, schema: type.schema.nullable() };
}

/** Text, or true/false in any spelling a boolean key takes. */
export function stringOrBoolean(): KeyType<string | boolean> {
  const schema = z.preprocess(truth, z.union([z.boolean(), z.string().trim().min(1)]));
  return { schema: schema, kind: 'string or boolean', expects: 'a folder, true or false' };
}

/** For keys whose value has no effect: anything is taken. */
export function anything(): KeyType<unknown> {
  return { schema: z.unknown(), kind: 'any', expects: 'anything' };
}
