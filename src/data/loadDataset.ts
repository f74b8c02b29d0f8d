/** From dataset names to rows of tokens, with a census of what was kept, cut and dropped. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { guardIo } from '../formats/io.js';
import type { Template } from '../templates/index.js';
import type { Tokenizer } from '../tokenizer/tokenizer.js';
import { alignAlpaca } from './alpaca.js';
import { countTargets } from './batch.js';
import type { TokenRow } from './batch.js';
import { emptyCensus, emptyTally, placeOf, requireRows, tally } from './census.js';
import type { Census } from './census.js';
import { readDatasetInfo } from './datasetInfo.js';
import type { DatasetEntry } from './datasetInfo.js';
import { encodeRow } from './encodeRow.js';
import type { EncodedRow, TruncationOptions } from './encodeRow.js';
import { readPretokenized } from './pretokenized.js';
import { readRows } from './readRows.js';
import type { SourceRow } from './readRows.js';

export interface LoadOptions extends TruncationOptions {
  datasetDir: string;
  datasets: readonly string[];
  /** First N rows of each dataset. */
  maxSamples: number | null;
  trainOnPrompt: boolean;
  addBos: boolean;
  template: Template;
  /** Asked for only when a dataset holds text, so that a checkpoint without one can train on ids. */
  tokenizer: () => Tokenizer;
  /** End tokens by which pretokenized rows are judged; without them only rows of text are. */
  eosIds?: readonly number[];
  /** Rows of the model's embedding: a row with an id from there on is dropped. */
  vocabSize?: number;
  /** Called now and then with the number of rows read. */
  onProgress?: (rows: number) => void;
  signal?: AbortSignal;
}

export interface LoadedData {
  rows: TokenRow[];
  census: Census;
  /** SHA-256 over all ids and labels: two runs with equal hashes train on the same rows in the same order. */
  hash: string;
}

/** Time between two returns to the event loop, so that signals and progress get through. */
const SLICE_MS = 50;

/**
 * @throws NiftError NIFT_DATASET_INFO, NIFT_JSON (file:line), NIFT_FILE_*, NIFT_TOKENIZER, NIFT_DATA_NO_LABELS when no row is
 *   left; options.signal's reason when aborted
 */
export async function loadDatasets(options: LoadOptions): Promise<LoadedData> {
  const entries = readDatasetInfo(options.datasetDir, options.datasets);
  const census = emptyCensus();
  const rows: TokenRow[] = [];
  const digest = createHash('sha256');
  let pause = performance.now() + SLICE_MS;
  for (const entry of entries) {
    checkSha1(entry, census);
    const encode = encoder(entry, options);
    const endIds = entry.formatting === 'pretokenized' ? options.eosIds : options.template.stopIds(options.tokenizer());
    const count = { name: entry.name, file: entry.file, read: 0, kept: 0 };
    census.datasets.push(count);
    for (const source of readRows(entry.file)) {
      if (count.read === options.maxSamples) break;
      count.read++;
      census.rowsRead++;
      const row = keep(encode, source, placeOf(entry.file, source.line), census, endIds, options.vocabSize);
      if (row !== null) {
        count.kept++;
        rows.push(row);
        addToDigest(digest, row);
      }
      if (performance.now() < pause) continue;
      options.onProgress?.(census.rowsRead);
      await new Promise((resolve) => setImmediate(resolve));
      options.signal?.throwIfAborted();
      pause = performance.now() + SLICE_MS;
    }
  }
  census.rowsKept = rows.length;
  requireRows(census);
  return { rows, census, hash: digest.digest('hex') };
}

type Encode = (source: SourceRow) => EncodedRow | string;

function encoder(entry: DatasetEntry, options: LoadOptions): Encode {
  if (entry.formatting === 'pretokenized') return ({ value }) => readPretokenized(value, entry.columns, options);
  const tokenizer = options.tokenizer();
  return ({ value }) => {
    const conversation = alignAlpaca(value, entry.columns);
    if (typeof conversation === 'string') return conversation;
    return encodeRow(options.template.encodeTurns(tokenizer, conversation, { addBos: options.addBos }), options);
  };
}

/** Encodes and counts one row; null when it is dropped. */
function keep(
  encode: Encode,
  source: SourceRow,
  place: string,
  census: Census,
  endIds: readonly number[] | undefined,
  vocabSize: number | undefined,
): TokenRow | null {
  const row = checkVocabulary(encode(source), vocabSize);
  const targets = typeof row === 'string' ? 0 : countTargets(row.labels);
  if (typeof row === 'string' || targets === 0) {
    const cause = typeof row === 'string' ? row : 'no token to train on';
    tally((census.dropped[cause] ??= emptyTally()), place);
    return null;
  }
  const { inputIds, labels, truncated } = row;
  if (truncated) tally(census.truncated, place);
  if (endIds !== undefined) {
    census.withoutEos ??= emptyTally();
    if (!endIds.includes(labels[labels.length - 1]!)) tally(census.withoutEos, place);
  }
  census.tokens += inputIds.length;
  census.supervisedTokens += targets;
  return { inputIds, labels };
}

function checkVocabulary(row: EncodedRow | string, vocabSize: number | undefined): EncodedRow | string {
  if (typeof row === 'string' || vocabSize === undefined) return row;
  const inside = row.inputIds.every((id) => id < vocabSize) && row.labels.every((label) => label < vocabSize);
  return inside ? row : `a token id is outside the model's vocabulary of ${vocabSize}`;
}

function addToDigest(digest: ReturnType<typeof createHash>, row: TokenRow): void {
  digest.update(Uint32Array.of(row.inputIds.length));
  digest.update(row.inputIds);
  digest.update(row.labels);
}

/** As in LLaMA-Factory, a wrong checksum is said and no more. */
function checkSha1(entry: DatasetEntry, census: Census): void {
  if (entry.sha1 === null) return;
  const found = guardIo(entry.file, 'read', () => createHash('sha1').update(readFileSync(entry.file)).digest('hex'));
  if (found !== entry.sha1) census.notices.push(`${entry.file}: SHA-1 is ${found}, dataset_info.json says ${entry.sha1}`);
}
