/** The parts of @huggingface/tokenizers in use, typed here: its own declarations do not resolve under Node's module rules. */
import * as library from '@huggingface/tokenizers';

export interface Decoder {
  config: unknown;
  decode_chain: (tokens: string[]) => string[];
  /** Sequences only. */
  decoders?: Decoder[];
}

export interface PreTokenizer {
  pre_tokenize_text: (text: string, options?: unknown) => string[];
  /** Sequences only. */
  tokenizers?: (PreTokenizer | null)[];
  /** Metaspace only. */
  replacement?: string;
  prepend_scheme?: string;
}

export interface BpeModel {
  vocab: string[];
  tokens_to_ids: Map<string, number>;
  /** Undefined in models that are no BPE. */
  merges: [string, string][];
  bpe: (word: string) => string[];
  end_of_word_suffix?: string | null;
  continuing_subword_suffix?: string | null;
  config: { continuing_subword_prefix?: string | null };
}

export interface LibraryTokenizer {
  model: BpeModel;
  decoder: Decoder | null;
  pre_tokenizer: PreTokenizer | null;
  encode(text: string, options: { add_special_tokens: boolean }): { ids: (number | undefined)[] };
  /** Throws on an empty list. */
  decode(ids: number[], options: { skip_special_tokens: boolean; clean_up_tokenization_spaces: boolean }): string;
  token_to_id(token: string): number | undefined;
  id_to_token(id: number): string | undefined;
  get_added_tokens_decoder(): Map<number, { id: number; special: boolean }>;
}

type Constructor<T> = new (...args: never[]) => T;
interface Library {
  Tokenizer: new (definition: object, config: object) => LibraryTokenizer;
  // The extra properties tell the classes apart for the compiler.
  ByteFallbackDecoder: Constructor<Decoder & { text_decoder: object }>;
  ByteLevelDecoder: Constructor<Decoder & { byte_decoder: object }>;
  MetaspaceDecoder: Constructor<Decoder & { replacement: string }>;
  SequenceDecoder: Constructor<Decoder & { decoders: Decoder[] }>;
  MetaspacePreTokenizer: Constructor<PreTokenizer & { replacement: string }>;
  SequencePreTokenizer: Constructor<PreTokenizer & { tokenizers: (PreTokenizer | null)[] }>;
}

export const {
  Tokenizer: LibraryTokenizerClass,
  ByteFallbackDecoder,
  ByteLevelDecoder,
  MetaspaceDecoder,
  SequenceDecoder,
  MetaspacePreTokenizer,
  SequencePreTokenizer,
} = library as unknown as Library;
