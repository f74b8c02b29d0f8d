/** What became of every row that was read. Nothing is dropped or cut without standing here. */
import path from 'node:path';
import { NiftError } from '../errors.js';

/** How many places of one cause are kept. */
const PLACES = 20;

export interface Tally {
  count: number;
  /** The first 20, as "file:line". */
  first: string[];
}

export interface DatasetCount {
  name: string;
  file: string;
  read: number;
  kept: number;
}

export interface Census {
  datasets: DatasetCount[];
  rowsRead: number;
  rowsKept: number;
  /** By cause, in words. */
  dropped: Record<string, Tally>;
  /** Rows cut to cutoff_len. */
  truncated: Tally;
  /** Rows whose last token is no trained end token: the model does not learn from them to stop. Null without a tokenizer. */
  withoutEos: Tally | null;
  tokens: number;
  supervisedTokens: number;
  /** One sentence each. */
  notices: string[];
}

export const emptyTally = (): Tally => ({ count: 0, first: [] });

export function tally(entry: Tally, place: string): void {
  entry.count++;
  if (entry.first.length < PLACES) entry.first.push(place);
}

export function emptyCensus(): Census {
  return {
    datasets: [],
    rowsRead: 0,
    rowsKept: 0,
    dropped: {},
    truncated: emptyTally(),
    withoutEos: null,
    tokens: 0,
    supervisedTokens: 0,
    notices: [],
  };
}

/** "qa.jsonl:212" */
export const placeOf = (file: string, line: number): string => `${path.basename(file)}:${line}`;

/** @throws NiftError NIFT_DATA_NO_LABELS when no row is left, with what became of them */
export function requireRows(census: Census): void {
  if (census.rowsKept > 0) return;
  const causes = Object.entries(census.dropped).map(([cause, { count, first }]) => `${count} x ${cause} (first ${first[0]})`);
  const names = census.datasets.map((dataset) => dataset.name).join(', ');
  const found = census.rowsRead === 0 ? 'the files hold no rows' : causes.join('; ');
  throw new NiftError('NIFT_DATA_NO_LABELS', `${names}: none of ${census.rowsRead} rows has a token to train on: ${found}`, {
    hint: 'check the columns in dataset_info.json against the keys in the file',
    details: { census },
  });
}
