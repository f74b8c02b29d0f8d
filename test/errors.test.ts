/** The codes, their documentation and their use agree. */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { ERROR_CODES, nearest, NiftError, quote } from '../src/errors.js';

const root = path.resolve(import.meta.dirname, '..');
const documentation = readFileSync(path.join(root, 'docs', 'errors.md'), 'utf8');

function sources(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const file = path.join(folder, entry.name);
    return entry.isDirectory() ? sources(file) : entry.name.endsWith('.ts') ? [file] : [];
  });
}

describe('docs/errors.md', () => {
  const sections = [...documentation.matchAll(/^### (.*)\n\n([^#]*)/gm)].map(([, code, text]) => ({
    code: code!,
    text: text!.trim(),
  }));

  it('has one section per code, and no other', () => {
    expect(sections.map(({ code }) => code).sort()).toEqual([...ERROR_CODES].sort());
    expect(new Set(ERROR_CODES).size).toBe(ERROR_CODES.length);
  });

  it.each(sections)('$code is explained', ({ text }) => {
    expect(text.length).toBeGreaterThan(20);
  });
});

describe('codes', () => {
  const text = sources(path.join(root, 'src'))
    .filter((file) => !file.endsWith(`${path.sep}errors.ts`))
    .map((file) => readFileSync(file, 'utf8'))
    .join('\n');

  it.each(ERROR_CODES)('%s is thrown somewhere', (code) => {
    expect(text.includes(`'${code}'`)).toBe(true);
  });
});

describe('NiftError', () => {
  it('carries code, hint, details, cause and exit status', () => {
    const cause = new Error('inner');
    const error = new NiftError('NIFT_JSON', 'm', { hint: 'h', details: { a: 1 }, cause, exitCode: 1 });
    expect(error).toMatchObject({
      name: 'NiftError',
      code: 'NIFT_JSON',
      message: 'm',
      hint: 'h',
      details: { a: 1 },
      cause,
      exitCode: 1,
    });
    const plain = new NiftError('NIFT_USAGE', 'm');
    expect([plain.exitCode, plain.hint, plain.details, 'cause' in plain]).toEqual([2, undefined, {}, false]);
  });

  it('quotes at most what it should, with control characters escaped', () => {
    expect(quote('a\n\u001b[31m"')).toBe('"a\\n\\u001b[31m\\""');
    expect(quote('x'.repeat(300))).toBe(`"${'x'.repeat(200)}..."`);
  });

  it('suggests a name that is close, and none that is not', () => {
    const keys = ['lora_rank', 'lora_alpha', 'learning_rate', 'seed'];
    expect(nearest('lora_rnak', keys)).toBe('lora_rank');
    expect(nearest('LORA_ALPHA', keys)).toBe('lora_alpha');
    expect(nearest('colour', keys)).toBeUndefined();
    expect(nearest('x', [])).toBeUndefined();
  });
});
