/**
 * tokenizer.json under llama.cpp's keys.
 *
 *   llama   SentencePiece-like BPE: spaces are "▁", characters that the vocabulary lacks become bytes <0x..>. llama.cpp joins the pair
 *           whose token has the highest score; minus the rank of the merge that makes a token is such a score.
 *   gpt2    byte-level BPE: merges as they are, and the name of the splitting rule.
 *
 * Source: llama.cpp, convert_hf_to_gguf.py (_set_vocab_llama_hf, _set_vocab_gpt2), gguf-py/gguf/vocab.py.
 */
import path from 'node:path';
import { NiftError, quote } from '../../errors.js';
import { bool, list, text, u32, type GgufValue } from '../../formats/gguf/types.js';
import { isJsonObject, readJsonObject, type JsonObject, type JsonValue } from '../../formats/jsonText.js';
import { byteOfToken } from '../../tokenizer/repairs.js';
import { Tokenizer } from '../../tokenizer/tokenizer.js';
import { agreesOnWholeWords, preTokenizerOf } from './preTokenizers.js';

/** llama.cpp's token types. */
const TYPE = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;
/** Of tokens that no merge makes. */
const NO_MERGE_SCORE = -1e6;

export interface TokenizerExport {
  metadata: [string, GgufValue][];
  notices: string[];
  tokenizer: Tokenizer;
}

export interface TokenizerOptions {
  /** Rows of the embedding: every id needs a token. */
  vocabSize: number;
  /** Name of the splitting rule, when the user knows better. */
  pre?: string;
}

/** @throws NIFT_TOKENIZER when it is missing or no BPE, NIFT_EXPORT_TOKENIZER when llama.cpp has no such tokenizer */
export function tokenizerMetadata(folder: string, options: TokenizerOptions): TokenizerExport {
  const tokenizer = Tokenizer.load(folder);
  const file = path.join(folder, 'tokenizer.json');
  const definition = readJsonObject(file);
  const model = definition['model'] ?? null;
  if (!isJsonObject(model) || model['type'] !== 'BPE' || !isJsonObject(model['vocab'] ?? null))
    throw unsupported(
      file,
      `the model is ${JSON.stringify(isJsonObject(model) ? model['type'] : model)}, only BPE can be exported`,
    );
  const tokens = readTokens(definition, model, file, options.vocabSize);
  const merges = readMerges(model, file);
  const notices: string[] = [];
  const own =
    model['byte_fallback'] === true
      ? sentencePiece(definition, tokens, merges, file)
      : byteLevel(definition, tokens, merges, { file, pre: options.pre, notices });
  if (tokens.padded > 0) notices.push(`${tokens.padded} rows of the embedding have no token: they are named [PAD...]`);
  return { metadata: [...own, ...specialTokens(tokenizer, notices)], notices, tokenizer };
}

const unsupported = (file: string, problem: string, hint = 'There is no GGUF tokenizer for this file.'): NiftError =>
  new NiftError('NIFT_EXPORT_TOKENIZER', `${file}: ${problem}`, { hint });

interface Tokens {
  /** By id. */
  texts: string[];
  types: number[];
  /** How many ids had no token. */
  padded: number;
}

function readTokens(definition: JsonObject, model: JsonObject, file: string, vocabSize: number): Tokens {
  const texts: (string | undefined)[] = Array.from({ length: vocabSize }, () => undefined);
  const types = new Array<number>(vocabSize).fill(TYPE.normal);
  const fallback = model['byte_fallback'] === true;
  const put = (token: string, id: JsonValue | undefined, type: number): void => {
    if (typeof id !== 'number' || !Number.isSafeInteger(id) || id < 0 || id >= vocabSize)
      throw new NiftError(
        'NIFT_TOKENIZER',
        `${file}: token ${quote(token, 40)} has id ${JSON.stringify(id)}, the model has ${vocabSize} rows`,
        {
          hint: 'Tokenizer and checkpoint do not belong together, or the embedding was not resized.',
        },
      );
    texts[id] = token;
    types[id] = type;
  };
  for (const [token, id] of Object.entries(model['vocab'] as JsonObject))
    put(token, id, fallback && byteOfToken(token) !== undefined ? TYPE.byte : TYPE.normal);
  const added = Array.isArray(definition['added_tokens']) ? definition['added_tokens'].filter(isJsonObject) : [];
  for (const { content, id, special } of added) {
    if (typeof content !== 'string') continue;
    put(content, id, special === true || looksSpecial(content) ? TYPE.control : TYPE.userDefined);
  }
  const unknown = typeof model['unk_token'] === 'string' ? texts.indexOf(model['unk_token']) : -1;
  if (fallback && unknown >= 0) types[unknown] = TYPE.unknown;
  let padded = 0;
  const complete = texts.map((token, id) => {
    if (token !== undefined) return token;
    padded++;
    types[id] = TYPE.unused;
    return `[PAD${id}]`;
  });
  return { texts: complete, types, padded };
}

/** Tokens that control the model although their tokenizer.json does not say so. */
const looksSpecial = (token: string): boolean =>
  ['<pad>', '<mask>', '<2mass>', '[@BOS@]'].includes(token) || /^<\|.*\|>$/.test(token) || /^<｜.*｜>$/.test(token);

/** Pairs in the order of their ranks; both spellings of the file. */
function readMerges(model: JsonObject, file: string): [string, string][] {
  const merges = Array.isArray(model['merges']) ? model['merges'] : [];
  return merges.map((merge, rank) => {
    const pair = typeof merge === 'string' ? merge.split(' ') : merge;
    if (Array.isArray(pair) && pair.length === 2 && pair.every((part) => typeof part === 'string'))
      return pair as [string, string];
    throw new NiftError('NIFT_TOKENIZER', `${file}: merge ${rank} is not a pair of tokens`);
  });
}

function sentencePiece(
  definition: JsonObject,
  tokens: Tokens,
  merges: readonly [string, string][],
  file: string,
): [string, GgufValue][] {
  const prefix = addsSpacePrefix(definition, file);
  const ids = new Map(tokens.texts.map((token, id) => [token, id]));
  const scores: number[] = tokens.types.map((type) => (type === TYPE.normal ? NO_MERGE_SCORE : 0));
  // Backwards, so that the best rank of a token stays.
  for (let rank = merges.length - 1; rank >= 0; rank--) {
    const id = ids.get(merges[rank]!.join(''));
    if (id !== undefined) scores[id] = 0 - rank;
  }
  return [
    ['tokenizer.ggml.model', text('llama')],
    ['tokenizer.ggml.pre', text('default')],
    ['tokenizer.ggml.tokens', list('string', tokens.texts)],
    ['tokenizer.ggml.scores', list('f32', scores)],
    ['tokenizer.ggml.token_type', list('i32', tokens.types)],
    ['tokenizer.ggml.add_space_prefix', bool(prefix)],
  ];
}

/** Whether text gets a "▁" in front. @throws NIFT_EXPORT_TOKENIZER for text changes that llama.cpp does not make */
function addsSpacePrefix(definition: JsonObject, file: string): boolean {
  const parts = [definition['normalizer'], definition['pre_tokenizer']].flatMap((part) => flatten(part ?? null));
  let prefix = false;
  for (const part of parts) {
    if (part['type'] === 'Prepend' && part['prepend'] === '▁') prefix = true;
    else if (part['type'] === 'Metaspace') prefix ||= part['prepend_scheme'] !== 'never' && part['add_prefix_space'] !== false;
    else if (!(part['type'] === 'Replace' && part['content'] === '▁' && isSpacePattern(part['pattern'])))
      throw unsupported(file, `llama.cpp has no step like ${JSON.stringify(part)} in its SentencePiece tokenizer`);
  }
  return prefix;
}

const isSpacePattern = (pattern: JsonValue | undefined): boolean =>
  isJsonObject(pattern ?? null) && (pattern as JsonObject)['String'] === ' ';

/** The steps of a normalizer or pre-tokenizer. */
function flatten(part: JsonValue): JsonObject[] {
  if (!isJsonObject(part)) return [];
  const children = part['normalizers'] ?? part['pretokenizers'];
  return part['type'] === 'Sequence' && Array.isArray(children) ? children.flatMap(flatten) : [part];
}

function byteLevel(
  definition: JsonObject,
  tokens: Tokens,
  merges: readonly [string, string][],
  context: { file: string; pre: string | undefined; notices: string[] },
): [string, GgufValue][] {
  const { file, notices } = context;
  const found = preTokenizerOf(definition);
  const pre = context.pre ?? found.name;
  if (pre === undefined)
    throw unsupported(
      file,
      `the splitting rule is none that has a name in llama.cpp: ${quote(found.signature)}`,
      'Find the name in convert_hf_to_gguf.py of llama.cpp (get_vocab_base_pre) and give it: --pre NAME',
    );
  if (context.pre !== undefined && found.name !== undefined && context.pre !== found.name)
    notices.push(`--pre ${context.pre} is used although the splitting rule is that of ${found.name}`);
  if (found.name !== undefined && !agreesOnWholeWords(pre, definition))
    notices.push(`"ignore_merges" of tokenizer.json is not what llama.cpp does for ${pre}: some rare words may get other tokens`);
  for (const part of flatten(definition['normalizer'] ?? null))
    if (part['type'] !== 'NFC')
      throw unsupported(file, `llama.cpp has no step like ${JSON.stringify(part)} before byte-level BPE`);
  const plain = tokens.texts.map((token, id) => (tokens.types[id] === TYPE.userDefined ? token.replaceAll('▁', ' ') : token));
  return [
    ['tokenizer.ggml.model', text('gpt2')],
    ['tokenizer.ggml.pre', text(pre)],
    ['tokenizer.ggml.tokens', list('string', plain)],
    ['tokenizer.ggml.token_type', list('i32', tokens.types)],
    [
      'tokenizer.ggml.merges',
      list(
        'string',
        merges.map((pair) => pair.map((part) => part.replaceAll(' ', 'Ġ')).join(' ')),
      ),
    ],
  ];
}

/** End tokens that llama.cpp knows by name. Source: src/llama-vocab.cpp (load, special_eog_ids). */
const KNOWN_ENDS = new Set([
  '<|endoftext|>',
  '<|end_of_text|>',
  '<|eot_id|>',
  '<|eom_id|>',
  '<|im_end|>',
  '<|end|>',
  '<end_of_turn>',
  '<|EOT|>',
]);

/** Ids with a role, and what encoding adds: asked of the tokenizer itself. */
function specialTokens(tokenizer: Tokenizer, notices: string[]): [string, GgufValue][] {
  const entries: [string, GgufValue][] = [];
  const { bosId, eosId, unkId } = tokenizer;
  const padId = tokenizer.padId === eosId ? null : tokenizer.padId;
  for (const [role, id] of Object.entries({ bos: bosId, eos: eosId, unknown: unkId, padding: padId }))
    if (id !== null) entries.push([`tokenizer.ggml.${role}_token_id`, u32(id)]);
  // Further end tokens: llama.cpp has two more roles that stop it, and a list of names.
  const others = tokenizer.eosIds.filter((id) => id !== eosId && !KNOWN_ENDS.has(tokenizer.tokenOf(id) ?? ''));
  others.slice(0, 2).forEach((id, i) => entries.push([`tokenizer.ggml.${['eot', 'eom'][i]!}_token_id`, u32(id)]));
  if (others.length > 2)
    notices.push(`llama.cpp does not stop at ${others.length - 2} of the end tokens: ${others.slice(2, 7).join(', ')}`);
  const ids = tokenizer.encode('a', { addSpecial: true });
  entries.push(['tokenizer.ggml.add_bos_token', bool(bosId !== null && ids[0] === bosId)]);
  entries.push(['tokenizer.ggml.add_eos_token', bool(eosId !== null && ids[ids.length - 1] === eosId)]);
  return entries;
}
