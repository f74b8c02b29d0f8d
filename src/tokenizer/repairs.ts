/**
 * Where @huggingface/tokenizers 0.2.0 differs from the Rust library of the same name, the Rust behaviour is put in place
 * after construction. Found by comparing with the reference ids and texts, or in the Rust source where named:
 *
 * - ByteFallback decoder: a run of byte tokens that is not UTF-8 becomes one U+FFFD per byte (decoders/byte_fallback.rs), not
 *   one per broken character; and a byte order mark is text.
 * - ByteLevel decoder: bytes are joined across added tokens, and a token with characters outside the byte alphabet stands for
 *   its own UTF-8 (pre_tokenizers/byte_level.rs); the JavaScript turns such characters into zero bytes. It also searches all
 *   added tokens for every token.
 * - Metaspace: `split` (default true) cuts before each replacement character, so that no merge crosses a space
 *   (pre_tokenizers/metaspace.rs); decoding drops every replacement character of the first token, none with `never`.
 */
import {
  ByteFallbackDecoder,
  ByteLevelDecoder,
  MetaspaceDecoder,
  MetaspacePreTokenizer,
  SequenceDecoder,
  SequencePreTokenizer,
} from './library.js';
import type { Decoder, PreTokenizer } from './library.js';

const BYTE_TOKEN = /^<0x([0-9A-Fa-f]{2})>$/;
/** The byte that a byte-fallback token stands for, or undefined. */
export function byteOfToken(token: string): number | undefined {
  const match = BYTE_TOKEN.exec(token);
  return match ? parseInt(match[1]!, 16) : undefined;
}

const strict = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const lossy = new TextDecoder('utf-8', { ignoreBOM: true });

function decodeRun(bytes: number[]): string {
  try {
    return strict.decode(Uint8Array.from(bytes));
  } catch {
    return '\ufffd'.repeat(bytes.length);
  }
}

function byteFallbackChain(tokens: string[]): string[] {
  const result: string[] = [];
  let run: number[] = [];
  const flush = (): void => {
    if (run.length > 0) result.push(decodeRun(run));
    run = [];
  };
  for (const token of tokens) {
    const byte = byteOfToken(token);
    if (byte !== undefined) run.push(byte);
    else {
      flush();
      result.push(token);
    }
  }
  flush();
  return result;
}

/** GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 and up. */
const BYTE_OF_CHARACTER: ReadonlyMap<string, number> = (() => {
  const map = new Map<string, number>();
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    map.set(String.fromCodePoint(printable ? byte : next++), byte);
  }
  return map;
})();

function byteLevelChain(tokens: string[]): string[] {
  const bytes: number[] = [];
  for (const token of tokens) {
    const own = Array.from(token, (character) => BYTE_OF_CHARACTER.get(character));
    const complete = own.every((byte) => byte !== undefined);
    for (const byte of complete ? own : Buffer.from(token, 'utf8')) bytes.push(byte);
  }
  return [lossy.decode(Uint8Array.from(bytes))];
}

interface MetaspaceConfig {
  replacement?: string;
  prepend_scheme?: string;
  add_prefix_space?: boolean;
  split?: boolean;
}

function metaspaceDecodeChain(config: MetaspaceConfig): (tokens: string[]) => string[] {
  const replacement = config.replacement ?? '\u2581';
  const strips = config.prepend_scheme !== 'never' && config.add_prefix_space !== false;
  return (tokens) => tokens.map((token, i) => token.replaceAll(replacement, i === 0 && strips ? '' : ' '));
}

/** Puts the repairs into a decoder tree. */
export function repairDecoder(decoder: Decoder | null): void {
  if (decoder instanceof SequenceDecoder) decoder.decoders.forEach(repairDecoder);
  else if (decoder instanceof ByteFallbackDecoder) decoder.decode_chain = byteFallbackChain;
  else if (decoder instanceof ByteLevelDecoder) decoder.decode_chain = byteLevelChain;
  else if (decoder instanceof MetaspaceDecoder) decoder.decode_chain = metaspaceDecodeChain(decoder.config as MetaspaceConfig);
}

/**
 * Puts the repairs into a pre-tokenizer tree.
 * @param config the `pre_tokenizer` of tokenizer.json (the library keeps no `split`)
 */
export function repairPreTokenizer(preTokenizer: PreTokenizer | null, config: unknown): void {
  if (preTokenizer instanceof SequencePreTokenizer) {
    const children = (config as { pretokenizers?: unknown[] } | null)?.pretokenizers ?? [];
    preTokenizer.tokenizers.forEach((child, i) => repairPreTokenizer(child, children[i]));
  } else if (preTokenizer instanceof MetaspacePreTokenizer) {
    const { split = true, add_prefix_space: prefix, prepend_scheme: scheme } = (config ?? {}) as MetaspaceConfig;
    if (scheme === undefined && prefix === false) preTokenizer.prepend_scheme = 'never';
    if (!split) return;
    const whole = preTokenizer.pre_tokenize_text.bind(preTokenizer);
    const mark = preTokenizer.replacement.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&');
    const pieces = new RegExp(`(?:${mark})?(?:(?!${mark})[\\s\\S])+|${mark}`, 'gu');
    preTokenizer.pre_tokenize_text = (text, options) => whole(text, options).flatMap((piece) => piece.match(pieces) ?? []);
  }
}
