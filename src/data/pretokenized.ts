/** Lines of {"input_ids", "labels"}: taken as they are, after checking every number. */
import { isJsonObject } from '../formats/jsonText.js';
import type { JsonValue } from '../formats/jsonText.js';
import { IGNORE_INDEX } from './batch.js';
import type { PretokenizedColumns } from './datasetInfo.js';
import type { EncodedRow } from './encodeRow.js';

const MAX_ID = 2 ** 31 - 1;

/**
 * The row's ids and labels, its head only when longer than `cutoffLen`, or the cause why it cannot be used. Whether the ids
 * are in the vocabulary is checked with those of all other rows.
 */
export function readPretokenized(
  row: JsonValue,
  columns: PretokenizedColumns,
  options: { cutoffLen: number },
): EncodedRow | string {
  if (!isJsonObject(row)) return 'the row is no JSON object';
  const ids = row[columns.input_ids];
  const labels = row[columns.labels];
  if (!Array.isArray(ids)) return `${columns.input_ids} is no list`;
  if (!Array.isArray(labels)) return `${columns.labels} is no list`;
  if (ids.length === 0) return `${columns.input_ids} is empty`;
  if (ids.length !== labels.length) return `${columns.input_ids} and ${columns.labels} differ in length`;
  const isId = (id: JsonValue): boolean => Number.isInteger(id) && (id as number) >= 0 && (id as number) <= MAX_ID;
  if (!ids.every(isId)) return `${columns.input_ids} holds something that is no token id`;
  if (!labels.every((label) => label === IGNORE_INDEX || isId(label)))
    return `${columns.labels} holds something that is no token id`;
  return {
    inputIds: Int32Array.from((ids as number[]).slice(0, options.cutoffLen)),
    labels: Int32Array.from((labels as number[]).slice(0, options.cutoffLen)),
    truncated: ids.length > options.cutoffLen,
  };
}
