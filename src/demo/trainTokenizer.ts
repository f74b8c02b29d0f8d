/**
 * Byte-pair encoding over bytes, learned from texts, written as a Hugging Face tokenizer.json.
 *
 * Layout: 0 = <s>, 1 = </s>, then the 256 bytes in GPT-2's alphabet, then one entry per merge. Text is cut by GPT-2's pattern
 * first, with a space put in front of every text (add_prefix_space), so that a prompt and its continuation join as words do.
 * Ties between equally frequent pairs go to the smaller pair, so the same texts always give the same file.
 * Source: Sennrich, Haddow and Birch 2016; byte alphabet and pattern of GPT-2.
 */

export const BOS_TOKEN = '<s>';
export const EOS_TOKEN = '</s>';

const PATTERN = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/** Printable Latin-1 stands for itself, the other bytes for U+0100 and up. */
function byteAlphabet(): string[] {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    return String.fromCodePoint(printable ? byte : next++);
  });
}

interface Word {
  symbols: string[];
  count: number;
}

function countWords(texts: Iterable<string>, alphabet: readonly string[]): Word[] {
  const counts = new Map<string, number>();
  for (const text of texts) {
    const prefixed = /^\s/.test(text) ? text : ` ${text}`;
    for (const [piece] of prefixed.matchAll(PATTERN)) counts.set(piece, (counts.get(piece) ?? 0) + 1);
  }
  return [...counts].map(([piece, count]) => ({
    symbols: Array.from(Buffer.from(piece, 'utf8'), (byte) => alphabet[byte]!),
    count,
  }));
}

function bestPair(words: readonly Word[]): [string, string] | null {
  const counts = new Map<string, number>();
  for (const { symbols, count } of words)
    for (let i = 0; i + 1 < symbols.length; i++) {
      const pair = `${symbols[i]!} ${symbols[i + 1]!}`;
      counts.set(pair, (counts.get(pair) ?? 0) + count);
    }
  let best: string | null = null;
  let most = 1;
  for (const [pair, count] of counts)
    if (count > most || (count === most && best !== null && pair < best)) {
      best = pair;
      most = count;
    }
  return best === null ? null : (best.split(' ') as [string, string]);
}

function merge(word: Word, [left, right]: readonly [string, string]): void {
  const { symbols } = word;
  for (let i = 0; i + 1 < symbols.length; i++)
    if (symbols[i] === left && symbols[i + 1] === right) symbols.splice(i, 2, left + right);
}

/** The contents of tokenizer.json with at most `vocabSize` entries; fewer when no pair occurs twice. */
export function trainTokenizer(texts: Iterable<string>, vocabSize: number): object {
  const alphabet = byteAlphabet();
  const words = countWords(texts, alphabet);
  const tokens = [BOS_TOKEN, EOS_TOKEN, ...alphabet];
  const merges: string[] = [];
  while (tokens.length < vocabSize) {
    const pair = bestPair(words);
    if (pair === null) break;
    for (const word of words) merge(word, pair);
    tokens.push(pair.join(''));
    merges.push(pair.join(' '));
  }
  const byteLevel = { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true };
  const special = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: [BOS_TOKEN, EOS_TOKEN].map((content, id) => ({ id, content, ...special })),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
    },
  };
}

/** The contents of tokenizer_config.json beside it. */
export function tokenizerConfig(contextLength: number): object {
  return {
    tokenizer_class: 'PreTrainedTokenizerFast',
    bos_token: BOS_TOKEN,
    eos_token: EOS_TOKEN,
    add_bos_token: false,
    add_eos_token: false,
    add_prefix_space: true,
    clean_up_tokenization_spaces: false,
    model_max_length: contextLength,
  };
}
