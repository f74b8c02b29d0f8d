/**
 * dataset_info.json in LLaMA-Factory's form: what a dataset's name stands for.
 *
 * `columns` replaces all defaults at once: a column that it does not list is unset. Only the entries in use are checked, so a
 * file with remote or preference data sets beside ours is fine.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { NiftError, nearest, quote } from '../errors.js';
import { isJsonObject, readJsonObject } from '../formats/jsonText.js';
import type { JsonObject, JsonValue } from '../formats/jsonText.js';

export interface AlpacaColumns {
  prompt: string | null;
  query: string | null;
  response: string | null;
  history: string | null;
  system: string | null;
}

export interface PretokenizedColumns {
  input_ids: string;
  labels: string;
}

export type DatasetFormat =
  { formatting: 'alpaca'; columns: AlpacaColumns } | { formatting: 'pretokenized'; columns: PretokenizedColumns };

export type DatasetEntry = DatasetFormat & { name: string; file: string; sha1: string | null };

const ENTRY_KEYS = [
  ...['hf_hub_url', 'ms_hub_url', 'om_hub_url', 'script_url', 'cloud_file_name', 'file_name', 'file_sha1', 'subset', 'folder'],
  ...['split', 'num_samples', 'ranking', 'formatting', 'columns', 'tags'],
];
const FORMATS = ['alpaca', 'sharegpt', 'openai', 'pretokenized'];
const ALPACA_DEFAULTS: AlpacaColumns = { prompt: 'instruction', query: 'input', response: 'output', history: null, system: null };
const ALPACA_KEYS = Object.keys(ALPACA_DEFAULTS) as (keyof AlpacaColumns)[];
/** Columns of LLaMA-Factory that mean something we do not do: refused rather than left out. */
const OTHER_COLUMNS = ['messages', 'tools', 'images', 'videos', 'audios', 'chosen', 'rejected', 'kto_tag'];

/**
 * Finds the named datasets.
 * @param folder dataset_dir
 * @throws NiftError NIFT_DATASET_INFO naming the entry and what is wrong with it
 */
export function readDatasetInfo(folder: string, names: readonly string[]): DatasetEntry[] {
  const file = path.join(folder, 'dataset_info.json');
  if (!existsSync(file)) {
    throw new NiftError('NIFT_DATASET_INFO', `${file}: not found; it says what each dataset name stands for`, {
      hint: 'set dataset_dir to the folder that holds dataset_info.json',
    });
  }
  const info = readJsonObject(file, { utf8: 'NIFT_DATASET_INFO', syntax: 'NIFT_DATASET_INFO', duplicate: 'NIFT_DATASET_INFO' });
  return names.map((name) => readEntry(name, info, file, folder));
}

function readEntry(name: string, info: JsonObject, file: string, folder: string): DatasetEntry {
  const fail = (message: string, hint?: string): never => {
    throw new NiftError('NIFT_DATASET_INFO', `${file}: ${message}`, { hint, details: { dataset: name } });
  };
  if (!Object.hasOwn(info, name)) {
    const near = nearest(name, Object.keys(info));
    fail(`no dataset ${quote(name)}.${near === undefined ? '' : ` Did you mean ${quote(near)}?`}`);
  }
  const entry = info[name];
  if (!isJsonObject(entry)) return fail(`${quote(name)} must be an object`);
  for (const key of Object.keys(entry)) {
    if (ENTRY_KEYS.includes(key)) continue;
    const near = nearest(key, ENTRY_KEYS);
    fail(`${quote(name)} has an unknown key ${quote(key)}.${near === undefined ? '' : ` Did you mean ${quote(near)}?`}`);
  }
  if (entry.ranking === true) fail(`${quote(name)} holds preferences (ranking: true); only supervised fine-tuning is supported`);
  if (entry.num_samples !== undefined) fail(`${quote(name)}: num_samples is not supported yet`, 'use max_samples in the recipe');
  if (typeof entry.file_name !== 'string' || entry.file_name === '') {
    return fail(`${quote(name)} names no local file`, 'download it, and set file_name to a .json or .jsonl file in dataset_dir');
  }
  const format = readFormat(name, entry, fail);
  const sha1 = typeof entry.file_sha1 === 'string' ? entry.file_sha1.toLowerCase() : null;
  return { ...format, name, file: checkFile(name, path.resolve(folder, entry.file_name), fail), sha1 };
}

type Fail = (message: string, hint?: string) => never;

function checkFile(name: string, file: string, fail: Fail): string {
  const extension = path.extname(file).toLowerCase();
  if (extension !== '.json' && extension !== '.jsonl') {
    const kind = extension === '' ? 'a folder or a file without extension' : `a ${extension} file`;
    fail(`${quote(name)} is ${kind}, which is not supported yet`, 'convert it to .jsonl, one JSON object per line');
  }
  if (!existsSync(file)) throw new NiftError('NIFT_FILE_NOT_FOUND', `${file}: not found (file of dataset ${quote(name)})`);
  return file;
}

function readFormat(name: string, entry: JsonObject, fail: Fail): DatasetFormat {
  const formatting = entry.formatting ?? 'alpaca';
  const columns = entry.columns ?? null;
  if (columns !== null && !isJsonObject(columns)) return fail(`"columns" of ${quote(name)} must be an object`);
  if (formatting === 'alpaca') return { formatting, columns: alpacaColumns(name, columns, fail) };
  if (formatting === 'pretokenized') return { formatting, columns: pretokenizedColumns(name, columns, fail) };
  if (typeof formatting === 'string' && FORMATS.includes(formatting)) {
    return fail(`${quote(name)} has formatting ${quote(formatting)}, which is not supported yet`, 'convert it to alpaca');
  }
  const near = typeof formatting === 'string' ? nearest(formatting, FORMATS) : undefined;
  const end = near === undefined ? ' Known: alpaca, pretokenized.' : ` Did you mean ${quote(near)}?`;
  return fail(
    `${quote(name)} has unknown formatting ${quote(typeof formatting === 'string' ? formatting : JSON.stringify(formatting))}.${end}`,
  );
}

function columnName(name: string, key: string, value: JsonValue | undefined, fail: Fail): string | null {
  if (value === undefined || value === null || value === '') return null;
  return typeof value === 'string' ? value : fail(`column ${quote(key)} of ${quote(name)} must be text`);
}

function checkColumnKeys(name: string, columns: JsonObject, known: readonly string[], fail: Fail): void {
  for (const key of Object.keys(columns)) {
    if (known.includes(key)) continue;
    if (OTHER_COLUMNS.includes(key)) fail(`${quote(name)} uses the column ${quote(key)}, which is not supported yet`);
    const near = nearest(key, known);
    fail(`${quote(name)} has an unknown column ${quote(key)}.${near === undefined ? '' : ` Did you mean ${quote(near)}?`}`);
  }
}

function alpacaColumns(name: string, columns: JsonObject | null, fail: Fail): AlpacaColumns {
  if (columns === null) return { ...ALPACA_DEFAULTS };
  checkColumnKeys(name, columns, ALPACA_KEYS, fail);
  const found = Object.fromEntries(ALPACA_KEYS.map((key) => [key, columnName(name, key, columns[key], fail)]));
  const result = found as unknown as AlpacaColumns;
  if (result.response === null) {
    fail(
      `"columns" of ${quote(name)} names no response, so nothing could be trained`,
      'text without answers has to be halved first',
    );
  }
  if (result.prompt === null && result.query === null) fail(`"columns" of ${quote(name)} names neither prompt nor query`);
  return result;
}

function pretokenizedColumns(name: string, columns: JsonObject | null, fail: Fail): PretokenizedColumns {
  checkColumnKeys(name, columns ?? {}, ['input_ids', 'labels'], fail);
  return {
    input_ids: columnName(name, 'input_ids', columns?.input_ids, fail) ?? 'input_ids',
    labels: columnName(name, 'labels', columns?.labels, fail) ?? 'labels',
  };
}
