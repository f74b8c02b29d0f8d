/** Small tokenizers of every family that a checkpoint brings, built here; expected values follow the Rust library's rules. */
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { NiftError } from '../../src/errors.js';
import { Random } from '../../src/random.js';
import { speedUpBpe } from '../../src/tokenizer/fastBpe.js';
import { LibraryTokenizerClass } from '../../src/tokenizer/library.js';
import { StreamDecoder } from '../../src/tokenizer/streamDecoder.js';
import { Tokenizer } from '../../src/tokenizer/tokenizer.js';
import { hasShared, shared } from '../golden.js';

let folder = '';
let count = 0;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'nift-tokenizer-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function save(files: Record<string, unknown>): string {
  const target = path.join(folder, String(count++));
  mkdirSync(target);
  for (const [name, content] of Object.entries(files)) {
    writeFileSync(path.join(target, name), typeof content === 'string' ? content : JSON.stringify(content));
  }
  return target;
}

const special = (id: number, content: string): object => ({ id, content, special: true, normalized: false });
const vocabulary = (tokens: string[]): Record<string, number> => Object.fromEntries(tokens.map((token, id) => [token, id]));

/** GPT-2's byte alphabet in id order, then what merges make. */
function byteLevel(merges: [string, string][]): object {
  const bytes = Array.from({ length: 256 }, (_, byte) => byte);
  let next = 256;
  const printable = (byte: number): boolean => (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  const alphabet = bytes.map((byte) => String.fromCodePoint(printable(byte) ? byte : next++));
  const tokens = [...alphabet, ...merges.map(([a, b]) => a + b)];
  return {
    added_tokens: [special(tokens.length, '<|begin|>'), special(tokens.length + 1, '<|end of text|>')],
    normalizer: null,
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, use_regex: true },
    post_processor: null,
    decoder: { type: 'ByteLevel' },
    model: { type: 'BPE', vocab: vocabulary(tokens), merges },
  };
}

describe('byte-level tokenizers', () => {
  const definition = byteLevel([
    ['h', 'e'],
    ['Ġ', 'he'],
  ]);
  const load = (): Tokenizer =>
    Tokenizer.load(
      save({
        'tokenizer.json': definition,
        'tokenizer_config.json': { eos_token: '<|end of text|>', clean_up_tokenization_spaces: true },
      }),
    );

  it('give every text back, special tokens with spaces included', () => {
    const tokenizer = load();
    expect(tokenizer.encode('he he')).toEqual([256, 257]);
    for (const text of ["he he . , n't", 'naïve café 😀 \ufeff \u0000', '<|end of text|>', 'a<|begin|>b', '\ufffd']) {
      expect(tokenizer.decode(tokenizer.encode(text), { skipSpecial: false })).toBe(text);
    }
    expect(tokenizer.decode(tokenizer.encode('a<|begin|>b'))).toBe('ab');
    expect([tokenizer.eosId, tokenizer.bosId, tokenizer.padId, tokenizer.vocabSize]).toEqual([259, null, 259, 260]);
  });

  it('stream characters only when they are whole', () => {
    const tokenizer = load();
    const ids = tokenizer.encode('a😀é<|begin|>!');
    const stream = new StreamDecoder(tokenizer);
    expect(ids.map((id) => stream.push(id))).toEqual(['a', '', '', '', '😀', '', 'é', '', '!']);
    expect(stream.end()).toBe('');
    const broken = [0xf0, 0x9f, 0x61, 0xff].map((byte) => tokenizer.encode(String.fromCharCode(byte)).at(-1)!);
    const other = new StreamDecoder(tokenizer);
    expect(broken.map((id) => other.push(id)).join('') + other.end()).toBe(tokenizer.decode(broken));
  });
});

describe('Metaspace tokenizers', () => {
  const tokens = ['<unk>', '▁', 'a', 'b', '▁a', '▁▁', 'a▁', 'a▁b'];
  const merges = [
    ['▁', 'a'],
    ['▁', '▁'],
    ['a', '▁'],
    ['a▁', 'b'],
  ];
  const definition = (metaspace: object): object => ({
    added_tokens: [special(0, '<unk>')],
    pre_tokenizer: { type: 'Metaspace', replacement: '▁', ...metaspace },
    decoder: { type: 'Metaspace', replacement: '▁', ...metaspace },
    model: { type: 'BPE', vocab: vocabulary(tokens), merges, unk_token: '<unk>' },
  });
  const load = (metaspace: object): Tokenizer => Tokenizer.load(save({ 'tokenizer.json': definition(metaspace) }));

  it('cut before each space unless split is off', () => {
    const split = load({ prepend_scheme: 'always', split: true });
    expect(split.encode('a  b')).toEqual([4, 1, 1, 3]);
    expect(load({ prepend_scheme: 'always', split: false }).encode('a  b')).toEqual([4, 5, 3]);
    expect(load({ prepend_scheme: 'never', split: false }).encode('ab')).toEqual([2, 3]);
    expect(load({ prepend_scheme: 'never' }).encode('a b')).toEqual([2, 1, 3]);
  });

  it('drop the prefix of the first token only when one is put there', () => {
    expect(load({ prepend_scheme: 'always' }).decode([4, 4])).toBe('a a');
    expect(load({ prepend_scheme: 'never' }).decode([4, 4])).toBe(' a a');
  });
});

describe('special tokens', () => {
  const definition = {
    added_tokens: [special(0, '<s>'), special(1, '</s>'), special(2, '<pad>')],
    model: { type: 'BPE', vocab: vocabulary(['<s>', '</s>', '<pad>', 'a']), merges: [] },
  };

  it('are named by tokenizer_config, special_tokens_map, then the model', () => {
    const ids = (files: Record<string, unknown>): (number | null)[] => {
      const { bosId, eosId, padId } = Tokenizer.load(save({ 'tokenizer.json': definition, ...files }));
      return [bosId, eosId, padId];
    };
    expect(ids({})).toEqual([null, null, null]);
    expect(ids({ 'tokenizer_config.json': { bos_token: '<s>', eos_token: { content: '</s>' } } })).toEqual([0, 1, 1]);
    expect(ids({ 'special_tokens_map.json': { bos_token: '<s>', eos_token: '</s>', pad_token: '<pad>' } })).toEqual([0, 1, 2]);
    expect(
      ids({ 'tokenizer_config.json': { eos_token: null }, 'config.json': { bos_token_id: 0, eos_token_id: [1, 3] } }),
    ).toEqual([0, 1, 1]);
  });

  it('that end a generation come from everywhere', () => {
    const files = {
      'tokenizer_config.json': { eos_token: '</s>' },
      'config.json': { eos_token_id: [1, 3] },
      'generation_config.json': { eos_token_id: 2 },
    };
    expect(Tokenizer.load(save({ 'tokenizer.json': definition, ...files })).eosIds).toEqual([1, 3, 2]);
  });

  it('are part of the hash', () => {
    const hash = (files: object): string => Tokenizer.load(save({ 'tokenizer.json': definition, ...files })).hash;
    expect(hash({})).toBe(hash({ 'config.json': { hidden_size: 4 } }));
    expect(hash({})).not.toBe(hash({ 'config.json': { eos_token_id: 1 } }));
  });
});

describe('a folder without a usable tokenizer', () => {
  const failure = (files: Record<string, unknown>): NiftError => {
    try {
      Tokenizer.load(save(files));
    } catch (error) {
      expect((error as NiftError).code).toBe('NIFT_TOKENIZER');
      return error as NiftError;
    }
    throw new Error('expected NIFT_TOKENIZER');
  };

  it('says what is missing', () => {
    expect(failure({}).hint).toContain('copy tokenizer.json');
    expect(failure({ 'tokenizer.model': 'x' }).hint).toContain('tokenizer.model alone is not read');
    expect(Tokenizer.existsIn(save({}))).toBe(false);
  });

  it('says what is wrong', () => {
    const broken: unknown[] = [
      '',
      '{',
      '[]',
      {},
      { model: null },
      { model: { type: 'Magic' } },
      { model: { type: 'BPE' } },
      { model: { type: 'BPE', vocab: {}, merges: [] }, decoder: { type: 'x' } },
    ];
    for (const content of broken) expect(failure({ 'tokenizer.json': content }).message).toContain('tokenizer.json');
  });
});

describe('merging', () => {
  it('equals the library on random rules and words', () => {
    const random = new Random(11);
    for (let trial = 0; trial < 60; trial++) {
      const tokens = ['a', 'b', 'c', 'd'];
      const merges: [string, string][] = [];
      for (let m = 0; m < 20; m++) {
        const pair: [string, string] = [tokens[random.integer(tokens.length)]!, tokens[random.integer(tokens.length)]!];
        merges.push(pair);
        if (!tokens.includes(pair.join(''))) tokens.push(pair.join(''));
      }
      const definition = {
        added_tokens: [],
        normalizer: null,
        pre_tokenizer: null,
        post_processor: null,
        decoder: null,
        model: { type: 'BPE', vocab: vocabulary(tokens), merges },
      };
      const plain = new LibraryTokenizerClass(definition, {});
      const fast = new LibraryTokenizerClass(definition, {});
      const original = fast.model.bpe;
      speedUpBpe(fast.model);
      expect(fast.model.bpe).not.toBe(original);
      for (let w = 0; w < 20; w++) {
        const word = Array.from({ length: random.integer(60) }, () => 'abcdé'[random.integer(5)]!).join('');
        expect(fast.model.bpe(word), `${JSON.stringify(merges)} ${word}`).toEqual(plain.model.bpe(word));
      }
    }
  });
});

describe.skipIf(!hasShared)('a copied checkpoint', () => {
  it('has the same tokenizer', () => {
    const source = shared('models', 'stories260k');
    const copy = save({});
    for (const name of ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'config.json'])
      cpSync(path.join(source, name), path.join(copy, name));
    const [a, b] = [Tokenizer.load(source), Tokenizer.load(copy)];
    expect(a.hash).toBe(b.hash);
    expect(a).toMatchObject({ bosId: 1, eosId: 2, padId: 2, unkId: 0, eosIds: [2], vocabSize: 512 });
    expect([a.tokenOf(13), a.isByte(13), a.isByte(300), a.isSpecial(1), a.tokenOf(512), a.decode([512, 600])]).toEqual([
      '<0x0A>',
      true,
      false,
      true,
      undefined,
      '',
    ]);
  });
});
