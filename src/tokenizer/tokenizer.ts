/**
 * Text to ids and back, exactly as Hugging Face's `tokenizers` does from the same tokenizer.json.
 *
 * Differs from transformers: decoded text is never "cleaned up" (clean_up_tokenization_spaces, which turns " ." into "."), so
 * that decoding what was encoded gives the text back.
 */
import { createHash } from 'node:crypto';
import { existsSync, statSync } from 'node:fs';
import path from 'node:path';
import { NiftError } from '../errors.js';
import { isJsonObject, readJsonObject } from '../formats/jsonText.js';
import type { JsonObject } from '../formats/jsonText.js';
import { speedUpBpe } from './fastBpe.js';
import { LibraryTokenizerClass } from './library.js';
import type { LibraryTokenizer } from './library.js';
import { byteOfToken, repairDecoder, repairPreTokenizer } from './repairs.js';
import { readOptional, readSpecialTokens } from './specialTokens.js';
import type { SpecialTokens } from './specialTokens.js';

const CODES = { utf8: 'NIFT_TOKENIZER', syntax: 'NIFT_TOKENIZER', duplicate: 'NIFT_TOKENIZER' } as const;

export class Tokenizer implements SpecialTokens {
  readonly bosId: number | null;
  readonly eosId: number | null;
  readonly padId: number | null;
  readonly unkId: number | null;
  readonly eosIds: number[];
  /** Ids of added tokens marked special; decoding can leave them out. */
  readonly specialIds: ReadonlySet<number>;
  /** Highest id + 1. */
  readonly vocabSize: number;
  /** SHA-256 of tokenizer.json's content and the special ids: equal hashes encode equally. */
  readonly hash: string;
  private readonly byteIds: ReadonlySet<number>;

  private constructor(
    private readonly library: LibraryTokenizer,
    specials: SpecialTokens,
    definition: JsonObject,
    readonly folder: string,
  ) {
    this.bosId = specials.bosId;
    this.eosId = specials.eosId;
    this.padId = specials.padId;
    this.unkId = specials.unkId;
    this.eosIds = specials.eosIds;
    this.specialIds = new Set([...library.get_added_tokens_decoder().values()].filter((t) => t.special).map((t) => t.id));
    const vocabulary = library.model.vocab;
    this.vocabSize = vocabulary.length;
    const fallback = isJsonObject(definition.model) && definition.model.byte_fallback === true;
    const bytes = fallback ? vocabulary.flatMap((token, id) => (byteOfToken(token) === undefined ? [] : [id])) : [];
    this.byteIds = new Set(bytes);
    const identity = JSON.stringify([definition, specials.bosId, specials.eosId]);
    this.hash = createHash('sha256').update(identity).digest('hex');
  }

  /** Does the folder hold a tokenizer? */
  static existsIn(folder: string): boolean {
    return existsSync(path.join(folder, 'tokenizer.json'));
  }

  /** @throws NiftError NIFT_TOKENIZER when tokenizer.json is missing or cannot be used */
  static load(folder: string): Tokenizer {
    const file = path.join(folder, 'tokenizer.json');
    if (!existsSync(file) || !statSync(file).isFile()) {
      const legacy = ['tokenizer.model', 'vocab.json'].find((name) => existsSync(path.join(folder, name)));
      const hint =
        legacy === undefined
          ? 'text needs a tokenizer: copy tokenizer.json from the original checkpoint, or give token ids'
          : `${legacy} alone is not read: take tokenizer.json from the same checkpoint on the hub`;
      throw new NiftError('NIFT_TOKENIZER', `${folder}: no tokenizer.json`, { hint, details: { folder } });
    }
    const definition = readJsonObject(file, CODES);
    const library = build(definition, readOptional(folder, 'tokenizer_config.json'), file);
    const specials = readSpecialTokens(folder, (token) => library.token_to_id(token));
    return new Tokenizer(library, specials, definition, folder);
  }

  /**
   * @param options.addSpecial add what the tokenizer's post-processor adds, usually the begin token (default false).
   *   Special tokens spelled out in the text become their ids either way.
   */
  encode(text: string, options: { addSpecial?: boolean } = {}): number[] {
    const ids = this.library.encode(text, { add_special_tokens: options.addSpecial ?? false }).ids;
    // The library has no id for what neither the vocabulary nor an unknown token covers; the Rust one leaves it out.
    return ids.filter((id): id is number => id !== undefined);
  }

  /** @param options.skipSpecial leave special tokens out (default true). Ids outside the vocabulary have no text. */
  decode(ids: ArrayLike<number>, options: { skipSpecial?: boolean } = {}): string {
    const skip = options.skipSpecial ?? true;
    const known = Array.from(ids).filter((id) => this.tokenOf(id) !== undefined && !(skip && this.specialIds.has(id)));
    // The library throws on an empty list.
    if (known.length === 0) return '';
    return this.library.decode(known, { skip_special_tokens: false, clean_up_tokenization_spaces: false });
  }

  /** The vocabulary's spelling of an id ("▁the", "<0x0A>"), or undefined. */
  tokenOf(id: number): string | undefined {
    return this.library.id_to_token(id);
  }

  idOf(token: string): number | undefined {
    return this.library.token_to_id(token);
  }

  isSpecial(id: number): boolean {
    return this.specialIds.has(id);
  }

  /** Is it one byte of a character that the vocabulary lacks (byte fallback)? */
  isByte(id: number): boolean {
    return this.byteIds.has(id);
  }
}

/** Parts that may be absent in a file but that the library wants to see. */
const OPTIONAL_PARTS = ['decoder', 'post_processor', 'pre_tokenizer', 'normalizer'];

function build(definition: JsonObject, config: JsonObject, file: string): LibraryTokenizer {
  try {
    const complete: JsonObject = { added_tokens: [], ...definition };
    for (const part of OPTIONAL_PARTS) complete[part] ??= null;
    const library = new LibraryTokenizerClass(complete, { ...config, clean_up_tokenization_spaces: false });
    speedUpBpe(library.model);
    repairDecoder(library.decoder);
    repairPreTokenizer(library.pre_tokenizer, complete.pre_tokenizer);
    // A faulty post-processor or decoder shows itself only in use.
    const trial = library.encode('a b', { add_special_tokens: true }).ids.filter((id) => id !== undefined);
    if (trial.length > 0) library.decode(trial, { skip_special_tokens: false, clean_up_tokenization_spaces: false });
    return library;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new NiftError('NIFT_TOKENIZER', `${file}: cannot be used: ${reason.slice(0, 200)}`, { cause });
  }
}
