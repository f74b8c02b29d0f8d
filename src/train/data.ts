/** The rows of a recipe's datasets as the trainer takes them. */
import type { Recipe } from '../config/recipe.js';
import { countTargets, type TokenRow } from '../data/batch.js';
import type { Census, Tally } from '../data/census.js';
import { loadDatasets } from '../data/loadDataset.js';
import type { ModelConfig } from '../model/config.js';
import { getTemplate, type Template } from '../templates/index.js';
import { Tokenizer } from '../tokenizer/tokenizer.js';

export interface TrainingData {
  rows: TokenRow[];
  /** Supervised tokens of each row. */
  targets: Int32Array;
  /** What was read, kept, cut and dropped, by cause. */
  census: Census;
  /** SHA-256 of all ids and labels. */
  hash: string;
  /** What turned text into tokens; null when all rows came as ids. */
  template: Template | null;
}

/** @throws NIFT_DATASET_INFO, NIFT_JSON, NIFT_DATA_NO_LABELS, NIFT_TOKENIZER, NIFT_TEMPLATE_UNKNOWN, NIFT_FILE_*; the signal's reason */
export async function loadTrainingData({ values }: Recipe, config: ModelConfig, signal?: AbortSignal): Promise<TrainingData> {
  let tokenizer: Tokenizer | undefined;
  const template = getTemplate(values.template);
  const { rows, census, hash } = await loadDatasets({
    datasetDir: values.dataset_dir,
    datasets: values.dataset,
    maxSamples: values.max_samples,
    cutoffLen: values.cutoff_len,
    reservedLabelLen: values.reserved_label_len,
    trainOnPrompt: values.train_on_prompt,
    addBos: values.add_bos,
    template,
    tokenizer: () => (tokenizer ??= Tokenizer.load(values.model_name_or_path)),
    vocabSize: config.vocabSize,
    ...(config.eosTokenIds.length > 0 ? { eosIds: config.eosTokenIds } : {}),
    ...(signal === undefined ? {} : { signal }),
  });
  const targets = Int32Array.from(rows, (row) => countTargets(row.labels));
  return { rows, census, hash, targets, template: tokenizer === undefined ? null : template };
}

/** One sentence for everything that was dropped, cut, or does not teach the model to stop. */
export function censusWarnings(census: Census): string[] {
  const where = ({ first }: Tally): string => (first.length === 0 ? '' : ` (first ${first[0]})`);
  const warnings = Object.entries(census.dropped).map(
    ([cause, entry]) => `${entry.count} of ${census.rowsRead} rows are dropped: ${cause}${where(entry)}`,
  );
  if (census.truncated.count > 0)
    warnings.push(`${census.truncated.count} of ${census.rowsKept} rows are cut to cutoff_len${where(census.truncated)}`);
  const endless = census.withoutEos;
  if (endless !== null && endless.count > 0)
    warnings.push(
      `${endless.count} of ${census.rowsKept} rows do not end in a trained end token${where(endless)}: ` +
        'the model does not learn to stop from them',
    );
  return [...warnings, ...census.notices];
}
