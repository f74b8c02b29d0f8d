/** JSON from strangers: strict UTF-8, one value, no key twice. */
import { closeSync } from 'node:fs';
import { NiftError, quote, type ErrorCode } from '../errors.js';
import { guardIo, openForReading, readFully } from './io.js';

export type JsonValue = string | number | boolean | null | JsonValue[] | JsonObject;
export interface JsonObject {
  [key: string]: JsonValue;
}

export const isJsonObject = (value: unknown): value is JsonObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/**
 * The first key that stands twice in one object of a *valid* JSON text, with its path, or undefined.
 * JSON.parse keeps the last of the two silently; what another reader keeps is anyone's guess.
 */
export function duplicateKey(text: string): string | undefined {
  // One entry per open bracket; null for arrays.
  const stack: ({ keys: Set<string>; current: string } | null)[] = [];
  let expectKey = false;
  for (let i = 0; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (char === 0x22) {
      const end = stringEnd(text, i);
      const top = stack[stack.length - 1];
      if (expectKey && top) {
        const raw = text.slice(i + 1, end);
        const key = raw.includes('\\') ? (JSON.parse(`"${raw}"`) as string) : raw;
        if (top.keys.has(key)) return [...stack.slice(0, -1).map((entry) => entry?.current ?? '[]'), key].join('.');
        top.keys.add(key);
        top.current = key;
        expectKey = false;
      }
      i = end;
    } else if (char === 0x7b) {
      stack.push({ keys: new Set(), current: '' });
      expectKey = true;
    } else if (char === 0x5b) {
      stack.push(null);
      expectKey = false;
    } else if (char === 0x7d || char === 0x5d) {
      stack.pop();
      expectKey = false;
    } else if (char === 0x2c) {
      expectKey = stack[stack.length - 1] !== null;
    }
  }
  return undefined;
}

/** Index of the closing quote of the string that opens at `start`. */
function stringEnd(text: string, start: number): number {
  for (let i = start + 1; i < text.length; i++) {
    const char = text.charCodeAt(i);
    if (char === 0x5c) i++;
    else if (char === 0x22) return i;
  }
  return text.length;
}

/** Codes for the three ways in which bytes fail to be a JSON document. */
export interface JsonCodes {
  utf8: ErrorCode;
  syntax: ErrorCode;
  duplicate: ErrorCode;
}

const PLAIN_CODES: JsonCodes = { utf8: 'NIFT_JSON', syntax: 'NIFT_JSON', duplicate: 'NIFT_JSON' };
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** Decodes strict UTF-8. `where` opens the message. */
export function decodeUtf8(bytes: Uint8Array, where: string, code: ErrorCode = 'NIFT_JSON'): string {
  try {
    return decoder.decode(bytes);
  } catch (error) {
    throw new NiftError(code, `${where}: not valid UTF-8`, { cause: error });
  }
}

/** Parses one strict JSON document. @throws NiftError with the code of `codes` that applies; `where` opens the message. */
export function parseJson(bytes: Uint8Array | string, where: string, codes: JsonCodes = PLAIN_CODES): JsonValue {
  const text = typeof bytes === 'string' ? bytes : decodeUtf8(bytes, where, codes.utf8);
  let value: JsonValue;
  try {
    value = JSON.parse(text) as JsonValue;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new NiftError(codes.syntax, `${where}: not valid JSON: ${reason.slice(0, 200)}`, { cause: error });
  }
  const twice = duplicateKey(text);
  if (twice !== undefined) throw new NiftError(codes.duplicate, `${where}: the key ${quote(twice)} appears twice`);
  return value;
}

/** Larger "small" JSON files are refused before they are read. */
const MAX_JSON_FILE = 256 * 2 ** 20;

/** Reads a JSON file, strictly. A byte order mark is skipped. */
export function readJson(file: string, codes: JsonCodes = PLAIN_CODES): JsonValue {
  const { fd, size } = openForReading(file);
  const bytes = guardIo(file, 'read', () => {
    try {
      if (size > MAX_JSON_FILE)
        throw new NiftError(codes.syntax, `${file}: ${size} bytes of JSON, at most ${MAX_JSON_FILE} expected`, {
          hint: 'Write large datasets as JSON Lines (*.jsonl): one row per line.',
        });
      const target = new Uint8Array(size);
      if (!readFully(fd, target, 0)) throw new Error('the file became shorter while it was read');
      return target;
    } finally {
      closeSync(fd);
    }
  });
  const start = bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? 3 : 0;
  return parseJson(bytes.subarray(start), file, codes);
}

/** Reads a JSON file that must hold an object (a config, an index). */
export function readJsonObject(file: string, codes: JsonCodes = PLAIN_CODES): JsonObject {
  const value = readJson(file, codes);
  if (!isJsonObject(value)) throw new NiftError(codes.syntax, `${file}: expected a JSON object`);
  return value;
}

/** Keys sorted at every level, as Python's json.dumps(sort_keys=True, indent=indent) has them. No final newline. */
export function stableJson(value: unknown, indent = 2): string {
  return JSON.stringify(sortKeys(value), null, indent);
}

function sortKeys(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sortKeys);
  if (typeof value !== 'object' || value === null) return value;
  const sorted: Record<string, unknown> = Object.create(null) as Record<string, unknown>;
  for (const key of Object.keys(value).sort()) sorted[key] = sortKeys((value as Record<string, unknown>)[key]);
  return sorted;
}
