/** Checkpoints with tokenizers made for tests. */
import { copyFileSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';

/** Text of an id: one character each, so that ids can be read off a text. */
export const idText = (id: number): string => String.fromCodePoint(0x4e00 + id);
export const idsText = (ids: readonly number[], bosId: number): string =>
  ids.map((id) => (id === bosId ? '<s>' : idText(id))).join('');

/** A tokenizer.json that spells every id as one character, the begin token as `<s>`. */
export function characterTokenizer(vocabSize: number, bosId: number): object {
  const vocab = Object.fromEntries(Array.from({ length: vocabSize }, (_, id) => [id === bosId ? '<s>' : idText(id), id]));
  return {
    version: '1.0',
    added_tokens: [
      { id: bosId, content: '<s>', single_word: false, lstrip: false, rstrip: false, normalized: false, special: true },
    ],
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: { type: 'Fuse' },
    model: { type: 'BPE', unk_token: idText(0), fuse_unk: false, byte_fallback: true, vocab, merges: [] },
  };
}

/** Copies a checkpoint and gives it that tokenizer. */
export function withCharacterTokenizer(model: string, folder: string, vocabSize: number, bosId: number): string {
  mkdirSync(folder, { recursive: true });
  for (const name of readdirSync(model)) copyFileSync(path.join(model, name), path.join(folder, name));
  writeFileSync(path.join(folder, 'tokenizer.json'), JSON.stringify(characterTokenizer(vocabSize, bosId)));
  return folder;
}

/** GPT-2's alphabet: how byte-level tokens are spelled. */
export function byteAlphabet(): string[] {
  const printable = (byte: number): boolean =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || (byte >= 174 && byte <= 255);
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : next++));
}

const SAMPLE =
  "Hello, hello world! It's 12345 o'clock; don't  worry.\n\nDas Mädchen läuft 10 km. ÄÖÜ éclair\tTabs  and   spaces\r\n" +
  'HTTPServer XMLHttpRequest camelCase 日本語テキスト 42% of 1000000 (approx.) -- see https://example.org/a_b?c=d&e=f 🙂🙂 ';

/** Merges of the most frequent pairs of byte tokens, whatever lies between words: only the splitting rule keeps words apart. */
function trainMerges(count: number): [string, string][] {
  const alphabet = byteAlphabet();
  let tokens = [...Buffer.from(SAMPLE.repeat(2))].map((byte) => alphabet[byte]!);
  const merges: [string, string][] = [];
  while (merges.length < count) {
    const counts = new Map<string, number>();
    for (let i = 0; i + 1 < tokens.length; i++) {
      const pair = `${tokens[i]!} ${tokens[i + 1]!}`;
      counts.set(pair, (counts.get(pair) ?? 0) + 1);
    }
    const [best] = [...counts].reduce((most, entry) => (entry[1] > most[1] ? entry : most));
    const [a, b] = best.split(' ') as [string, string];
    merges.push([a, b]);
    const next: string[] = [];
    for (let i = 0; i < tokens.length; i++) {
      if (tokens[i] === a && tokens[i + 1] === b) {
        next.push(a + b);
        i++;
      } else next.push(tokens[i]!);
    }
    tokens = next;
  }
  return merges;
}

export interface ByteLevelOptions {
  preTokenizer: object;
  ignoreMerges?: boolean;
  normalizer?: object | null;
}

/** A byte-level BPE tokenizer.json with the specials of ChatML. */
export function byteLevelTokenizer({ preTokenizer, ignoreMerges = false, normalizer = null }: ByteLevelOptions): {
  json: object;
  vocabSize: number;
} {
  const merges = trainMerges(200);
  const texts = [...new Set([...byteAlphabet(), ...merges.map((pair) => pair.join(''))])];
  const vocab = Object.fromEntries(texts.map((text, id) => [text, id]));
  const added = ['<|endoftext|>', '<|im_start|>', '<|im_end|>', '<think>'].map((content, i) => ({
    id: texts.length + i,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: content !== '<think>',
  }));
  const json = {
    version: '1.0',
    added_tokens: added,
    normalizer,
    pre_tokenizer: preTokenizer,
    post_processor: null,
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: { type: 'BPE', unk_token: null, byte_fallback: false, ignore_merges: ignoreMerges, vocab, merges },
  };
  return { json, vocabSize: texts.length + added.length };
}

const bytes = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false };
const rule = (regex: string): object => ({
  type: 'Sequence',
  pretokenizers: [{ type: 'Split', pattern: { Regex: regex }, behavior: 'Isolated', invert: false }, bytes],
});

/** The `pre_tokenizer` of well-known models, copied from their tokenizer.json, and llama.cpp's name for each. */
export const PRE_TOKENIZERS: Record<string, ByteLevelOptions> = {
  // Llama 3.2
  'llama-bpe': {
    preTokenizer: rule(
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    ),
    ignoreMerges: true,
  },
  // Qwen2.5
  qwen2: {
    preTokenizer: rule(
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    ),
    normalizer: { type: 'NFC' },
  },
  // Mistral Nemo
  tekken: {
    preTokenizer: rule(
      '[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+',
    ),
    ignoreMerges: true,
  },
  'gpt-2': { preTokenizer: { ...bytes, use_regex: true } },
  // SmolLM2
  smollm: {
    preTokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Digits', individual_digits: true },
        { ...bytes, use_regex: true },
      ],
    },
  },
};

/** Texts on which the rules above differ. */
export const TEXTS = [
  SAMPLE,
  'Hello world',
  ' hello  world   ',
  "IT'S DON'T i'Ll we'RE",
  '1 12 123 1234 12345 x12345y',
  'a\n\nb\r\n\r\nc\t\td \n e',
  'HTTPServer/XMLHttpRequest//x\n',
  'Ünïcödé ǅ ʰ é éclair Ελληνικά русский',
  '日本語テキスト。中文',
  '🙂 👩‍👩‍👧 ٣٤٥ ½ Ⅷ',
  '<|im_start|>user\nhello<|im_end|>\n<think>hm</think>',
  '   ',
  '\n',
  '... --- !!! "quoted" (x)',
];
