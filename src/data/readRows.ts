/** Rows of a .jsonl file, or of a .json file that holds one array or lines, each with its line number. */
import { closeSync, readSync } from 'node:fs';
import path from 'node:path';
import { NiftError } from '../errors.js';
import { guardIo, openForReading, readFully } from '../formats/io.js';
import { readJsonl, type JsonlRow } from '../formats/jsonl.js';
import { decodeUtf8 } from '../formats/jsonText.js';
import type { JsonValue } from '../formats/jsonText.js';

/** Line: 1-based, where the row begins. */
export type SourceRow = JsonlRow;

/** V8 cannot hold a longer string, so a longer line or array cannot be parsed. */
const MAX_TEXT = 500 * 2 ** 20;

/**
 * @throws NiftError NIFT_JSON with file and line for text that is no JSON or no UTF-8; NIFT_FILE_* when it cannot be read
 */
export function* readRows(file: string): Generator<SourceRow> {
  if (path.extname(file).toLowerCase() === '.json' && firstCharacter(file) === '[') yield* readArray(file);
  else yield* readJsonl(file, { maxLineBytes: MAX_TEXT });
}

const hasMark = (bytes: Uint8Array): boolean => bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf;

function firstCharacter(file: string): string {
  const { fd } = openForReading(file);
  try {
    const head = Buffer.alloc(4096);
    const count = guardIo(file, 'read', () => readSync(fd, head, 0, head.length, 0));
    return head
      .toString('utf8', hasMark(head) ? 3 : 0, count)
      .trimStart()
      .slice(0, 1);
  } finally {
    closeSync(fd);
  }
}

function* readArray(file: string): Generator<SourceRow> {
  const text = readText(file);
  let values: JsonValue;
  try {
    values = JSON.parse(text) as JsonValue;
  } catch (cause) {
    const message = (cause as Error).message.slice(0, 200);
    throw new NiftError('NIFT_JSON', `${file}:${lineOfError(text, message)}: not valid JSON: ${message}`, { cause });
  }
  const starts = elementLines(text);
  let i = 0;
  for (const value of values as JsonValue[]) yield { line: starts[i++] ?? 0, value };
}

function readText(file: string): string {
  const { fd, size } = openForReading(file);
  try {
    if (size > MAX_TEXT) {
      throw new NiftError('NIFT_JSON', `${file}: ${size} bytes in one JSON array`, {
        hint: 'convert it to .jsonl, which is read in pieces',
      });
    }
    const bytes = new Uint8Array(size);
    const complete = guardIo(file, 'read', () => readFully(fd, bytes, 0));
    if (!complete) throw new NiftError('NIFT_FILE_IO', `${file}: became shorter while it was read`);
    return decodeUtf8(bytes.subarray(hasMark(bytes) ? 3 : 0), file);
  } finally {
    closeSync(fd);
  }
}

function lineOfError(text: string, message: string): number {
  const position = /position (\d+)/.exec(message)?.[1];
  const before = position === undefined ? text : text.slice(0, Number(position));
  return before.split('\n').length;
}

/** Line on which each element of a valid JSON array begins. */
function elementLines(text: string): number[] {
  const starts: number[] = [];
  let line = 1;
  let depth = 0;
  let expecting = false;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c === 0x0a) line++;
    if (c === 0x0a || c === 0x20 || c === 0x09 || c === 0x0d) continue;
    const closing = c === 0x5d || c === 0x7d;
    if (expecting && !closing) starts.push(line);
    expecting = false;
    if (c === 0x22) {
      for (i++; text.charCodeAt(i) !== 0x22; i++) if (text.charCodeAt(i) === 0x5c) i++;
    } else if (c === 0x5b || c === 0x7b) {
      depth++;
      expecting = depth === 1;
    } else if (closing) depth--;
    else if (c === 0x2c) expecting = depth === 1;
  }
  return starts;
}
