/**
 * Halving: the first part of an article becomes the prompt, the second part the original continuation.
 *
 * A word is a maximal run of non-whitespace. With n words the first part has k of them, k uniform on the whole numbers
 * floor(n/4) ... floor(3n/4), both ends included. The text is cut at character offsets, so that line breaks inside the parts
 * survive; only the whitespace at the seam goes.
 */
import type { Random } from '../random.js';

/** Both parts have at least two words from here on. */
export const MIN_WORDS = 8;

export interface Halves {
  /** Words 1 ... k, from the beginning of the text to the end of word k. */
  first: string;
  /** Words k+1 ... n, from the beginning of word k+1 to the end of the text. */
  second: string;
  /** n */
  words: number;
  /** k */
  cut: number;
}

/** Smallest and largest number of words that the first part of an n-word article may have. */
export function cutRange(words: number): [number, number] {
  return [Math.floor(words / 4), Math.floor((3 * words) / 4)];
}

/**
 * Cuts one article in two; draws exactly one number.
 * @returns null when the text has fewer than {@link MIN_WORDS} words (then nothing is drawn)
 */
export function halve(text: string, random: Random): Halves | null {
  const ends: number[] = [];
  const starts: number[] = [];
  for (const match of text.matchAll(/\S+/gu)) {
    starts.push(match.index);
    ends.push(match.index + match[0].length);
  }
  const words = starts.length;
  if (words < MIN_WORDS) return null;
  const [low, high] = cutRange(words);
  const cut = low + random.integer(high - low + 1);
  return { first: text.slice(0, ends[cut - 1]), second: text.slice(starts[cut]), words, cut };
}
