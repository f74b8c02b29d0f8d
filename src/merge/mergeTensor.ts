/**
 * One matrix with the changes of adapters, from file to file.
 *
 *   W' = round(W + sum_k w_k s_k B_k A_k)                                        LoRA
 *   W' = round(W + sum_k w_k (m_k (W + s_k B_k A_k) / |W + s_k B_k A_k| - W))    DoRA, |.| the norm of each row
 *
 * W [rows, columns] (a linear weight: [out, in]), A [R, columns], B [rows, R], m [rows]; s scaling, w the adapter's weight.
 * Numerics: float32 inside, one rounding to nearest even to the storage dtype. Peak memory: A, B and a block per thread.
 * Source: Hu et al. (arXiv:2106.09685); Liu et al., DoRA (arXiv:2402.09353), merged as PEFT does.
 *
 * The addon's rewriteTensor does it block by block on all cores (native/merge_adapter.cpp); the loops here are its definition, and
 * what runs where it is absent.
 */
import { addon, type LowRankChange } from '../backend/addon.js';
import { DTYPE_CODE, type StorageDtype } from '../backend/dtype.js';
import { NiftError } from '../errors.js';
import { floatToHalf, halfToFloat } from '../formats/half.js';
import { guardIo, ioError, readFully } from '../formats/io.js';
import { SAFETENSORS_DTYPES, type SafetensorsDtype } from '../formats/safetensors.js';
import type { TensorSink } from './tensorSink.js';

export type { LowRankChange } from '../backend/addon.js';

/** Safetensors dtypes that hold floats which we convert; all others are carried over as bytes. */
export const STORAGE_OF: Partial<Record<SafetensorsDtype, StorageDtype>> = { F32: 'float32', BF16: 'bfloat16', F16: 'float16' };
export const FILE_DTYPE: Record<StorageDtype, SafetensorsDtype> = { float32: 'F32', bfloat16: 'BF16', float16: 'F16' };

/** Ranks are padded to multiples of this (native/merge_adapter.h). */
export const RANK_STEP = 8;

/** A tensor in a file that is open for reading. */
export interface StoredTensor {
  name: string;
  dtype: SafetensorsDtype;
  shape: readonly number[];
  path: string;
  fd: number;
  /** Bytes from the start of the file. */
  offset: number;
  byteLength: number;
}

const INFINITY_BITS = 0x7f800000;
/** The smallest float32 magnitude, as bits, that rounds to infinity. */
const OVERFLOW_BITS: Record<StorageDtype, number> = { float32: INFINITY_BITS, bfloat16: 0x7f7f8000, float16: 0x477ff000 };

/**
 * Writes `source` with `changes`, as `dtype`.
 * @throws NIFT_MERGE_OVERFLOW when a value is not finite after rounding; NIFT_FILE_IO, NIFT_DISK_FULL
 */
export async function mergeTensor(
  source: StoredTensor,
  sink: TensorSink,
  dtype: SafetensorsDtype,
  changes: readonly LowRankChange[],
): Promise<void> {
  const storage = STORAGE_OF[dtype];
  const converts = changes.length > 0 || dtype !== source.dtype;
  if (converts && (storage === undefined || STORAGE_OF[source.dtype] === undefined))
    throw new NiftError('NIFT_INTERNAL', `${source.name}: ${source.dtype} cannot become ${dtype}`);
  if (source.byteLength === 0) return;
  const columns = source.shape.length === 0 ? 1 : source.shape[source.shape.length - 1]!;
  const elements = source.byteLength / SAFETENSORS_DTYPES[source.dtype];
  const largest = addon()
    ? await rewriteNatively(source, sink, dtype, elements / columns, columns, changes)
    : await rewriteInJavaScript(source, sink, dtype, elements / columns, columns, changes);
  if (converts) checkFinite(source, storage!, largest);
}

async function rewriteNatively(
  source: StoredTensor,
  sink: TensorSink,
  dtype: SafetensorsDtype,
  rows: number,
  columns: number,
  changes: readonly LowRankChange[],
): Promise<number> {
  const copies = changes.length === 0 && dtype === source.dtype;
  const from = copies ? -1 : DTYPE_CODE[STORAGE_OF[source.dtype]!];
  const to = copies ? -1 : DTYPE_CODE[STORAGE_OF[dtype]!];
  const [count, width] = copies ? [source.byteLength, 1] : [rows, columns];
  try {
    const result = await addon()!.rewriteTensor(
      source.fd,
      source.offset,
      from,
      sink.fd,
      sink.position,
      to,
      count,
      width,
      changes,
    );
    sink.wrote(rows * columns * SAFETENSORS_DTYPES[dtype], result.crc32);
    return result.largest;
  } catch (error) {
    const failed = error instanceof Error && error.message.startsWith('write') ? sink.path : source.path;
    throw ioError(systemError(error), failed, failed === sink.path ? 'write' : `read ${source.name}`);
  }
}

/** The addon's errors carry the number of the failed call only; Node's carry its name, which ioError goes by. */
function systemError(error: unknown): unknown {
  if (!(error instanceof Error) || !('errno' in error) || typeof error.errno !== 'number') return error;
  return Object.assign(error, { code: errnoName(-error.errno) });
}

const ERRNO: Record<number, string> = { 5: 'EIO', 27: 'EFBIG', 28: 'ENOSPC', 122: 'EDQUOT' };
export const errnoName = (errno: number): string => ERRNO[errno] ?? `errno ${errno}`;

export function checkFinite(source: StoredTensor, storage: StorageDtype, largestBits: number): void {
  if (largestBits < OVERFLOW_BITS[storage]) return;
  const finite = largestBits < INFINITY_BITS;
  const largest = new Float32Array(Uint32Array.of(largestBits).buffer)[0]!;
  throw new NiftError(
    'NIFT_MERGE_OVERFLOW',
    finite
      ? `${source.name}: a merged value of ${largest.toPrecision(6)} does not fit into ${storage}`
      : `${source.name}: a merged value is ${Number.isNaN(largest) ? 'NaN' : 'infinite'}`,
    {
      exitCode: 1,
      hint: finite
        ? 'Merge with --dtype bfloat16 or --dtype float32.'
        : 'The base or the adapter holds values that are not finite: it was saved after training had diverged.',
      details: { tensor: source.name, dtype: storage, largest: String(largest) },
    },
  );
}

/** Elements of a block of the loops below. */
const BLOCK = 1 << 18;

async function rewriteInJavaScript(
  source: StoredTensor,
  sink: TensorSink,
  dtype: SafetensorsDtype,
  rows: number,
  columns: number,
  changes: readonly LowRankChange[],
): Promise<number> {
  const width = SAFETENSORS_DTYPES[source.dtype];
  const step = Math.max(1, Math.floor(BLOCK / columns));
  let largest = 0;
  for (let first = 0; first < rows; first += step) {
    const count = Math.min(step, rows - first);
    const bytes = new Uint8Array(count * columns * width);
    guardIo(source.path, `read ${source.name}`, () => {
      if (!readFully(source.fd, bytes, source.offset + first * columns * width))
        throw new Error('the file has become shorter since it was opened');
    });
    if (changes.length === 0 && dtype === source.dtype) {
      await sink.write(bytes);
      continue;
    }
    const values = decode(bytes, source.dtype);
    mergeRows(values, first, columns, changes);
    largest = Math.max(largest, largestBits(values));
    await sink.write(encode(values, dtype));
  }
  return largest;
}

/** Adds the changes to rows [first, ...) of the matrix, in place. The definition. */
export function mergeRows(values: Float32Array, first: number, columns: number, changes: readonly LowRankChange[]): void {
  for (let at = 0, row = first; at < values.length; at += columns, row++) {
    const own = values.slice(at, at + columns);
    let keep = 1;
    const sum = new Float32Array(columns);
    for (const change of changes) {
      const delta = lowRankRow(change, row, columns);
      let factor = change.weight;
      if (change.magnitude) {
        let square = 0;
        for (let i = 0; i < columns; i++) square += Math.fround(own[i]! + change.scaling * delta[i]!) ** 2;
        factor *= change.magnitude[row]! / Math.sqrt(square);
        keep += factor - change.weight;
      }
      for (let i = 0; i < columns; i++) sum[i] = sum[i]! + factor * change.scaling * delta[i]!;
    }
    for (let i = 0; i < columns; i++) values[at + i] = keep * own[i]! + sum[i]!;
  }
}

function lowRankRow({ a, b, rank }: LowRankChange, row: number, columns: number): Float32Array {
  const delta = new Float32Array(columns);
  for (let r = 0; r < rank; r++) {
    const factor = b[row * rank + r]!;
    if (factor !== 0) for (let i = 0; i < columns; i++) delta[i] = delta[i]! + factor * a[r * columns + i]!;
  }
  return delta;
}

export function decode(bytes: Uint8Array, dtype: SafetensorsDtype): Float32Array {
  const elements = bytes.byteLength / SAFETENSORS_DTYPES[dtype];
  if (dtype === 'F32') return new Float32Array(bytes.buffer, bytes.byteOffset, elements);
  const out = new Float32Array(elements);
  halfToFloat(new Uint16Array(bytes.buffer, bytes.byteOffset, elements), dtype as 'F16' | 'BF16', out);
  return out;
}

export function encode(values: Float32Array, dtype: SafetensorsDtype): Uint8Array {
  if (dtype === 'F32') return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  const bits = new Uint16Array(values.length);
  floatToHalf(values, dtype as 'F16' | 'BF16', bits);
  return new Uint8Array(bits.buffer);
}

export function largestBits(values: Float32Array): number {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  let largest = 0;
  for (let i = 0; i < words.length; i++) {
    const magnitude = words[i]! & 0x7fffffff;
    if (magnitude > largest) largest = magnitude;
  }
  return largest;
}
