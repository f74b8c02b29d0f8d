/** Reading rows from files that people and crashes made, and a journal that survives both. */
import { appendFileSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { NiftError } from '../../src/errors.js';
import { Journal, readJsonl, writeJsonl, type JsonlOptions } from '../../src/formats/jsonl.js';
import { duplicateKey } from '../../src/formats/jsonText.js';
import { tempFolder } from './tempFolder.js';

const folder = tempFolder();
let files = 0;

function rows(content: string | Uint8Array, options?: JsonlOptions): unknown[] {
  const file = path.join(folder, `r${files++}.jsonl`);
  writeFileSync(file, content);
  return [...readJsonl(file, options)].map(({ value, line }) => [line, value]);
}

function messageOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (error instanceof NiftError && error.code === 'NIFT_JSON') return path.basename(error.message);
    throw error;
  }
  throw new Error('nothing was thrown');
}

describe('readJsonl', () => {
  it('accepts a byte order mark, CRLF, blank lines and a last line without break', () => {
    expect(rows('\ufeff{"a":1}\r\n\r\n  \n[2]\n\n"x"')).toEqual([
      [1, { a: 1 }],
      [4, [2]],
      [6, 'x'],
    ]);
    expect(rows('')).toEqual([]);
    expect(rows('\n')).toEqual([]);
    expect(rows('\ufeff')).toEqual([]);
    expect(rows('1\r')).toEqual([[1, 1]]);
  });

  it('splits at line breaks only, wherever the read window ends', () => {
    // Characters of two to four bytes across the 1 MiB window, and U+2028, which is no line break here.
    for (const shift of [0, 1, 2, 3]) {
      const long = `${'x'.repeat((1 << 20) - 10 - shift)}äö€😀\u2028`;
      expect(rows(`${JSON.stringify(long)}\n${JSON.stringify([shift])}\n`)).toEqual([
        [1, long],
        [2, [shift]],
      ]);
    }
    const exact = JSON.stringify('y'.repeat((1 << 20) - 3));
    expect(rows(`${exact}\n1\n`).length).toBe(2);
  });

  it('names file and line', () => {
    expect(messageOf(() => rows('1\n\n{"a":}\n'))).toMatch(/^r\d+\.jsonl:3: not valid JSON/);
    expect(messageOf(() => rows(Buffer.concat([Buffer.from('1\n"'), Buffer.from([0xc3, 0x28]), Buffer.from('"\n')])))).toMatch(
      /:2: not valid UTF-8/,
    );
  });

  it('refuses a torn last line, or drops it when asked', () => {
    expect(messageOf(() => rows('1\n{"a":'))).toMatch(/:2: not valid JSON/);
    expect(rows('1\n{"a":', { tornLastLine: 'drop' })).toEqual([[1, 1]]);
    expect(rows(Buffer.from('310a22c3', 'hex'), { tornLastLine: 'drop' })).toEqual([[1, 1]]);
    expect(messageOf(() => rows('{"a":\n1', { tornLastLine: 'drop' }))).toMatch(/:1: not valid JSON/);
  });

  it('bounds the length of a line', () => {
    expect(messageOf(() => rows(`1\n"${'x'.repeat(50)}"\n`, { maxLineBytes: 20 }))).toMatch(/:2: a line of more than 20 bytes/);
    expect(messageOf(() => rows('x'.repeat(3 << 20), { maxLineBytes: 2 << 20 }))).toMatch(/:1: a line of more than/);
    expect(rows('"1234567"\n', { maxLineBytes: 9 })).toEqual([[1, '1234567']]);
  });

  it('closes the file when the reader stops early', () => {
    if (process.platform !== 'linux') return;
    const file = path.join(folder, 'early.jsonl');
    writeFileSync(file, '1\n2\n');
    const before = readdirSync('/proc/self/fd').length;
    for (const row of readJsonl(file)) {
      expect(row.value).toBe(1);
      break;
    }
    expect(readdirSync('/proc/self/fd').length).toBe(before);
  });
});

describe('writeJsonl', () => {
  it('writes what the reader reads, from a generator', () => {
    const file = path.join(folder, 'written.jsonl');
    function* values(): Generator<unknown> {
      for (let i = 0; i < 30_000; i++) yield { i, text: 'ünïcode \n line\u2028 '.repeat(3) };
    }
    expect(writeJsonl(file, values())).toBe(30_000);
    let i = 0;
    for (const { value, line } of readJsonl(file)) {
      expect(line).toBe(i + 1);
      expect((value as { i: number }).i).toBe(i++);
    }
    expect(i).toBe(30_000);
  });
});

describe('Journal', () => {
  it('appends durably and opens with what was there', () => {
    const file = path.join(folder, 'deep', 'journal.jsonl');
    const first = Journal.open<{ id: number }>(file);
    expect(first.rows).toEqual([]);
    first.append({ id: 1 });
    first.append({ id: 2 }, { id: 3 });
    first.close();
    first.close();
    expect(() => first.append({ id: 4 })).toThrow(NiftError);
    const second = Journal.open<{ id: number }>(file);
    expect(second.rows.map((row) => row.value.id)).toEqual([1, 2, 3]);
    expect(second.repairedBytes).toBe(0);
    second.close();
  });

  it.each(['{"id":', '{"id":12', '4', Buffer.from([0x22, 0xc3])])('removes a torn last row: %s', (torn) => {
    const file = path.join(folder, `torn${files++}.jsonl`);
    writeFileSync(file, '{"id":1}\n');
    appendFileSync(file, torn);
    const journal = Journal.open<{ id: number }>(file);
    expect(journal.rows.length).toBe(1);
    expect(journal.repairedBytes).toBe(torn.length);
    journal.append({ id: 2 });
    journal.close();
    expect(readFileSync(file, 'utf8')).toBe('{"id":1}\n{"id":2}\n');
  });

  it('refuses a broken row in the middle', () => {
    const file = path.join(folder, 'broken.jsonl');
    writeFileSync(file, '{"id":1}\n{"id\n{"id":3}\n');
    expect(messageOf(() => Journal.open(file))).toMatch(/:2: not valid JSON/);
  });
});

describe('duplicateKey', () => {
  it.each([
    ['{"a":1,"b":{"a":2},"c":[{"a":1},{"a":2}]}', undefined],
    ['{"a":1,"b":2,"a":3}', 'a'],
    ['{"a":{"b":1,"c":{},"b":2}}', 'a.b'],
    ['[{"x":1},{"y":{"z":0,"z":1}}]', '[].y.z'],
    ['{"\\u0061":1,"a":2}', 'a'],
    ['{"a":"a","b":["a","a"],"c":"}{,"}', undefined],
    ['{"a\\"":1,"a\\\\":2}', undefined],
    ['{"":1, "" :2}', ''],
    ['"a"', undefined],
    ['{"__proto__":1,"__proto__":2}', '__proto__'],
  ])('%s', (text, expected) => {
    JSON.parse(text);
    expect(duplicateKey(text)).toBe(expected);
  });
});
