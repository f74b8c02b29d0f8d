/**
 * Log-likelihood of continuations, as lm-evaluation-harness defines it:
 *
 *   logprob = sum over the continuation of log p(token | everything before),   greedy = each of its tokens is the argmax
 *
 * Short items run packed side by side; long ones alone, in pieces through a KV cache; logits exist for some rows at a time.
 * Memory is bounded whatever the items are.
 */
import { tf, type Tensor2D } from '../backend/tf.js';
import { NiftError } from '../errors.js';
import type { CausalLM } from './causalLM.js';
import { argmax, requireFinite } from './sampling.js';
import { checkTokenIds } from './tokenIds.js';

export interface ScoreItem {
  /** Empty stands for the beginning-of-text token. */
  contextIds: Int32Array;
  /** At least one token. */
  continuationIds: Int32Array;
}

export interface Score {
  /** Sum of `tokenLogprobs`, in nats. */
  logprob: number;
  /** Whether greedy decoding would have given the continuation. */
  isGreedy: boolean;
  numTokens: number;
  tokenLogprobs: number[];
}

export interface ScoreOptions {
  /** Tokens of one forward pass; default 2048. */
  batchTokens?: number;
  /** After each pass: items done so far. */
  onProgress?: (done: number) => void;
}

const DEFAULT_BATCH_TOKENS = 2048;
/** Logits held at a time. */
const LOGIT_BYTES = 32 * 2 ** 20;

/** An item as it is fed: the last token is only predicted, never fed. */
interface Feed {
  index: number;
  tokens: Int32Array;
  /** Tokens to predict, by the last `targets.length` fed ones. */
  targets: Int32Array;
}

/**
 * Scores every item.
 * @returns one score per item, in order
 * @throws NIFT_USAGE, NIFT_TOKEN_ID, NIFT_CONTEXT_LENGTH before anything runs
 */
export function score(model: CausalLM, items: readonly ScoreItem[], options: ScoreOptions = {}): Score[] {
  const budget = options.batchTokens ?? DEFAULT_BATCH_TOKENS;
  if (!(Number.isInteger(budget) && budget >= 1))
    throw new NiftError('NIFT_USAGE', `score: batch of ${budget} tokens must be at least 1.`);
  const feeds = items.map((item, index) => feedOf(model, item, index));
  const scores: Score[] = items.map(({ continuationIds }) => ({
    logprob: 0,
    isGreedy: true,
    numTokens: continuationIds.length,
    tokenLogprobs: [],
  }));
  let at = 0;
  while (at < feeds.length) {
    const batch = [feeds[at++]!];
    let tokens = batch[0]!.tokens.length;
    while (at < feeds.length && tokens + feeds[at]!.tokens.length <= budget) {
      tokens += feeds[at]!.tokens.length;
      batch.push(feeds[at++]!);
    }
    if (tokens > budget) scoreLong(model, batch[0]!, scores, budget);
    else scorePacked(model, batch, scores);
    options.onProgress?.(at);
  }
  for (const result of scores) result.logprob = result.tokenLogprobs.reduce((sum, value) => sum + value, 0);
  return scores;
}

function feedOf(model: CausalLM, { contextIds, continuationIds }: ScoreItem, index: number): Feed {
  const { bosTokenId, vocabSize, contextLength } = model.config;
  if (continuationIds.length === 0) throw new NiftError('NIFT_USAGE', `score: the continuation of item ${index} has no tokens.`);
  if (contextIds.length === 0 && bosTokenId === null) {
    throw new NiftError('NIFT_USAGE', `score: item ${index} has no context, and the model names no beginning-of-text token.`, {
      hint: 'Give at least one context token.',
    });
  }
  const context = contextIds.length > 0 ? contextIds : Int32Array.of(bosTokenId!);
  const whole = new Int32Array(context.length + continuationIds.length);
  whole.set(context);
  whole.set(continuationIds, context.length);
  checkTokenIds(whole, [0, whole.length], vocabSize, `item ${index}: token id`);
  const tokens = whole.subarray(0, -1);
  if (tokens.length > contextLength) {
    throw new NiftError(
      'NIFT_CONTEXT_LENGTH',
      `item ${index} has ${tokens.length} tokens, the model's context is ${contextLength} tokens.`,
      {
        hint: 'Cut the context from the left.',
        details: { item: index, tokens: tokens.length, contextLength },
      },
    );
  }
  return { index, tokens, targets: continuationIds };
}

/** A row of hidden states whose successor is asked for. */
interface Target {
  row: number;
  token: number;
  score: Score;
}

function scorePacked(model: CausalLM, batch: readonly Feed[], scores: readonly Score[]): void {
  const cuSeqlens = new Int32Array(batch.length + 1);
  batch.forEach(({ tokens }, b) => (cuSeqlens[b + 1] = cuSeqlens[b]! + tokens.length));
  const inputIds = new Int32Array(cuSeqlens[batch.length]!);
  batch.forEach(({ tokens }, b) => inputIds.set(tokens, cuSeqlens[b]));
  const targets = batch.flatMap((feed, b): Target[] => {
    const first = cuSeqlens[b + 1]! - feed.targets.length;
    return Array.from(feed.targets, (token, i) => ({ row: first + i, token, score: scores[feed.index]! }));
  });
  const hidden = model.hidden({ inputIds, cuSeqlens });
  try {
    scoreRows(targets, model.config.vocabSize, (rows) => model.logitsOf(hidden, rows));
  } finally {
    hidden.dispose();
  }
}

/** One item that exceeds a pass: in pieces of `budget` tokens, the cache remembering what came before. */
function scoreLong(model: CausalLM, feed: Feed, scores: readonly Score[], budget: number): void {
  const { tokens, targets } = feed;
  const cache = model.createCache(1, tokens.length);
  const firstTarget = tokens.length - targets.length;
  const piece = Math.min(budget, rowsPerChunk(model.config.vocabSize));
  try {
    for (let at = 0; at < tokens.length; at += piece) {
      const part = tokens.subarray(at, at + piece);
      const from = Math.max(0, firstTarget - at);
      const rows = Int32Array.from({ length: Math.max(0, part.length - from) }, (_, i) => from + i);
      const logits = model.step(part, Int32Array.of(part.length), cache, rows);
      if (logits === null) continue;
      readLogits(
        logits,
        Array.from(rows, (row) => ({ row, token: targets[at + row - firstTarget]!, score: scores[feed.index]! })),
      );
    }
  } finally {
    cache.dispose();
  }
}

function scoreRows(targets: readonly Target[], vocabSize: number, logitsOf: (rows: Int32Array) => Tensor2D): void {
  const chunk = rowsPerChunk(vocabSize);
  for (let at = 0; at < targets.length; at += chunk) {
    const part = targets.slice(at, at + chunk);
    readLogits(logitsOf(Int32Array.from(part, ({ row }) => row)), part);
  }
}

const rowsPerChunk = (vocabSize: number): number => Math.max(1, Math.floor(LOGIT_BYTES / 4 / vocabSize));

/** Adds what the logits [targets, V] say to the scores, and disposes them. */
function readLogits(logits: Tensor2D, targets: readonly Target[]): void {
  const width = logits.shape[1];
  const logSums = tf.tidy(() => tf.logSumExp(logits, -1).dataSync());
  const values = logits.dataSync() as Float32Array;
  targets.forEach(({ token, score: result }, i) => {
    const row = values.subarray(i * width, (i + 1) * width);
    requireFinite(logSums[i]!, 'the sum over the vocabulary');
    result.tokenLogprobs.push(row[token]! - logSums[i]!);
    // The argmax is needed only while everything before was greedy too.
    result.isGreedy = result.isGreedy && argmax(row) === token;
  });
  logits.dispose();
}

/** Text to ids, with the tokenizer's special tokens (beginning-of-text) or without. */
export type Encode = (text: string, addSpecial: boolean) => ArrayLike<number>;

/**
 * Splits a text item into ids as lm-evaluation-harness does: white space at the end of the context moves to the continuation, the
 * whole is encoded as one string, and split after as many tokens as the context alone has. An empty context is the
 * beginning-of-text token.
 * @param addBos whether the context starts with it; an empty context always does
 */
export function encodePair(
  encode: Encode,
  bosTokenId: number | null,
  context: string,
  continuation: string,
  addBos = true,
): ScoreItem {
  if (context === '') {
    if (bosTokenId === null) throw new NiftError('NIFT_USAGE', 'score: an empty context needs a beginning-of-text token.');
    return { contextIds: Int32Array.of(bosTokenId), continuationIds: Int32Array.from(encode(continuation, false)) };
  }
  const kept = context.replace(TRAILING_SPACE, '');
  const whole = Int32Array.from(encode(context + continuation, addBos));
  const length = encode(kept, addBos).length;
  return { contextIds: whole.slice(0, length), continuationIds: whole.slice(length) };
}

/** What Python's str.rstrip() removes. */
const TRAILING_SPACE = /[\s\x1c-\x1f\x85]+$/;
