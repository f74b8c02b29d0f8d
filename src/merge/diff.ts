/** Two checkpoints, adapters or safetensors files compared: tensors by value, block by block, and configs by key. */
import { existsSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import { NiftError } from '../errors.js';
import { ADAPTER_CONFIG_FILE, openAdapterWeights } from '../formats/adapter.js';
import { CONFIG_FILE, GENERATION_CONFIG_FILE, TOKENIZER_FILES } from '../formats/checkpoint.js';
import { guardIo, readFully } from '../formats/io.js';
import { isJsonObject, readJsonObject, stableJson, type JsonObject, type JsonValue } from '../formats/jsonText.js';
import { sameShape } from '../formats/matchTensors.js';
import { openSafetensors, type SafetensorsFile } from '../formats/safetensors.js';
import { openCheckpointTensors } from '../formats/shards.js';
import { BLOCK_ELEMENTS, BlockReader, elementsOf, forBlocks, isFloat, StoredTensors } from './methods/blocks.js';
import type { StoredTensor } from './mergeTensor.js';

export interface TensorDifference {
  name: string;
  shape: readonly number[];
  /** Of the two, when they differ. */
  dtypes: [string, string] | null;
  elements: number;
  /** Elements whose values differ. */
  differing: number;
  /** Largest |b - a|; null for tensors without floats. NaN against a number counts as infinite. */
  maxAbs: number | null;
  /** |b - a| / |a|, Frobenius norms; infinite as `maxAbs`. */
  relative: number | null;
}

export interface DiffReport {
  a: string;
  b: string;
  equal: boolean;
  tensors: number;
  equalTensors: number;
  /** Largest relative change first. */
  differing: TensorDifference[];
  /** In a only. */
  missing: string[];
  /** In b only. */
  extra: string[];
  misshapen: { name: string; a: number[]; b: number[] }[];
  /** Of all tensors that were compared. */
  relative: number;
  config: { file: string; key: string; a: JsonValue | null; b: JsonValue | null }[];
  /** Tokenizer files whose bytes differ or that only one has. */
  tokenizer: string[];
}

export interface DiffOptions {
  onProgress?: (done: number, total: number, tensor: string) => void;
  signal?: AbortSignal;
}

/** Compares `a` (the reference) with `b`. @throws NIFT_FILE_*, NIFT_SAFETENSORS_*, NIFT_INTERRUPTED */
export async function diffModels(a: string, b: string, options: DiffOptions = {}): Promise<DiffReport> {
  const left = open(a);
  try {
    const right = open(b);
    try {
      return await compare(left, right, a, b, options);
    } finally {
      right.close();
    }
  } finally {
    left.close();
  }
}

interface Opened {
  tensors: StoredTensors;
  folder: string | null;
  close(): void;
}

function open(target: string): Opened {
  if (!existsSync(target)) throw new NiftError('NIFT_FILE_NOT_FOUND', `${target}: no such file or folder`);
  const folder = statSync(target).isDirectory();
  let files: readonly SafetensorsFile[];
  if (!folder) files = [openSafetensors(target, { map: false })];
  else if (!existsSync(path.join(target, CONFIG_FILE)) && existsSync(path.join(target, ADAPTER_CONFIG_FILE)))
    files = [openAdapterWeights(target, { map: false })];
  else files = openCheckpointTensors(target, { map: false }).files;
  const tensors = new StoredTensors(files);
  const close = (): void => {
    tensors.close();
    for (const file of files) file.close();
  };
  return { tensors, folder: folder ? target : null, close };
}

async function compare(left: Opened, right: Opened, a: string, b: string, options: DiffOptions): Promise<DiffReport> {
  const names = left.tensors.names().sort();
  const report: DiffReport = {
    a,
    b,
    equal: false,
    tensors: names.length,
    equalTensors: 0,
    differing: [],
    missing: [],
    extra: right.tensors
      .names()
      .filter((name) => !left.tensors.has(name))
      .sort(),
    misshapen: [],
    relative: 0,
    ...compareFiles(left.folder, right.folder),
  };
  let [delta, norm] = [0, 0];
  for (const [i, name] of names.entries()) {
    options.onProgress?.(i, names.length, name);
    await new Promise(setImmediate);
    if (options.signal?.aborted) throw new NiftError('NIFT_INTERRUPTED', 'diff: stopped before it was complete', { exitCode: 1 });
    if (!right.tensors.has(name)) {
      report.missing.push(name);
      continue;
    }
    const [own, other] = [left.tensors.stored(name), right.tensors.stored(name)];
    if (!sameShape(own.shape, other.shape)) {
      report.misshapen.push({ name, a: [...own.shape], b: [...other.shape] });
      continue;
    }
    const { difference, squares } = isFloat(own) && isFloat(other) ? compareFloats(own, other) : compareBytes(own, other);
    delta += squares.delta;
    norm += squares.norm;
    if (difference.differing > 0 || difference.dtypes !== null) report.differing.push(difference);
    else report.equalTensors++;
  }
  report.relative = ratio(delta, norm);
  report.differing.sort((x, y) => (y.relative ?? Infinity) - (x.relative ?? Infinity) || (x.name < y.name ? -1 : 1));
  report.equal =
    report.differing.length + report.missing.length + report.extra.length + report.misshapen.length === 0 &&
    report.config.length + report.tokenizer.length === 0;
  return report;
}

const ratio = (delta: number, norm: number): number => (delta === 0 ? 0 : Math.sqrt(delta / norm));

interface Compared {
  difference: TensorDifference;
  squares: { delta: number; norm: number };
}

function compareFloats(own: StoredTensor, other: StoredTensor): Compared {
  const readers = [new BlockReader(own), new BlockReader(other)] as const;
  let [differing, maxAbs, delta, norm] = [0, 0, 0, 0];
  forBlocks(elementsOf(own), (first, count) => {
    const x = readers[0].read(first, count);
    const y = readers[1].read(first, count);
    for (let i = 0; i < count; i++) {
      const value = x[i]!;
      if (Number.isFinite(value)) norm += value * value;
      // Equal values, infinities and NaN on both sides included, are no difference.
      if (y[i] === value || Object.is(y[i], value)) continue;
      const difference = Math.abs(y[i]! - value);
      const change = Number.isNaN(difference) ? Infinity : difference;
      differing++;
      maxAbs = Math.max(maxAbs, change);
      delta += change * change;
    }
  });
  return { difference: { ...describe(own, other), differing, maxAbs, relative: ratio(delta, norm) }, squares: { delta, norm } };
}

function compareBytes(own: StoredTensor, other: StoredTensor): Compared {
  const base = { ...describe(own, other), maxAbs: null, relative: null };
  const squares = { delta: 0, norm: 0 };
  if (own.dtype !== other.dtype) return { difference: { ...base, differing: base.elements }, squares };
  const width = own.byteLength / Math.max(1, base.elements);
  let differing = 0;
  forBlocks(
    own.byteLength,
    (first, count) => {
      const [x, y] = [bytesAt(own, first, count), bytesAt(other, first, count)];
      for (let i = 0; i < count; i += width) if (x.compare(y, i, i + width, i, i + width) !== 0) differing++;
    },
    BLOCK_ELEMENTS * width,
  );
  return { difference: { ...base, differing }, squares };
}

function bytesAt(tensor: StoredTensor, first: number, count: number): Buffer {
  const bytes = Buffer.alloc(count);
  guardIo(tensor.path, `read ${tensor.name}`, () => {
    if (!readFully(tensor.fd, bytes, tensor.offset + first)) throw new Error('the file has become shorter since it was opened');
  });
  return bytes;
}

const describe = (own: StoredTensor, other: StoredTensor): Pick<TensorDifference, 'name' | 'shape' | 'dtypes' | 'elements'> => ({
  name: own.name,
  shape: own.shape,
  dtypes: own.dtype === other.dtype ? null : [own.dtype, other.dtype],
  elements: elementsOf(own),
});

function compareFiles(a: string | null, b: string | null): Pick<DiffReport, 'config' | 'tokenizer'> {
  if (a === null || b === null) return { config: [], tokenizer: [] };
  const config = [CONFIG_FILE, GENERATION_CONFIG_FILE, ADAPTER_CONFIG_FILE].flatMap((file) => {
    const [x, y] = [jsonIn(a, file), jsonIn(b, file)];
    if (x === null && y === null) return [];
    if (x === null || y === null)
      return [{ file, key: '', a: x === null ? null : '(present)', b: y === null ? null : '(present)' }];
    return differingKeys(x, y).map((key) => ({ file, key, a: at(x, key), b: at(y, key) }));
  });
  const tokenizer = TOKENIZER_FILES.filter((name) => {
    const [x, y] = [path.join(a, name), path.join(b, name)];
    if (existsSync(x) !== existsSync(y)) return true;
    return existsSync(x) && !readFileSync(x).equals(readFileSync(y));
  });
  return { config, tokenizer };
}

function jsonIn(folder: string, file: string): JsonObject | null {
  const full = path.join(folder, file);
  return existsSync(full) ? readJsonObject(full) : null;
}

/** Dotted paths of keys that differ, objects taken apart. */
function differingKeys(a: JsonObject, b: JsonObject, prefix = ''): string[] {
  return [...new Set([...Object.keys(a), ...Object.keys(b)])].sort().flatMap((key) => {
    const [x, y] = [a[key], b[key]];
    if (x !== undefined && y !== undefined && isJsonObject(x) && isJsonObject(y)) return differingKeys(x, y, `${prefix}${key}.`);
    return x !== undefined && y !== undefined && stableJson(x) === stableJson(y) ? [] : [`${prefix}${key}`];
  });
}

/** The value at a dotted path; keys that hold dots themselves are found too. */
function at(object: JsonObject, key: string): JsonValue | null {
  if (Object.hasOwn(object, key)) return object[key]!;
  for (let i = key.indexOf('.'); i > 0; i = key.indexOf('.', i + 1)) {
    const child = object[key.slice(0, i)];
    if (child !== undefined && isJsonObject(child)) return at(child, key.slice(i + 1));
  }
  return null;
}
