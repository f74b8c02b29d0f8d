/**
 * From turns to one row of ids and labels, cut as LLaMA-Factory 0.5.2 cuts.
 *
 * Truncation of a turn with s prompt tokens, t response tokens (end token included) and a budget of M:
 *   T = max(floor(M * (t / (s + t))), reserved),  S = M - T;  prompt[0:S] and response[0:T] stay.
 * Both keep their head, so a cut response has no end token. In double precision in this order of operations, which now and
 * then loses one token where exact arithmetic would not; agreeing with the original matters more.
 */
import type { EncodedTurn } from '../templates/index.js';
import { IGNORE_INDEX } from './batch.js';
import type { TokenRow } from './batch.js';

export interface TruncationOptions {
  /** Tokens per row at most. */
  cutoffLen: number;
  /** Response tokens kept at least. */
  reservedLabelLen: number;
}

/** Tokens of prompt and response that stay. */
export function truncatedLengths(prompt: number, response: number, budget: number, reserved: number): [number, number] {
  const share = Math.floor(budget * (response / (prompt + response)));
  const target = Math.min(Math.max(share, reserved), budget);
  return [Math.min(prompt, budget - target), Math.min(response, target)];
}

export interface EncodedRow extends TokenRow {
  truncated: boolean;
}

/** Turns in order; once cutoffLen is reached, later turns are left out. */
export function encodeRow(turns: readonly EncodedTurn[], options: TruncationOptions & { trainOnPrompt: boolean }): EncodedRow {
  const inputIds: number[] = [];
  const labels: number[] = [];
  let truncated = false;
  for (const { promptIds, responseIds } of turns) {
    const budget = options.cutoffLen - inputIds.length;
    if (budget <= 0) {
      truncated = true;
      break;
    }
    const [s, t] = truncatedLengths(promptIds.length, responseIds.length, budget, options.reservedLabelLen);
    truncated ||= s < promptIds.length || t < responseIds.length;
    for (const id of promptIds.slice(0, s)) {
      inputIds.push(id);
      labels.push(options.trainOnPrompt ? id : IGNORE_INDEX);
    }
    for (const id of responseIds.slice(0, t)) {
      inputIds.push(id);
      labels.push(id);
    }
  }
  return { inputIds: Int32Array.from(inputIds), labels: Int32Array.from(labels), truncated };
}
