/**
 * The safetensors header, believed only after it was checked.
 *
 *   8 bytes   n, little-endian: length of the header
 *   n bytes   JSON object: name -> {dtype, shape, data_offsets: [begin, end)}, and "__metadata__": string -> string
 *   the rest  the tensors, back to back, without holes, to the end of the file
 *
 * Source: https://github.com/huggingface/safetensors (README, "Format").
 */
import { NiftError, quote, type ErrorCode } from '../errors.js';
import { isJsonObject, parseJson, type JsonCodes, type JsonObject, type JsonValue } from './jsonText.js';

/** Bytes per element of each dtype that we read and write, in the order in which the reference writer sorts them. */
export const SAFETENSORS_DTYPES = { BOOL: 1, U8: 1, I8: 1, I16: 2, F16: 2, BF16: 2, I32: 4, F32: 4, F64: 8, I64: 8 } as const;
export type SafetensorsDtype = keyof typeof SAFETENSORS_DTYPES;

/** Dtypes that the format knows and we do not. */
const FOREIGN_DTYPES = new Set(['U16', 'U32', 'U64', 'F8_E4M3', 'F8_E5M2', 'F8_E8M0', 'F6_E2M3', 'F6_E3M2', 'F4', 'C64']);

/** The reference implementation's limit. */
export const MAX_HEADER_BYTES = 100_000_000;
export const METADATA_KEY = '__metadata__';

export interface TensorEntry {
  dtype: SafetensorsDtype;
  shape: number[];
  /** Bytes from the start of the file. */
  offset: number;
  byteLength: number;
}

export interface SafetensorsHeader {
  /** In file order. */
  tensors: Map<string, TensorEntry>;
  metadata: Record<string, string>;
  /** Where the first tensor starts. */
  dataStart: number;
}

const CODES: JsonCodes = {
  utf8: 'NIFT_SAFETENSORS_UTF8',
  syntax: 'NIFT_SAFETENSORS_JSON',
  duplicate: 'NIFT_SAFETENSORS_DUPLICATE',
};

/**
 * Reads the length field.
 * @param prefix the first bytes of the file (8 when it has them)
 * @returns bytes of JSON that follow
 */
export function headerLength(prefix: Uint8Array, fileSize: number, where: string): number {
  if (fileSize < 8 || prefix.length < 8)
    throw new NiftError('NIFT_SAFETENSORS_TRUNCATED', `${where}: ${fileSize} bytes, a safetensors file has at least 8`, {
      hint: 'The download or copy did not finish. Fetch the file again.',
    });
  const length = new DataView(prefix.buffer, prefix.byteOffset, 8).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTES))
    throw new NiftError(
      'NIFT_SAFETENSORS_HEADER_LENGTH',
      `${where}: the header claims ${length} bytes, at most ${MAX_HEADER_BYTES} are allowed`,
      { hint: 'This is probably not a safetensors file.' },
    );
  if (8 + Number(length) > fileSize)
    throw new NiftError(
      'NIFT_SAFETENSORS_HEADER_LENGTH',
      `${where}: the header claims ${length} bytes, but the file has ${fileSize}`,
      { hint: 'The file is cut short, or is not a safetensors file.' },
    );
  return Number(length);
}

/**
 * Parses and checks the JSON of a header against the size of its file.
 * @param json exactly the bytes that the length field announces
 * @throws NiftError, one code per kind of lie (docs/errors.md, NIFT_SAFETENSORS_*)
 */
export function parseHeader(json: Uint8Array, fileSize: number, where: string): SafetensorsHeader {
  const root = parseJson(json, `${where}: header`, CODES);
  if (!isJsonObject(root)) throw new NiftError('NIFT_SAFETENSORS_HEADER', `${where}: the header is not a JSON object`);
  // The format allows spaces behind the object, not in front of it.
  if (json[0] !== 0x7b) throw new NiftError('NIFT_SAFETENSORS_JSON', `${where}: the header does not start with "{"`);
  const dataStart = 8 + json.length;
  const entries: [string, TensorEntry][] = [];
  let metadata: Record<string, string> = {};
  for (const [name, value] of Object.entries(root)) {
    if (name === METADATA_KEY) metadata = checkMetadata(value, where);
    else entries.push([name, checkEntry(value, dataStart, `${where}: tensor ${quote(name)}`)]);
  }
  entries.sort((a, b) => a[1].offset - b[1].offset || a[1].byteLength - b[1].byteLength);
  checkLayout(entries, dataStart, fileSize, where);
  return { tensors: new Map(entries), metadata, dataStart };
}

function checkMetadata(value: JsonValue, where: string): Record<string, string> {
  const bad = (what: string): NiftError =>
    new NiftError('NIFT_SAFETENSORS_METADATA', `${where}: ${METADATA_KEY} ${what}, expected strings by name`);
  if (!isJsonObject(value)) throw bad('is not an object');
  const metadata: Record<string, string> = Object.create(null) as Record<string, string>;
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string') throw bad(`has a value that is not a string at ${quote(key)}`);
    metadata[key] = text;
  }
  return metadata;
}

function checkEntry(value: JsonValue, dataStart: number, where: string): TensorEntry {
  if (!isJsonObject(value)) throw new NiftError('NIFT_SAFETENSORS_HEADER', `${where}: expected {dtype, shape, data_offsets}`);
  const dtype = checkDtype(value, where);
  const shape = checkShape(value, where);
  const [begin, end] = checkOffsets(value, dataStart, where);
  const expected = byteLengthOf(dtype, shape, where);
  if (expected !== end - begin)
    throw new NiftError(
      'NIFT_SAFETENSORS_SIZE',
      `${where}: ${dtype} [${shape.join(', ')}] takes ${expected} bytes, its offsets hold ${end - begin}`,
    );
  return { dtype, shape, offset: dataStart + begin, byteLength: expected };
}

/** Own properties only: a header may call a tensor's field "toString" or leave one out. */
function field(entry: JsonObject, name: string, where: string): JsonValue {
  const value = Object.hasOwn(entry, name) ? entry[name] : undefined;
  if (value === undefined) throw new NiftError('NIFT_SAFETENSORS_HEADER', `${where}: "${name}" is missing`);
  return value;
}

function checkDtype(entry: JsonObject, where: string): SafetensorsDtype {
  const dtype = field(entry, 'dtype', where);
  if (typeof dtype === 'string' && Object.hasOwn(SAFETENSORS_DTYPES, dtype)) return dtype as SafetensorsDtype;
  const known = Object.keys(SAFETENSORS_DTYPES).join(', ');
  const shown = typeof dtype === 'string' ? quote(dtype, 40) : typeof dtype;
  throw new NiftError('NIFT_SAFETENSORS_DTYPE', `${where}: dtype ${shown} is not one of ${known}`, {
    ...(typeof dtype === 'string' && FOREIGN_DTYPES.has(dtype)
      ? { hint: 'Quantised and unsigned dtypes are not read here. Use the 16-bit version of this checkpoint.' }
      : {}),
  });
}

function checkShape(entry: JsonObject, where: string): number[] {
  const shape = field(entry, 'shape', where);
  if (!Array.isArray(shape)) throw new NiftError('NIFT_SAFETENSORS_SHAPE', `${where}: shape is not a list`);
  return shape.map((size) => {
    if (typeof size === 'number' && Number.isInteger(size) && size > Number.MAX_SAFE_INTEGER)
      throw new NiftError('NIFT_SAFETENSORS_OVERFLOW', `${where}: a dimension of ${size} is beyond 2^53`);
    return naturalNumber(size, 'NIFT_SAFETENSORS_SHAPE', `${where}: shape`);
  });
}

function checkOffsets(entry: JsonObject, dataStart: number, where: string): [number, number] {
  const offsets = field(entry, 'data_offsets', where);
  if (!Array.isArray(offsets) || offsets.length !== 2)
    throw new NiftError('NIFT_SAFETENSORS_OFFSETS', `${where}: data_offsets is not [begin, end]`);
  const begin = naturalNumber(offsets[0], 'NIFT_SAFETENSORS_OFFSETS', `${where}: data_offsets`);
  const end = naturalNumber(offsets[1], 'NIFT_SAFETENSORS_OFFSETS', `${where}: data_offsets`);
  if (begin > end) throw new NiftError('NIFT_SAFETENSORS_OFFSETS', `${where}: data_offsets [${begin}, ${end}] run backwards`);
  if (end > Number.MAX_SAFE_INTEGER - dataStart)
    throw new NiftError('NIFT_SAFETENSORS_OFFSETS', `${where}: data_offsets [${begin}, ${end}] lie beyond 2^53`);
  return [begin, end];
}

function naturalNumber(value: JsonValue | undefined, code: ErrorCode, where: string): number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value;
  const shown = typeof value === 'number' ? String(value) : value === null ? 'null' : typeof value;
  throw new NiftError(code, `${where}: ${shown} is not a whole number in [0, 2^53)`);
}

/** Bytes of a tensor. @throws NIFT_SAFETENSORS_OVERFLOW when they exceed 2^53 */
export function byteLengthOf(dtype: SafetensorsDtype, shape: readonly number[], where: string): number {
  if (shape.includes(0)) return 0;
  let bytes: number = SAFETENSORS_DTYPES[dtype];
  for (const size of shape) {
    bytes *= size;
    if (!Number.isSafeInteger(bytes))
      throw new NiftError('NIFT_SAFETENSORS_OVERFLOW', `${where}: ${dtype} [${shape.join(', ')}] overflows 2^53 bytes`);
  }
  return bytes;
}

/** Back to back from the end of the header to the end of the file. `entries` are in file order. */
function checkLayout(entries: [string, TensorEntry][], dataStart: number, fileSize: number, where: string): void {
  let end = dataStart;
  let previous = 'the header';
  for (const [name, entry] of entries) {
    const at = `${where}: tensor ${quote(name)}`;
    if (entry.offset < end)
      throw new NiftError('NIFT_SAFETENSORS_OVERLAP', `${at} overlaps ${previous} by ${end - entry.offset} bytes`);
    if (entry.offset > end)
      throw new NiftError('NIFT_SAFETENSORS_GAP', `${at}: ${entry.offset - end} bytes before it belong to no tensor`);
    end = entry.offset + entry.byteLength;
    if (end > fileSize)
      throw new NiftError('NIFT_SAFETENSORS_TRUNCATED', `${at} ends at byte ${end}, but the file has ${fileSize}`, {
        hint: 'The download or copy did not finish. Fetch the file again.',
      });
    previous = `tensor ${quote(name)}`;
  }
  if (end < fileSize)
    throw new NiftError('NIFT_SAFETENSORS_TRAILING', `${where}: ${fileSize - end} bytes after ${previous} belong to no tensor`);
}
