/**
 * Choosing the next token from one row of logits. The order is transformers': repetition penalty, temperature, top-k, top-p,
 * draw. Each sequence draws from its own stream of the seed, so its text does not depend on what else is in the batch.
 *
 * Source: transformers generation/logits_process.py; Holtzman et al., nucleus sampling (arXiv:1904.09751);
 * Keskar et al., repetition penalty (arXiv:1909.05858, section 4.1).
 */
import { NiftError } from '../errors.js';
import { Random } from '../random.js';

export interface SamplingOptions {
  /** 0 (default) takes the most likely token, whatever the other settings. */
  temperature?: number;
  /** Only the k most likely tokens (ties with the k-th too); 0 (default) = all. */
  topK?: number;
  /** Only the fewest most likely tokens whose probabilities reach this sum; 1 (default) = all. */
  topP?: number;
  /** Divides positive and multiplies negative scores of tokens seen so far, prompt included; 1 (default) = off. */
  repetitionPenalty?: number;
  /** Default 42. */
  seed?: number;
}

/** @throws NIFT_USAGE for a setting out of range */
export function checkSampling(options: SamplingOptions): void {
  const { temperature = 0, topK = 0, topP = 1, repetitionPenalty = 1, seed = 42 } = options;
  const fail = (what: string): never => {
    throw new NiftError('NIFT_USAGE', `sampling: ${what}.`);
  };
  if (!(temperature >= 0 && Number.isFinite(temperature))) fail(`temperature is ${temperature}, expected 0 or more`);
  if (!(Number.isInteger(topK) && topK >= 0)) fail(`top_k is ${topK}, expected a whole number, 0 = off`);
  if (!(topP > 0 && topP <= 1)) fail(`top_p is ${topP}, expected a number in (0, 1]`);
  if (!(repetitionPenalty > 0 && Number.isFinite(repetitionPenalty)))
    fail(`repetition_penalty is ${repetitionPenalty}, expected a positive number`);
  if (!(Number.isSafeInteger(seed) && seed >= 0)) fail(`seed is ${seed}, expected a whole number, 0 or more`);
}

/** Draws the tokens of one sequence. */
export class Sampler {
  private readonly random: Random;
  private readonly seen: Set<number> | null;

  /**
   * @param stream which stream of the seed; the index of the prompt
   * @param prompt its tokens count as seen
   */
  constructor(
    private readonly options: SamplingOptions,
    stream: number,
    prompt: Int32Array,
  ) {
    this.random = new Random(options.seed ?? 42, stream);
    this.seen = (options.repetitionPenalty ?? 1) === 1 ? null : new Set(prompt);
  }

  /**
   * The next token for logits [V], which are overwritten.
   * @throws NIFT_NON_FINITE when there is no largest number among them
   */
  next(logits: Float32Array): number {
    const { temperature = 0, repetitionPenalty = 1 } = this.options;
    for (const id of this.seen ?? []) {
      const score = logits[id]!;
      logits[id] = score < 0 ? score * repetitionPenalty : score / repetitionPenalty;
    }
    const likeliest = argmax(logits);
    requireFinite(logits[likeliest]!, 'the largest logit');
    const token = temperature === 0 ? likeliest : this.draw(logits, temperature, logits[likeliest]!);
    this.seen?.add(token);
    return token;
  }

  private draw(logits: Float32Array, temperature: number, largest: number): number {
    const { topK = 0, topP = 1 } = this.options;
    let least = -Infinity;
    if (topK > 0 && topK < logits.length) least = kthLargest(logits, topK);
    let ids: Int32Array | null = null;
    const weights = new Float64Array(logits.length);
    let total = 0;
    for (let i = 0; i < logits.length; i++) {
      if (logits[i]! < least) continue;
      // Subtracting the largest before dividing keeps a tiny temperature finite.
      weights[i] = Math.exp((logits[i]! - largest) / temperature);
      total += weights[i]!;
    }
    if (topP < 1) ({ ids, total } = nucleus(weights, total, topP));
    const target = this.random.uniform() * total;
    let sum = 0;
    let last = 0;
    for (let i = 0; i < (ids ?? weights).length; i++) {
      const id = ids === null ? i : ids[i]!;
      if (weights[id] === 0) continue;
      last = id;
      sum += weights[id]!;
      if (sum > target) break;
    }
    return last;
  }
}

/** A model that overflows must not go on to write nonsense. @throws NIFT_NON_FINITE */
export function requireFinite(value: number, what: string): void {
  if (Number.isFinite(value)) return;
  throw new NiftError('NIFT_NON_FINITE', `${what} is ${value}.`, {
    hint: 'Are the weights sound? With --dtype float16 values above 65504 overflow: try float32 or bfloat16. NIFT_CHECK=1 names the op.',
    exitCode: 1,
  });
}

/** Index of the largest value, the first of equals; of the first NaN when there is one. */
export function argmax(values: Float32Array): number {
  let best = 0;
  let largest = values[0]!;
  for (let i = 1; i < values.length; i++) {
    const value = values[i]!;
    if (value <= largest) continue;
    // Neither at most nor above: one of the two is NaN.
    if (!(value > largest)) return Number.isNaN(largest) ? best : i;
    largest = value;
    best = i;
  }
  return best;
}

/** The most likely tokens, in order, up to the one with which they reach `topP` of the total. */
function nucleus(weights: Float64Array, total: number, topP: number): { ids: Int32Array; total: number } {
  // All tokens below this weight together hold at most 1 - topP, so none of them is in the nucleus: no need to sort them.
  const floor = ((1 - topP) * total) / weights.length;
  const candidates: number[] = [];
  for (let i = 0; i < weights.length; i++) if (weights[i]! > 0 && weights[i]! >= floor) candidates.push(i);
  candidates.sort((a, b) => weights[b]! - weights[a]! || a - b);
  let sum = 0;
  let count = 0;
  while (count < candidates.length && sum < topP * total) sum += weights[candidates[count++]!]!;
  return { ids: Int32Array.from(candidates.slice(0, Math.max(1, count))), total: sum };
}

/** The k-th largest of the values, by a heap of the k largest so far with the least of them on top. */
function kthLargest(values: Float32Array, k: number): number {
  const heap = values.slice(0, k).sort();
  for (let i = k; i < values.length; i++) {
    const value = values[i]!;
    if (value > heap[0]!) sift(heap, value);
  }
  return heap[0]!;
}

/** Replaces the least of a heap. */
function sift(heap: Float32Array, value: number): void {
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= heap.length) break;
    if (child + 1 < heap.length && heap[child + 1]! < heap[child]!) child++;
    if (heap[child]! >= value) break;
    heap[at] = heap[child]!;
    at = child;
  }
  heap[at] = value;
}
