/**
 * Byte-pair merging over token ids, in place of the library's over strings: the same merges in the same order (lowest rank
 * first, then leftmost), without joining and hashing strings for every pair. Llama-2's tokenizer has no pre-tokenizer, so a
 * whole document is one word: 300 web texts of 2.5 KB take 0.6 s instead of 4.9 s, joined into one 0.7 s instead of 21 s
 * (450,000 tokens, 2 busy cores of a Xeon).
 *
 * Source: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units" (2016); heap with stale entries.
 */
import type { BpeModel } from './library.js';

const CACHE_WORDS = 20_000;
const CACHE_LENGTH = 64;
/** Heap keys are rank * 2^32 + position: exact in a double while ranks stay below 2^21. */
const POSITIONS = 2 ** 32;
const MAX_RANKS = 2 ** 21;

interface MergeTable {
  /** left id * size + right id -> rank */
  ranks: Map<number, number>;
  /** rank -> id of the merged token */
  results: Int32Array;
  size: number;
}

/** Replaces `model.bpe` where the merge rules allow it; a model with subword prefixes or suffixes is left as it is. */
export function speedUpBpe(model: BpeModel): void {
  if (!Array.isArray(model.merges) || model.end_of_word_suffix || model.continuing_subword_suffix) return;
  if (model.config.continuing_subword_prefix || model.merges.length >= MAX_RANKS) return;
  const table = mergeTable(model);
  if (table === null) return;
  const cache = new Map<string, string[]>();
  model.bpe = (word) => {
    const known = cache.get(word);
    if (known !== undefined) return known;
    const tokens = mergeWord(word, model, table);
    if (word.length <= CACHE_LENGTH) {
      if (cache.size >= CACHE_WORDS) cache.clear();
      cache.set(word, tokens);
    }
    return tokens;
  };
}

function mergeTable(model: BpeModel): MergeTable | null {
  const size = model.vocab.length;
  const ranks = new Map<number, number>();
  const results = new Int32Array(model.merges.length);
  for (const [rank, [left, right]] of model.merges.entries()) {
    const a = model.tokens_to_ids.get(left);
    const b = model.tokens_to_ids.get(right);
    const merged = model.tokens_to_ids.get(left + right);
    if (a === undefined || b === undefined || merged === undefined) return null;
    ranks.set(a * size + b, rank);
    results[rank] = merged;
  }
  return { ranks, results, size };
}

/** Symbols of one word as a doubly linked list in arrays; a merge keeps the left symbol's place. */
function mergeWord(word: string, model: BpeModel, table: MergeTable): string[] {
  const characters = Array.from(word);
  const n = characters.length;
  const ids = Int32Array.from(characters, (character) => model.tokens_to_ids.get(character) ?? -1);
  const next = Int32Array.from({ length: n }, (_, i) => (i + 1 < n ? i + 1 : -1));
  const previous = Int32Array.from({ length: n }, (_, i) => i - 1);
  /** Rank of the pair that begins at a place, -1 = none; a heap entry that says otherwise is stale. */
  const pairRank = new Int32Array(n).fill(-1);
  const heap = new MinHeap();
  const refresh = (at: number): void => {
    const right = next[at]!;
    const pair = right < 0 || ids[at]! < 0 || ids[right]! < 0 ? undefined : table.ranks.get(ids[at]! * table.size + ids[right]!);
    pairRank[at] = pair ?? -1;
    if (pair !== undefined) heap.push(pair * POSITIONS + at);
  };
  for (let i = 0; i + 1 < n; i++) refresh(i);
  while (heap.size > 0) {
    const key = heap.pop();
    const rank = Math.floor(key / POSITIONS);
    const at = key - rank * POSITIONS;
    if (pairRank[at] !== rank) continue;
    const right = next[at]!;
    const after = next[right]!;
    ids[at] = table.results[rank]!;
    next[at] = after;
    if (after >= 0) previous[after] = at;
    pairRank[right] = -1;
    refresh(at);
    if (previous[at]! >= 0) refresh(previous[at]!);
  }
  const tokens: string[] = [];
  for (let i = n > 0 ? 0 : -1; i >= 0; i = next[i]!) tokens.push(ids[i]! < 0 ? characters[i]! : model.vocab[ids[i]!]!);
  return tokens;
}

class MinHeap {
  private keys = new Float64Array(64);
  size = 0;

  push(key: number): void {
    if (this.size === this.keys.length) {
      const larger = new Float64Array(2 * this.size);
      larger.set(this.keys);
      this.keys = larger;
    }
    let i = this.size++;
    for (; i > 0;) {
      const parent = (i - 1) >> 1;
      if (this.keys[parent]! <= key) break;
      this.keys[i] = this.keys[parent]!;
      i = parent;
    }
    this.keys[i] = key;
  }

  pop(): number {
    const top = this.keys[0]!;
    const last = this.keys[--this.size]!;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= this.size) break;
      if (child + 1 < this.size && this.keys[child + 1]! < this.keys[child]!) child++;
      if (this.keys[child]! >= last) break;
      this.keys[i] = this.keys[child]!;
      i = child;
    }
    this.keys[i] = last;
    return top;
  }
}
