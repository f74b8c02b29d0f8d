/**
 * Writes safetensors files byte for byte as the reference implementation does: tensors sorted by dtype (widest first) and name, header
 * padded with spaces to a multiple of 8, no holes. One tensor is in memory at a time, and the file appears whole or not at all.
 */
import { readdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { NiftError, quote } from '../errors.js';
import { atomicFile } from './atomic.js';
import { guardIo, writeFully } from './io.js';
import { stableJson } from './jsonText.js';
import { byteLengthOf, MAX_HEADER_BYTES, METADATA_KEY, SAFETENSORS_DTYPES, type SafetensorsDtype } from './safetensorsHeader.js';
import { INDEX_FILE, WEIGHTS_FILE } from './shards.js';

/** A tensor to be written. `data` may be a function, which is called when the tensor's turn comes and may return the same buffer again. */
export interface TensorToWrite {
  name: string;
  dtype: SafetensorsDtype;
  shape: readonly number[];
  data: ArrayBufferView | (() => ArrayBufferView);
}

/** What a header says about a tensor. */
export type TensorDescription = Pick<TensorToWrite, 'name' | 'dtype' | 'shape'>;

export type Metadata = Record<string, string>;

/** What PyTorch's libraries write, and transformers requires. */
export const PT_METADATA: Metadata = { format: 'pt' };

const RANK = Object.keys(SAFETENSORS_DTYPES);

/** Code point order of two strings, as Rust and Python sort them. */
const byCodePoint = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b));

/** Writes one file. @throws NIFT_SAFETENSORS_* for tensors that contradict themselves, NIFT_DISK_FULL, NIFT_FILE_IO */
export function writeSafetensors(file: string, tensors: Iterable<TensorToWrite>, metadata: Metadata = PT_METADATA): void {
  const sorted = fileOrder(tensors);
  const header = buildHeader(sorted, metadata, file);
  atomicFile(file, (fd) => {
    writeFully(fd, header);
    for (const tensor of sorted) writeFully(fd, bytesOf(tensor, file));
  });
}

/** Tensors in the order in which the reference writer stores them. */
export const fileOrder = <T extends TensorDescription>(tensors: Iterable<T>): T[] =>
  [...tensors].sort((a, b) => RANK.indexOf(b.dtype) - RANK.indexOf(a.dtype) || byCodePoint(a.name, b.name));

/** The length field and the padded JSON of a file that holds `tensors` in this order. */
export function buildHeader(tensors: readonly TensorDescription[], metadata: Metadata, file: string): Uint8Array {
  const parts = Object.keys(metadata).length > 0 ? [`${JSON.stringify(METADATA_KEY)}:${JSON.stringify(metadata)}`] : [];
  let offset = 0;
  const seen = new Set<string>();
  for (const { name, dtype, shape } of tensors) {
    const where = `${file}: tensor ${quote(name)}`;
    if (name === METADATA_KEY) throw new NiftError('NIFT_SAFETENSORS_METADATA', `${where}: this name is taken by the format`);
    if (seen.has(name)) throw new NiftError('NIFT_SAFETENSORS_DUPLICATE', `${where}: given twice`);
    seen.add(name);
    if (!Object.hasOwn(SAFETENSORS_DTYPES, dtype))
      throw new NiftError('NIFT_SAFETENSORS_DTYPE', `${where}: unknown dtype ${dtype}`);
    if (!shape.every((size) => Number.isSafeInteger(size) && size >= 0))
      throw new NiftError('NIFT_SAFETENSORS_SHAPE', `${where}: [${shape.join(', ')}] is not a shape`);
    const end = offset + byteLengthOf(dtype, shape, where);
    parts.push(`${JSON.stringify(name)}:${JSON.stringify({ dtype, shape, data_offsets: [offset, end] })}`);
    offset = end;
  }
  const json = Buffer.from(`{${parts.join(',')}}`);
  const padded = Math.ceil(json.length / 8) * 8;
  if (padded > MAX_HEADER_BYTES)
    throw new NiftError(
      'NIFT_SAFETENSORS_HEADER_LENGTH',
      `${file}: a header of ${padded} bytes, at most ${MAX_HEADER_BYTES} are allowed`,
    );
  const header = Buffer.alloc(8 + padded, 0x20);
  header.writeBigUInt64LE(BigInt(padded));
  json.copy(header, 8);
  return header;
}

function bytesOf(tensor: TensorToWrite, file: string): Uint8Array {
  const data = typeof tensor.data === 'function' ? tensor.data() : tensor.data;
  const where = `${file}: tensor ${quote(tensor.name)}`;
  const expected = byteLengthOf(tensor.dtype, tensor.shape, where);
  if (data.byteLength !== expected)
    throw new NiftError(
      'NIFT_SAFETENSORS_SIZE',
      `${where}: ${tensor.dtype} [${tensor.shape.join(', ')}] takes ${expected} bytes, ${data.byteLength} were given`,
    );
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** transformers 4's default. */
export const DEFAULT_SHARD_BYTES = 5_000_000_000;

export interface ShardOptions {
  /** Largest file, in bytes of tensors; a larger tensor has a file of its own. */
  maxShardBytes?: number;
  metadata?: Metadata;
}

/**
 * Writes the weights of a checkpoint into `folder`: `model.safetensors`, or, when they exceed a shard,
 * `model-00001-of-0000N.safetensors` and the index, which comes last. Weight files of an earlier checkpoint are removed.
 * @returns the file names written
 */
export function writeShards(folder: string, tensors: Iterable<TensorToWrite>, options: ShardOptions = {}): string[] {
  const all = [...tensors];
  const shards = planShards(all, options.maxShardBytes ?? DEFAULT_SHARD_BYTES, folder);
  const total = shards.length;
  const names = shardNames(total);
  shards.forEach((shard, i) => writeSafetensors(path.join(folder, names[i]!), shard, options.metadata));
  const written = [...names];
  if (total > 1) {
    writeIndex(path.join(folder, INDEX_FILE), shards, names);
    written.push(INDEX_FILE);
  }
  removeOtherWeights(folder, new Set(written));
  return written;
}

/** File names of a checkpoint's weights in `total` files. */
export function shardNames(total: number): string[] {
  const label = (index: number): string => String(index).padStart(5, '0');
  return total === 1
    ? [WEIGHTS_FILE]
    : Array.from({ length: total }, (_, i) => `model-${label(i + 1)}-of-${label(total)}.safetensors`);
}

/** Fills files of at most `limit` bytes of tensors in the given order. */
export function planShards<T extends TensorDescription>(tensors: readonly T[], limit: number, where: string): T[][] {
  const shards: T[][] = [[]];
  let filled = 0;
  for (const tensor of tensors) {
    const bytes = byteLengthOf(tensor.dtype, tensor.shape, where);
    if (filled > 0 && filled + bytes > limit) {
      shards.push([]);
      filled = 0;
    }
    shards[shards.length - 1]!.push(tensor);
    filled += bytes;
  }
  return shards;
}

/** Writes `model.safetensors.index.json`. */
export function writeIndex(file: string, shards: readonly (readonly TensorDescription[])[], names: readonly string[]): void {
  let bytes = 0;
  let parameters = 0;
  const weightMap: Record<string, string> = Object.create(null) as Record<string, string>;
  shards.forEach((shard, i) => {
    for (const { name, dtype, shape } of shard) {
      if (Object.hasOwn(weightMap, name))
        throw new NiftError('NIFT_SAFETENSORS_DUPLICATE', `${file}: tensor ${quote(name)} given twice`);
      weightMap[name] = names[i]!;
      const size = byteLengthOf(dtype, shape, file);
      bytes += size;
      parameters += size / SAFETENSORS_DTYPES[dtype];
    }
  });
  atomicFile(file, `${stableJson({ metadata: { total_parameters: parameters, total_size: bytes }, weight_map: weightMap })}\n`);
}

/** An old `model.safetensors` beside new shards would be read in their place. */
function removeOtherWeights(folder: string, keep: ReadonlySet<string>): void {
  guardIo(folder, 'list', () => {
    for (const name of readdirSync(folder))
      if (/^model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?$/.test(name) && !keep.has(name)) rmSync(path.join(folder, name));
  });
}
