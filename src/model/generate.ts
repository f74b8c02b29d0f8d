/**
 * Text generation with a KV cache. Prompts run side by side, each with its own length; a sequence that has finished leaves the
 * batch. Long prompts are fed in pieces, so memory does not grow with their sum.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { NiftError } from '../errors.js';
import type { KvCache } from '../ops/cachedAttention.js';
import type { CausalLM } from './causalLM.js';
import { checkSampling, Sampler, type SamplingOptions } from './sampling.js';
import { checkTokenIds } from './tokenIds.js';

export interface GenerateOptions extends SamplingOptions {
  /** Default: 128, or what the context leaves when that is less. */
  maxNewTokens?: number;
  /** End of text; default the checkpoint's (generation_config.json, else config.json). Empty = none. */
  eosTokenIds?: readonly number[];
  /** More tokens that end a sequence. */
  stopTokenIds?: readonly number[];
  /** Texts that end a sequence; needs `decode`. */
  stop?: readonly string[];
  /** Tokens to text, special tokens left out. */
  decode?: (ids: Int32Array) => string;
  /** Sequences side by side; default 8. */
  batchSize?: number;
  /** New tokens of one forward pass, which bounds memory while prompts are read; default 1024. */
  prefillTokens?: number;
  /** Stops after the current step; unfinished sequences end with reason `abort`. */
  signal?: AbortSignal;
}

/** Why a sequence ended. */
export type StopReason = 'eos' | 'stop' | 'length' | 'abort';

export interface Generation {
  /** New tokens only, with the end-of-text or stop token that ended them. */
  outputIds: Int32Array;
  stopReason: StopReason;
  /** The new text without the stop text; with `decode` only. */
  text?: string;
}

/** A new token, as it is chosen. */
export interface TokenEvent {
  /** Index of the prompt. */
  sequence: number;
  token: number;
  /** New tokens of this sequence so far, this one included. */
  count: number;
  /** Set with the last token of the sequence. */
  stopReason?: StopReason;
}

const DEFAULT_NEW_TOKENS = 128;
const DEFAULT_BATCH = 8;
const DEFAULT_PREFILL = 1024;
/** Tokens of a character, at most: byte-fallback vocabularies spell one in UTF-8 bytes. */
const TOKENS_PER_CHARACTER = 4;

/**
 * Continues every prompt.
 * @param prompts token ids, at least one each (the beginning-of-text token, if nothing else)
 * @returns one generation per prompt, in order
 * @throws NIFT_USAGE, NIFT_TOKEN_ID, NIFT_CONTEXT_LENGTH before anything runs
 */
export async function generate(
  model: CausalLM,
  prompts: readonly Int32Array[],
  options: GenerateOptions = {},
  onToken?: (event: TokenEvent) => void,
): Promise<Generation[]> {
  checkSampling(options);
  const limits = checkPrompts(model, prompts, options);
  const sequences = prompts.map((prompt, index) => new Sequence(model, prompt, index, limits[index]!, options));
  const batchSize = options.batchSize ?? DEFAULT_BATCH;
  for (let first = 0; first < sequences.length; first += batchSize) {
    await runBatch(model, sequences.slice(first, first + batchSize), options, onToken);
  }
  return sequences.map((sequence) => sequence.result());
}

/** The number of new tokens that each prompt may have. */
function checkPrompts(model: CausalLM, prompts: readonly Int32Array[], options: GenerateOptions): number[] {
  const { contextLength, vocabSize } = model.config;
  const { maxNewTokens, batchSize = DEFAULT_BATCH } = options;
  if (!(Number.isInteger(batchSize) && batchSize >= 1))
    throw new NiftError('NIFT_USAGE', `generate: batch size ${batchSize} must be at least 1.`);
  if (maxNewTokens !== undefined && !(Number.isInteger(maxNewTokens) && maxNewTokens >= 1)) {
    throw new NiftError('NIFT_USAGE', `generate: ${maxNewTokens} new tokens asked for, expected at least 1.`);
  }
  if ((options.stop ?? []).length > 0 && options.decode === undefined) {
    throw new NiftError('NIFT_USAGE', 'generate: stop texts need a tokenizer.', {
      hint: 'Use stop token ids for a checkpoint without one.',
    });
  }
  if (options.stop?.includes('')) throw new NiftError('NIFT_USAGE', 'generate: an empty stop text would stop at once.');
  return prompts.map((prompt, index) => {
    if (prompt.length === 0) {
      throw new NiftError('NIFT_USAGE', `generate: prompt ${index} has no tokens.`, {
        hint: 'Start it with the beginning-of-text token.',
      });
    }
    checkTokenIds(prompt, [0, prompt.length], vocabSize, `prompt ${index}: token id`);
    const room = contextLength - prompt.length;
    const wanted = maxNewTokens ?? Math.min(DEFAULT_NEW_TOKENS, room);
    if (wanted <= room && room > 0) return wanted;
    throw new NiftError(
      'NIFT_CONTEXT_LENGTH',
      `prompt ${index} has ${prompt.length} tokens and ${wanted} new ones are asked for, the model's context is ${contextLength} tokens.`,
      {
        hint: room > 0 ? `Ask for at most ${room} new tokens, or shorten the prompt.` : 'Shorten the prompt.',
        details: { sequence: index, promptTokens: prompt.length, maxNewTokens: wanted, contextLength },
      },
    );
  });
}

async function runBatch(
  model: CausalLM,
  sequences: readonly Sequence[],
  { signal, prefillTokens = DEFAULT_PREFILL }: GenerateOptions,
  onToken: ((event: TokenEvent) => void) | undefined,
): Promise<void> {
  let live = [...sequences];
  const capacity = Math.max(...live.map((sequence) => sequence.prompt.length + Math.min(sequence.limit, DEFAULT_NEW_TOKENS)));
  const cache = model.createCache(live.length, capacity);
  try {
    while (live.length > 0) {
      // Lets timers, signals and streams have their turn between two tokens.
      await nextTurn();
      if (signal?.aborted) {
        for (const sequence of live) sequence.stopReason = 'abort';
        return;
      }
      step(model, live, cache, Math.max(prefillTokens, live.length), onToken);
      const rows = live.flatMap((sequence, row) => (sequence.stopReason === undefined ? [row] : []));
      if (rows.length === live.length) continue;
      live = rows.map((row) => live[row]!);
      if (live.length > 0) cache.select(rows);
    }
  } finally {
    cache.dispose();
  }
}

/** Feeds what is pending, and chooses a token for every sequence whose pending tokens are all in. */
function step(
  model: CausalLM,
  live: readonly Sequence[],
  cache: KvCache,
  tokenBudget: number,
  onToken: ((event: TokenEvent) => void) | undefined,
): void {
  let budget = tokenBudget;
  const counts = Int32Array.from(live, (sequence) => {
    const count = Math.min(sequence.pending.length, budget);
    budget -= count;
    return count;
  });
  const tokens = new Int32Array(counts.reduce((total, count) => total + count, 0));
  const rows: number[] = [];
  const ready: Sequence[] = [];
  let end = 0;
  live.forEach((sequence, i) => {
    const count = counts[i]!;
    if (count === 0) return;
    tokens.set(sequence.pending.subarray(0, count), end);
    sequence.pending = sequence.pending.subarray(count);
    end += count;
    if (sequence.pending.length > 0) return;
    rows.push(end - 1);
    ready.push(sequence);
  });
  const logits = model.step(tokens, counts, cache, Int32Array.from(rows));
  if (logits === null) return;
  const scores = logits.dataSync() as Float32Array;
  const width = logits.shape[1];
  // The sampler overwrites its row, which is why the tensor goes only afterwards.
  ready.forEach((sequence, i) => sequence.choose(scores.subarray(i * width, (i + 1) * width), onToken));
  logits.dispose();
}

class Sequence {
  /** Tokens that the cache has not seen yet. */
  pending: Int32Array;
  stopReason: StopReason | undefined;
  private readonly output: number[] = [];
  private readonly sampler: Sampler;
  private readonly eos: readonly number[];
  private text: string | undefined;

  constructor(
    model: CausalLM,
    readonly prompt: Int32Array,
    private readonly index: number,
    readonly limit: number,
    private readonly options: GenerateOptions,
  ) {
    this.pending = prompt;
    this.sampler = new Sampler(options, index, prompt);
    this.eos = options.eosTokenIds ?? model.config.eosTokenIds;
  }

  choose(logits: Float32Array, onToken: ((event: TokenEvent) => void) | undefined): void {
    const token = this.sampler.next(logits);
    this.output.push(token);
    this.pending = Int32Array.of(token);
    this.stopReason = this.reasonToStop(token);
    const event: TokenEvent = { sequence: this.index, token, count: this.output.length };
    onToken?.(this.stopReason === undefined ? event : { ...event, stopReason: this.stopReason });
  }

  result(): Generation {
    const outputIds = Int32Array.from(this.output);
    const { decode } = this.options;
    const stopReason = this.stopReason ?? 'abort';
    if (decode === undefined) return { outputIds, stopReason };
    return { outputIds, stopReason, text: this.text ?? (outputIds.length === 0 ? '' : decode(outputIds)) };
  }

  private reasonToStop(token: number): StopReason | undefined {
    if (this.eos.includes(token)) return 'eos';
    if (this.options.stopTokenIds?.includes(token)) return 'stop';
    if (this.stopTextReached()) return 'stop';
    return this.output.length >= this.limit ? 'length' : undefined;
  }

  /** Looks for a stop text in the last tokens only: everything before was looked at in earlier steps. */
  private stopTextReached(): boolean {
    const { stop, decode } = this.options;
    if (stop === undefined || stop.length === 0 || decode === undefined) return false;
    const window = (Math.max(...stop.map((text) => text.length)) + 1) * TOKENS_PER_CHARACTER;
    const tail = decode(Int32Array.from(this.output.slice(-window)));
    if (!stop.some((text) => tail.includes(text))) return false;
    const whole = decode(Int32Array.from(this.output));
    const starts = stop.map((text) => whole.indexOf(text)).filter((at) => at >= 0);
    this.text = starts.length === 0 ? whole : whole.slice(0, Math.min(...starts));
    return true;
  }
}
