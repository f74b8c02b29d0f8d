import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { articles } from '../../src/demo/corpus.js';
import { DEMO_ASSETS } from '../../src/demo/demo.js';
import { BASE_SEED, CONTEXT_LENGTH, TOKENIZER_ARTICLES, VOCAB_SIZE } from '../../src/demo/settings.js';
import { tokenizerConfig, trainTokenizer } from '../../src/demo/trainTokenizer.js';
import { Tokenizer } from '../../src/tokenizer/tokenizer.js';

interface Definition {
  model: { vocab: Record<string, number>; merges: string[] };
}

describe('trainTokenizer', () => {
  const texts = articles(1, 150).map(({ text }) => text);
  const definition = trainTokenizer(texts, 500) as Definition;
  let folder: string;
  let tokenizer: Tokenizer;

  beforeAll(() => {
    folder = mkdtempSync(path.join(tmpdir(), 'nift-bpe-'));
    writeFileSync(path.join(folder, 'tokenizer.json'), JSON.stringify(definition));
    writeFileSync(path.join(folder, 'tokenizer_config.json'), JSON.stringify(tokenizerConfig(512)));
    tokenizer = Tokenizer.load(folder);
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it('has the size asked for, with the special tokens in front', () => {
    expect(Object.keys(definition.model.vocab)).toHaveLength(500);
    expect(definition.model.merges).toHaveLength(500 - 258);
    expect([tokenizer.bosId, tokenizer.eosId, tokenizer.vocabSize]).toEqual([0, 1, 500]);
  });

  it('gives every text back, bytes it has never seen included', () => {
    for (const text of [...texts.slice(0, 20), 'Ünïcödé 漢字 🙂 e\u0301\ttabs\n\n\nend', 'a  b   c', '3.14 it\'s "so"'])
      expect(tokenizer.decode(tokenizer.encode(text))).toBe(` ${text}`);
    expect(Array.from(tokenizer.encode('a</s>')).at(-1)).toBe(1);
  });

  it('joins a prompt and its continuation as words are joined', () => {
    const whole = 'In Lindale there lived a boy called Karl.';
    for (const cut of [2, 10, 24]) {
      const parts = [whole.slice(0, cut), whole.slice(cut + 1)].map((part) => [...tokenizer.encode(part)]);
      expect(tokenizer.decode(Int32Array.from(parts.flat()))).toBe(` ${whole}`);
    }
  });

  it('compresses what it was trained on, and is the same every time', () => {
    const characters = texts.join('').length;
    const tokens = texts.reduce((sum, text) => sum + tokenizer.encode(text).length, 0);
    expect(characters / tokens).toBeGreaterThan(2);
    expect(trainTokenizer(texts, 500)).toEqual(definition);
  });

  it('made the files of the base model', () => {
    const read = (...parts: string[]): unknown => JSON.parse(readFileSync(path.join(DEMO_ASSETS, ...parts), 'utf8'));
    const made = trainTokenizer(
      articles(BASE_SEED, TOKENIZER_ARTICLES).map(({ text }) => text),
      VOCAB_SIZE,
    );
    for (const model of ['model', 'base']) {
      expect(read(model, 'tokenizer.json')).toEqual(made);
      expect(read(model, 'tokenizer_config.json')).toEqual(tokenizerConfig(CONTEXT_LENGTH));
    }
  });

  it('merges the most frequent pair first, and stops when none occurs twice', () => {
    const small = trainTokenizer(['ab ab ab cd cd'], 1000) as Definition;
    expect(small.model.merges).toEqual(['a b', 'Ġ ab', 'c d', 'Ġ cd']);
  });
});
