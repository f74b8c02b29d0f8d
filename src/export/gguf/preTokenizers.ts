/**
 * llama.cpp knows the splitting rules of byte-level BPE by name (`tokenizer.ggml.pre`). Which name belongs to a tokenizer.json is told
 * from its `pre_tokenizer`, never guessed: a wrong one gives other tokens without a word.
 *
 * Source: llama.cpp, src/llama-vocab.cpp (llm_tokenizer_bpe).
 */
import { isJsonObject, type JsonObject, type JsonValue } from '../../formats/jsonText.js';

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const rule = (digits: string): string =>
  `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;
const UPPER = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]';
const LOWER = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]';
const OTHER = '[^\\r\\n\\p{L}\\p{N}]?';

/** Signature -> llama.cpp's name. `bytes+` is the GPT-2 rule that ByteLevel applies itself. */
const KNOWN: ReadonlyMap<string, string> = new Map([
  [`split ${rule('\\p{N}{1,3}')} | bytes`, 'llama-bpe'],
  [`split ${rule('\\p{N}')} | bytes`, 'qwen2'],
  [
    `split ${OTHER}${UPPER}*${LOWER}+|${OTHER}${UPPER}+${LOWER}*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+ | bytes`,
    'tekken',
  ],
  ['bytes+', 'gpt-2'],
  ['digits | bytes+', 'smollm'],
]);

/** Rules under which a word that is in the vocabulary is a token whatever the merges say. */
const WHOLE_WORDS_FIRST = new Set(['llama-bpe', 'tekken']);

export interface PreTokenizer {
  /** undefined when llama.cpp has no such rule, as far as we know. */
  name: string | undefined;
  /** Shown to people. */
  signature: string;
}

/** The name of the rule that a tokenizer.json uses. */
export function preTokenizerOf(definition: JsonObject): PreTokenizer {
  const signature = steps(definition['pre_tokenizer'] ?? null).join(' | ');
  return { name: KNOWN.get(signature), signature };
}

/** Whether tokenizer.json and llama.cpp's rule of that name agree about words that are tokens as a whole. */
export function agreesOnWholeWords(name: string, definition: JsonObject): boolean {
  const model = definition['model'];
  const ignoresMerges = isJsonObject(model ?? null) && (model as JsonObject)['ignore_merges'] === true;
  return WHOLE_WORDS_FIRST.has(name) === ignoresMerges;
}

function steps(part: JsonValue): string[] {
  if (!isJsonObject(part)) return ['nothing'];
  switch (part['type']) {
    case 'Sequence':
      return Array.isArray(part['pretokenizers']) ? part['pretokenizers'].flatMap(steps) : ['empty sequence'];
    case 'Split':
      return [splitStep(part)];
    case 'ByteLevel':
      return [`bytes${part['use_regex'] === false ? '' : '+'}${part['add_prefix_space'] === true ? ' with a space before' : ''}`];
    case 'Digits':
      return [part['individual_digits'] === true ? 'digits' : 'runs of digits'];
    default:
      return [JSON.stringify(part)];
  }
}

/** Keeping matches as pieces, or removing what lies between them when the pattern matches everything: the same for these patterns. */
function splitStep(part: JsonObject): string {
  const { pattern, behavior, invert } = part;
  const regex = isJsonObject(pattern ?? null) ? (pattern as JsonObject)['Regex'] : undefined;
  const plain = (behavior === 'Isolated' && invert !== true) || (behavior === 'Removed' && invert === true);
  return typeof regex === 'string' && plain ? `split ${regex}` : JSON.stringify(part);
}
