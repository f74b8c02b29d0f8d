/**
 * What the paper asks of a fine-tuned model before any benchmark (section 6.3): does it answer, does it stop, does it repeat.
 * The paper judges by eye; here each question has a rule, so that before and after can be counted.
 */
import type { StopReason } from '../model/generate.js';

/** Words that a repeated phrase has at least. */
export const PHRASE_WORDS = 4;
/** A text repeats itself when more than this share of its phrases occurred in it before. */
export const REPEAT_LIMIT = 0.25;

export interface Answer {
  /** The new text. */
  text: string;
  stopReason: StopReason;
}

export interface AnswerMeasures {
  /** The text holds at least one word. */
  answers: boolean;
  /** It ended by itself, with the end token, before the token limit. */
  stops: boolean;
  /** It goes in circles: its share of repeated phrases is above REPEAT_LIMIT. */
  repeats: boolean;
  /** Share of the text's phrases of PHRASE_WORDS words that stood in it before, 0 ... 1. */
  repeatedShare: number;
  words: number;
}

export interface Measures {
  prompts: number;
  /** Counts of prompts. */
  answers: number;
  stops: number;
  repeats: number;
  /** Means over the prompts. */
  repeatedShare: number;
  words: number;
}

const wordsOf = (text: string): string[] => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];

/** Share of the phrases of `length` words that occurred earlier in the text; 0 for a text of fewer words. */
export function repeatedShare(text: string, length = PHRASE_WORDS): number {
  const words = wordsOf(text);
  const phrases = words.length - length + 1;
  if (phrases < 1) return 0;
  const seen = new Set<string>();
  for (let i = 0; i < phrases; i++) seen.add(words.slice(i, i + length).join(' '));
  return 1 - seen.size / phrases;
}

export function measureAnswer({ text, stopReason }: Answer): AnswerMeasures {
  const share = repeatedShare(text);
  const words = wordsOf(text).length;
  return { answers: words > 0, stops: stopReason === 'eos', repeats: share > REPEAT_LIMIT, repeatedShare: share, words };
}

/** Counts and means over all answers; zeros for none. */
export function measureAnswers(all: readonly Answer[]): Measures {
  const each = all.map(measureAnswer);
  const count = (has: (one: AnswerMeasures) => boolean): number => each.filter(has).length;
  const mean = (value: (one: AnswerMeasures) => number): number =>
    each.reduce((sum, one) => sum + value(one), 0) / Math.max(1, each.length);
  return {
    prompts: each.length,
    answers: count((one) => one.answers),
    stops: count((one) => one.stops),
    repeats: count((one) => one.repeats),
    repeatedShare: mean((one) => one.repeatedShare),
    words: mean((one) => one.words),
  };
}
