/** tokenizer.json under llama.cpp's keys; that llama.cpp then splits texts alike is tested in llamaCpp.test.ts. */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { tokenizerMetadata, type TokenizerExport } from '../../src/export/gguf/tokenizer.js';
import type { Scalar } from '../../src/formats/gguf/types.js';
import { tempFolder } from '../formats/tempFolder.js';
import { hasShared, shared } from '../golden.js';
import { byteLevelTokenizer, characterTokenizer, PRE_TOKENIZERS } from './fixtures.js';

const folder = tempFolder();
let count = 0;

function write(files: Record<string, object>): string {
  const target = path.join(folder, `tokenizer-${count++}`);
  mkdirSync(target);
  for (const [name, content] of Object.entries(files)) writeFileSync(path.join(target, name), JSON.stringify(content));
  return target;
}

const values = (result: TokenizerExport): Record<string, Scalar | readonly Scalar[]> =>
  Object.fromEntries(result.metadata.map(([key, { value }]) => [key.replace('tokenizer.ggml.', ''), value]));

/** Adds to the plain tokenizer of the fixtures. */
type Json = Record<string, unknown> & { model: Record<string, unknown>; added_tokens: object[] };

function changed(change: (json: Json) => void): Json {
  const json = characterTokenizer(8, 1) as Json;
  change(json);
  return json;
}

const code = (name: string): unknown => expect.objectContaining({ code: name });

describe('SentencePiece-like', () => {
  it.skipIf(!hasShared)('has tokens, types, scores and flags', () => {
    const result = values(tokenizerMetadata(shared('models', 'stories260k'), { vocabSize: 512 }));
    expect(result).toMatchObject({
      model: 'llama',
      pre: 'default',
      add_space_prefix: true,
      add_bos_token: true,
      add_eos_token: false,
      bos_token_id: 1,
      eos_token_id: 2,
      unknown_token_id: 0,
    });
    const tokens = result['tokens'] as string[];
    expect(tokens).toHaveLength(512);
    expect(tokens.slice(0, 4)).toEqual(['<unk>', '<s>', '</s>', '<0x00>']);
    const types = result['token_type'] as number[];
    expect(types.slice(0, 4)).toEqual([2, 3, 3, 6]);
    expect(types.filter((type) => type === 6)).toHaveLength(256);
    const scores = result['scores'] as number[];
    expect(scores[tokens.indexOf('▁t')]).toBe(0);
    expect(scores[tokens.indexOf('he')]).toBe(-1);
    expect(scores[tokens.indexOf('▁a')]).toBe(-2);
    expect(scores[tokens.indexOf('q')]).toBe(-1e6);
  });

  it('keeps user-defined tokens, names ids without a token, and takes the best rank', () => {
    const json = changed((value) => {
      value.model.vocab = { a: 0, '<s>': 1, b: 2, ab: 3 };
      value.model.merges = ['a b', 'a b'];
      value.model.unk_token = null;
      value.added_tokens.push({ id: 5, content: '<x>', special: false }, { id: 6, content: '<|y|>', special: false });
    });
    const result = tokenizerMetadata(write({ 'tokenizer.json': json }), { vocabSize: 8 });
    expect(values(result)).toMatchObject({
      tokens: ['a', '<s>', 'b', 'ab', '[PAD4]', '<x>', '<|y|>', '[PAD7]'],
      token_type: [1, 3, 1, 1, 5, 4, 3, 5],
      scores: [-1e6, 0, -1e6, 0, 0, 0, 0, 0],
      add_space_prefix: false,
    });
    expect(result.notices).toEqual([expect.stringMatching(/^2 rows/)]);
  });

  it('reads the space prefix from either place', () => {
    const prefix = (change: Parameters<typeof changed>[0]): unknown =>
      values(tokenizerMetadata(write({ 'tokenizer.json': changed(change) }), { vocabSize: 8 }))['add_space_prefix'];
    expect(prefix((json) => (json['normalizer'] = { type: 'Prepend', prepend: '▁' }))).toBe(true);
    const metaspace = { type: 'Metaspace', replacement: '▁', split: false };
    expect(prefix((json) => (json['pre_tokenizer'] = { ...metaspace, prepend_scheme: 'first' }))).toBe(true);
    expect(prefix((json) => (json['pre_tokenizer'] = { ...metaspace, prepend_scheme: 'never' }))).toBe(false);
  });

  it('refuses text changes that llama.cpp does not make', () => {
    const json = changed((value) => (value['normalizer'] = { type: 'Lowercase' }));
    expect(() => tokenizerMetadata(write({ 'tokenizer.json': json }), { vocabSize: 8 })).toThrow(code('NIFT_EXPORT_TOKENIZER'));
  });
});

describe('byte-level', () => {
  it.each(Object.keys(PRE_TOKENIZERS))('knows %s by its rule', (pre) => {
    const { json, vocabSize } = byteLevelTokenizer(PRE_TOKENIZERS[pre]!);
    const result = tokenizerMetadata(write({ 'tokenizer.json': json }), { vocabSize });
    const found = values(result);
    expect(found).toMatchObject({ model: 'gpt2', pre });
    expect((found['token_type'] as number[]).slice(-4)).toEqual([3, 3, 3, 4]);
    expect((found['merges'] as string[]).every((merge) => merge.split(' ').length === 2)).toBe(true);
    expect(result.notices).toEqual([]);
  });

  it('does not guess an unknown rule, and takes a name', () => {
    const rule = {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: '\\w+' }, behavior: 'Isolated', invert: false },
        { type: 'ByteLevel', add_prefix_space: false, use_regex: false },
      ],
    };
    const { json, vocabSize } = byteLevelTokenizer({ preTokenizer: rule });
    const target = write({ 'tokenizer.json': json });
    expect(() => tokenizerMetadata(target, { vocabSize })).toThrow(code('NIFT_EXPORT_TOKENIZER'));
    expect(values(tokenizerMetadata(target, { vocabSize, pre: 'deepseek-llm' }))['pre']).toBe('deepseek-llm');
  });

  it('says when --pre or ignore_merges disagree', () => {
    const { json, vocabSize } = byteLevelTokenizer({ ...PRE_TOKENIZERS['qwen2']!, ignoreMerges: true });
    const target = write({ 'tokenizer.json': json });
    expect(tokenizerMetadata(target, { vocabSize }).notices).toEqual([expect.stringMatching(/ignore_merges/)]);
    expect(tokenizerMetadata(target, { vocabSize, pre: 'llama-bpe' }).notices).toEqual([
      expect.stringMatching(/^--pre llama-bpe/),
    ]);
  });

  it('refuses normalizers other than NFC', () => {
    const { json, vocabSize } = byteLevelTokenizer({ ...PRE_TOKENIZERS['qwen2']!, normalizer: { type: 'Lowercase' } });
    expect(() => tokenizerMetadata(write({ 'tokenizer.json': json }), { vocabSize })).toThrow(code('NIFT_EXPORT_TOKENIZER'));
  });
});

describe('any', () => {
  it('tells apart several end tokens', () => {
    const { json, vocabSize } = byteLevelTokenizer(PRE_TOKENIZERS['qwen2']!);
    const last = vocabSize - 1;
    const target = write({
      'tokenizer.json': json,
      'tokenizer_config.json': { eos_token: '<|im_end|>' },
      'generation_config.json': { eos_token_id: [last - 1, last - 3, 5, 6, 7] },
    });
    const result = tokenizerMetadata(target, { vocabSize });
    // <|endoftext|> is known to llama.cpp by name.
    expect(values(result)).toMatchObject({ eos_token_id: last - 1, eot_token_id: 5, eom_token_id: 6 });
    expect(result.notices).toEqual([expect.stringMatching(/does not stop at 1 of the end tokens: 7$/)]);
  });

  it('refuses ids beyond the embedding, other models, and a missing file', () => {
    const target = write({ 'tokenizer.json': characterTokenizer(8, 1) });
    expect(() => tokenizerMetadata(target, { vocabSize: 7 })).toThrow(code('NIFT_TOKENIZER'));
    const unigram = changed((json) => (json.model = { type: 'Unigram', unk_id: 0, vocab: [['a', -1]] }));
    expect(() => tokenizerMetadata(write({ 'tokenizer.json': unigram }), { vocabSize: 8 })).toThrow(
      expect.objectContaining({ code: expect.stringMatching(/^NIFT_(EXPORT_)?TOKENIZER$/) }),
    );
    expect(() => tokenizerMetadata(write({}), { vocabSize: 8 })).toThrow(code('NIFT_TOKENIZER'));
  });
});
