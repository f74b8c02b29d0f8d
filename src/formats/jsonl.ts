/**
 * JSON Lines: a streaming reader whose errors name file and line, an atomic writer, and an append-only journal.
 * A byte order mark, CRLF and blank lines are accepted; memory is bounded by the longest line.
 */
import { closeSync, existsSync, fstatSync, fsyncSync, ftruncateSync, openSync, readSync } from 'node:fs';
import path from 'node:path';
import { NiftError } from '../errors.js';
import { atomicFile } from './atomic.js';
import { guardIo, makeFolder, openForReading, syncFolder, writeFully } from './io.js';
import { decodeUtf8, type JsonValue } from './jsonText.js';

export interface JsonlRow<T = JsonValue> {
  value: T;
  /** Counted from 1, blank lines included. */
  line: number;
}

export interface JsonlOptions {
  /** Longer lines are an error. Default 64 MiB. */
  maxLineBytes?: number;
  /** A last line without line break that is not valid JSON was cut off while it was written: refuse it (default) or drop it. */
  tornLastLine?: 'error' | 'drop';
}

const DEFAULT_MAX_LINE = 64 * 2 ** 20;
const WINDOW = 1 << 20;

/** Rows of a file, in order, one at a time. @throws NIFT_JSON "file:line: ...", NIFT_FILE_* */
export function* readJsonl(file: string, options: JsonlOptions = {}): Generator<JsonlRow> {
  const limit = options.maxLineBytes ?? DEFAULT_MAX_LINE;
  for (const { bytes, line, ended } of readLines(file, limit)) {
    const row = parseLine(bytes, `${file}:${line}`, !ended, options.tornLastLine ?? 'error');
    if (row !== undefined) yield { value: row, line };
  }
}

/** undefined for a blank or dropped line. */
function parseLine(bytes: Uint8Array, where: string, last: boolean, torn: 'error' | 'drop'): JsonValue | undefined {
  try {
    const text = decodeUtf8(bytes, where);
    return text.trim() === '' ? undefined : (JSON.parse(text) as JsonValue);
  } catch (error) {
    if (last && torn === 'drop') return undefined;
    if (error instanceof NiftError) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    throw new NiftError('NIFT_JSON', `${where}: not valid JSON: ${reason.slice(0, 200)}`, {
      cause: error,
      ...(last ? { hint: 'The file ends in the middle of this line: its writer was interrupted. Remove the line.' } : {}),
    });
  }
}

interface RawLine {
  /** Without the line break, valid until the next line is asked for. */
  bytes: Uint8Array;
  line: number;
  /** False for a last line without line break. */
  ended: boolean;
  /** Bytes of the file up to and including this line. */
  end: number;
}

function* readLines(file: string, limit: number): Generator<RawLine> {
  const { fd } = openForReading(file);
  try {
    const window = new Uint8Array(WINDOW);
    let rest: Uint8Array[] = [];
    let restLength = 0;
    let line = 1;
    let end = 0;
    const take = (piece: Uint8Array): Uint8Array => {
      if (restLength + piece.length > limit)
        throw new NiftError('NIFT_JSON', `${file}:${line}: a line of more than ${limit} bytes`, {
          hint: 'Is this one JSON document instead of one per line?',
        });
      const whole = rest.length === 0 ? piece : Buffer.concat([...rest, piece]);
      rest = [];
      restLength = 0;
      return trim(whole, line);
    };
    for (;;) {
      const count = guardIo(file, 'read', () => readSync(fd, window, 0, WINDOW, null));
      if (count === 0) break;
      let start = 0;
      for (let stop; (stop = window.indexOf(0x0a, start)) !== -1 && stop < count; start = stop + 1) {
        const length = restLength + stop + 1 - start;
        end += length;
        yield { bytes: take(window.subarray(start, stop)), line, ended: true, end };
        line++;
      }
      if (start < count) {
        rest.push(window.slice(start, count));
        restLength += count - start;
        if (restLength > limit) take(new Uint8Array());
      }
    }
    if (restLength > 0) {
      end += restLength;
      yield { bytes: take(new Uint8Array()), line, ended: false, end };
    }
  } finally {
    closeSync(fd);
  }
}

/** Without a byte order mark (first line) and a carriage return. */
function trim(bytes: Uint8Array, line: number): Uint8Array {
  const start = line === 1 && bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? 3 : 0;
  const end = bytes[bytes.length - 1] === 0x0d ? bytes.length - 1 : bytes.length;
  return bytes.subarray(start, Math.max(start, end));
}

/** Writes one row per line, atomically; folders on the way are made. Rows may come from a generator. @returns the number of rows */
export function writeJsonl(file: string, rows: Iterable<unknown>): number {
  let count = 0;
  guardIo(file, 'create', () => makeFolder(path.dirname(file)));
  atomicFile(file, (fd) => {
    let buffer: string[] = [];
    let length = 0;
    const flush = (): void => {
      writeFully(fd, Buffer.from(buffer.join('')));
      buffer = [];
      length = 0;
    };
    for (const row of rows) {
      const text = `${JSON.stringify(row)}\n`;
      buffer.push(text);
      length += text.length;
      count++;
      if (length > WINDOW) flush();
    }
    flush();
  });
  return count;
}

/** An append-only file of rows: each row is durable when `append` returns; a row torn by a crash is removed on opening. */
export class Journal<T = JsonValue> {
  private fd: number | undefined;

  private constructor(
    readonly file: string,
    fd: number,
    /** The rows that were there on opening. */
    readonly rows: readonly JsonlRow<T>[],
    /** Bytes of a torn last row that were removed on opening. */
    readonly repairedBytes: number,
  ) {
    this.fd = fd;
  }

  /** Opens or creates a journal. @throws NIFT_JSON for a bad row that is not the last */
  static open<T = JsonValue>(file: string): Journal<T> {
    const rows: JsonlRow<T>[] = [];
    let whole = 0;
    let size = 0;
    if (existsSync(file)) {
      for (const { bytes, line, ended, end } of readLines(file, DEFAULT_MAX_LINE)) {
        size = end;
        // Without its line break even a parsable row may be half of a number.
        if (!ended) break;
        const value = parseLine(bytes, `${file}:${line}`, false, 'error');
        if (value !== undefined) rows.push({ value: value as T, line });
        whole = end;
      }
    }
    const fd = guardIo(file, 'open', () => {
      makeFolder(path.dirname(file));
      const descriptor = openSync(file, 'a');
      if (whole < size) ftruncateSync(descriptor, whole);
      fsyncSync(descriptor);
      syncFolder(path.dirname(file));
      return descriptor;
    });
    return new Journal(file, fd, rows, size - whole);
  }

  /** Appends rows in one write and syncs. */
  append(...rows: T[]): void {
    const fd = this.fd;
    if (fd === undefined) throw new NiftError('NIFT_FILE_IO', `${this.file}: used after close()`, { exitCode: 1 });
    const bytes = Buffer.from(rows.map((row) => `${JSON.stringify(row)}\n`).join(''));
    guardIo(this.file, 'append', () => {
      const { size } = fstatSync(fd);
      try {
        writeFully(fd, bytes);
        fsyncSync(fd);
      } catch (error) {
        // Half a row, left by a full disk, would spoil the row that follows.
        ftruncateSync(fd, size);
        throw error;
      }
    });
  }

  /** Idempotent. */
  close(): void {
    if (this.fd !== undefined) closeSync(this.fd);
    this.fd = undefined;
  }
}
