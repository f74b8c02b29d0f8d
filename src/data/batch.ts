/**
 * Rows of tokens joined end to end. No padding exists anywhere: sequences are told apart by cumulative lengths.
 */
import { NiftError } from '../errors.js';

/** Label of a token that is no target. */
export const IGNORE_INDEX = -100;

/** One training row: `labels` has the length of `inputIds` and is not shifted. */
export interface TokenRow {
  inputIds: Int32Array;
  /** -100 or a token id; labels[t + 1] is what position t predicts, labels[0] is never a target. */
  labels: Int32Array;
}

export interface PackedBatch {
  /** [N], N = tokens of all rows. */
  inputIds: Int32Array;
  /** [N], not shifted. */
  labels: Int32Array;
  /** [B + 1]: row b lies at cuSeqlens[b] .. cuSeqlens[b + 1]. */
  cuSeqlens: Int32Array;
}

/** @throws NiftError NIFT_DATA_ROW when ids and labels of a row differ in length, NIFT_USAGE without rows */
export function collate(rows: readonly TokenRow[]): PackedBatch {
  if (rows.length === 0) throw new NiftError('NIFT_USAGE', 'a batch needs at least one row');
  const cuSeqlens = new Int32Array(rows.length + 1);
  rows.forEach((row, b) => {
    if (row.inputIds.length !== row.labels.length) {
      throw new NiftError('NIFT_DATA_ROW', `row ${b} has ${row.inputIds.length} ids and ${row.labels.length} labels`);
    }
    cuSeqlens[b + 1] = cuSeqlens[b]! + row.inputIds.length;
  });
  const total = cuSeqlens[rows.length]!;
  const batch = { inputIds: new Int32Array(total), labels: new Int32Array(total), cuSeqlens };
  rows.forEach((row, b) => {
    batch.inputIds.set(row.inputIds, cuSeqlens[b]);
    batch.labels.set(row.labels, cuSeqlens[b]);
  });
  return batch;
}

/** The target of each packed position: the label of the next token of the same row, -100 where there is none. [N] */
export function shiftLabels(batch: PackedBatch): Int32Array {
  const { labels, cuSeqlens } = batch;
  const targets = new Int32Array(labels.length).fill(IGNORE_INDEX);
  for (let b = 0; b + 1 < cuSeqlens.length; b++) {
    for (let t = cuSeqlens[b]!; t + 1 < cuSeqlens[b + 1]!; t++) targets[t] = labels[t + 1]!;
  }
  return targets;
}

/** Targets that the loss of a row, or of a whole batch, is summed over. */
export function countTargets(labels: Int32Array, cuSeqlens: ArrayLike<number> = [0, labels.length]): number {
  let count = 0;
  for (let b = 0; b + 1 < cuSeqlens.length; b++) {
    for (let t = cuSeqlens[b]! + 1; t < cuSeqlens[b + 1]!; t++) if (labels[t] !== IGNORE_INDEX) count++;
  }
  return count;
}
