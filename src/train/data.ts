/** The rows of a recipe's datasets as the trainer takes them. */
import type { Recipe } from '../config/recipe.js';
import { countTargets, type TokenRow } from '../data/batch.js';
import { readDatasetInfo } from '../data/datasetInfo.js';
import { readRows } from '../data/readRows.js';
import { NiftError } from '../errors.js';

export interface TrainingData {
  rows: TokenRow[];
  /** Supervised tokens of each row. */
  targets: Int32Array;
  /** What was read, kept and dropped, by reason. */
  census: object;
}

/** @throws NIFT_DATASET_INFO, NIFT_DATA_ROW, NIFT_DATA_NO_LABELS, NIFT_TOKENIZER, ... */
export async function loadTrainingData(recipe: Recipe): Promise<TrainingData> {
  await Promise.resolve();
  const rows: TokenRow[] = [];
  for (const entry of readDatasetInfo(recipe.values.dataset_dir, recipe.values.dataset)) {
    for (const { value } of readRows(entry.file)) {
      const row = value as unknown as { input_ids: number[]; labels: number[] };
      rows.push({ inputIds: Int32Array.from(row.input_ids), labels: Int32Array.from(row.labels) });
    }
  }
  return trainingData(rows, {});
}

/** @throws NIFT_DATA_NO_LABELS when no row trains anything */
export function trainingData(rows: TokenRow[], census: object): TrainingData {
  const targets = Int32Array.from(rows, (row) => countTargets(row.labels));
  if (targets.every((count) => count === 0))
    throw new NiftError('NIFT_DATA_NO_LABELS', `none of the ${rows.length} training rows has a supervised token`, {
      hint: 'Look at the labels: -100 marks tokens that are not trained; the first token of a row is never a target.',
      details: { rows: rows.length },
    });
  return { rows, targets, census };
}
