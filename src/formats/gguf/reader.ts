/** Reads GGUF 2 and 3 files, little-endian. The header is believed only after it was checked; every lie has its own code. */
import { NiftError, quote, type ErrorCode } from '../../errors.js';
import { ByteSource } from '../byteSource.js';
import { tensorNotFound } from '../safetensors.js';
import {
  ALIGNMENT_KEY,
  alignUp,
  DEFAULT_ALIGNMENT,
  GGUF_MAGIC,
  MAX_RANK,
  MAX_TENSOR_NAME,
  TENSOR_TYPES,
  tensorBytes,
  VALUE_BYTES,
  VALUE_TYPES,
  type GgufValue,
  type Scalar,
  type ScalarType,
  type TensorType,
  type ValueType,
} from './types.js';

export interface GgufTensor {
  type: TensorType;
  /** Slowest axis first. */
  shape: number[];
  /** Bytes from the start of the file. */
  offset: number;
  byteLength: number;
}

const TYPE_BY_ID = new Map<number, TensorType>(
  (Object.keys(TENSOR_TYPES) as TensorType[]).map((type) => [TENSOR_TYPES[type].id, type]),
);
const MAX_KEY_BYTES = 65_535;
const WINDOW = 1 << 20;

/** Opens a file and checks its whole header. @throws NiftError NIFT_GGUF_*, NIFT_FILE_* */
export function openGguf(file: string): GgufFile {
  const source = ByteSource.open(file);
  try {
    const cursor = new Cursor(source, file);
    const version = checkVersion(cursor, file);
    const tensorCount = cursor.count('tensors', 24);
    const keyCount = cursor.count('keys', 13);
    const metadata = readMetadata(cursor, keyCount, file);
    const alignment = checkAlignment(metadata, file);
    const tensors = readTensors(cursor, tensorCount, file);
    const dataStart = alignUp(cursor.position, alignment);
    placeTensors(tensors, { dataStart, alignment, fileSize: source.size }, file);
    return new GgufFile(file, version, metadata, tensors, alignment, dataStart, source);
  } catch (error) {
    source.close();
    throw error;
  }
}

export class GgufFile {
  constructor(
    readonly path: string,
    readonly version: number,
    readonly metadata: ReadonlyMap<string, GgufValue>,
    /** In file order. */
    readonly tensors: ReadonlyMap<string, GgufTensor>,
    readonly alignment: number,
    /** Where the first tensor starts. */
    readonly dataStart: number,
    private readonly source: ByteSource,
  ) {}

  get byteLength(): number {
    return this.source.size;
  }

  /** A metadata value without its type, or undefined. */
  value(key: string): Scalar | readonly Scalar[] | undefined {
    return this.metadata.get(key)?.value;
  }

  /** The tensor's bytes. @throws NIFT_TENSOR_NOT_FOUND */
  bytes(name: string): Uint8Array {
    const tensor = this.tensors.get(name);
    if (!tensor) throw tensorNotFound(name, this.path, this.tensors.keys());
    return this.source.copy(tensor.offset, tensor.byteLength);
  }

  /** Idempotent. */
  close(): void {
    this.source.close();
  }
}

/** Reads forward through a file, a window at a time. */
class Cursor {
  position = 0;
  private window: DataView = new DataView(new ArrayBuffer(0));
  private windowStart = 0;

  constructor(
    private readonly source: ByteSource,
    private readonly file: string,
  ) {}

  /** Makes `count` bytes readable and steps over them. @returns where they are in the window */
  private take(count: number, what: string): number {
    const { size } = this.source;
    if (count > size - this.position)
      throw new NiftError(
        'NIFT_GGUF_TRUNCATED',
        `${this.file}: ${what} at byte ${this.position} runs past the end (${size} bytes)`,
        {
          hint: 'The download or copy did not finish. Fetch the file again.',
        },
      );
    if (this.position < this.windowStart || this.position + count > this.windowStart + this.window.byteLength) {
      const bytes = this.source.copy(this.position, Math.min(size - this.position, Math.max(count, WINDOW)));
      this.window = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      this.windowStart = this.position;
    }
    const at = this.position - this.windowStart;
    this.position += count;
    return at;
  }

  u32(what: string): number {
    const at = this.take(4, what);
    return this.window.getUint32(at, true);
  }

  /** A length that has to be believed before what it counts is seen. @param least bytes that each item takes at least */
  count(what: string, least: number): number {
    const at = this.take(8, `the number of ${what}`);
    const value = this.window.getBigUint64(at, true);
    if (value * BigInt(least) > BigInt(this.source.size - this.position))
      throw new NiftError(
        'NIFT_GGUF_TRUNCATED',
        `${this.file}: ${value} ${what} announced at byte ${this.position - 8}, more than the file can hold`,
      );
    return Number(value);
  }

  u64(what: string): number {
    const at = this.take(8, what);
    return Number(this.window.getBigUint64(at, true));
  }

  string(what: string): string {
    const length = this.count(`bytes of ${what}`, 1);
    const at = this.take(length, what);
    return decodeUtf8(new Uint8Array(this.window.buffer, this.window.byteOffset + at, length), () => `${this.file}: ${what}`);
  }

  scalar(type: ScalarType, what: string): Scalar {
    if (type === 'string') return this.string(what);
    const at = this.take(VALUE_BYTES[type], what);
    const view = this.window;
    switch (type) {
      case 'u8':
        return view.getUint8(at);
      case 'i8':
        return view.getInt8(at);
      case 'u16':
        return view.getUint16(at, true);
      case 'i16':
        return view.getInt16(at, true);
      case 'u32':
        return view.getUint32(at, true);
      case 'i32':
        return view.getInt32(at, true);
      case 'f32':
        return view.getFloat32(at, true);
      case 'f64':
        return view.getFloat64(at, true);
      case 'u64':
        return narrow(view.getBigUint64(at, true));
      case 'i64':
        return narrow(view.getBigInt64(at, true));
      case 'bool': {
        const byte = view.getUint8(at);
        if (byte > 1) throw new NiftError('NIFT_GGUF_VALUE', `${this.file}: ${what}: ${byte} is neither false (0) nor true (1)`);
        return byte === 1;
      }
    }
  }
}

const narrow = (value: bigint): number | bigint =>
  value <= BigInt(Number.MAX_SAFE_INTEGER) && value >= BigInt(Number.MIN_SAFE_INTEGER) ? Number(value) : value;

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function decodeUtf8(bytes: Uint8Array, where: () => string): string {
  try {
    return utf8.decode(bytes);
  } catch (cause) {
    throw new NiftError('NIFT_GGUF_UTF8', `${where()} is not UTF-8`, { cause });
  }
}

function checkVersion(cursor: Cursor, file: string): number {
  const magic = cursor.u32('the magic number');
  if (magic !== GGUF_MAGIC)
    throw new NiftError('NIFT_GGUF_MAGIC', `${file}: does not start with "GGUF"`, { hint: 'This is not a GGUF file.' });
  const version = cursor.u32('the version');
  if (version === 2 || version === 3) return version;
  const swapped = (version & 0xffff) === 0;
  throw new NiftError('NIFT_GGUF_VERSION', `${file}: version ${version} is not read here, only 2 and 3`, {
    hint: swapped ? 'The file is big-endian. Get the little-endian one.' : 'Write the file again with a current llama.cpp.',
  });
}

function readMetadata(cursor: Cursor, count: number, file: string): Map<string, GgufValue> {
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < count; i++) {
    const key = cursor.string(`the name of key ${i}`);
    const where = `${file}: key ${quote(key, 80)}`;
    if (key === '' || Buffer.byteLength(key) > MAX_KEY_BYTES)
      throw new NiftError('NIFT_GGUF_KEY', `${where}: a name has 1 to ${MAX_KEY_BYTES} bytes`);
    if (metadata.has(key)) throw new NiftError('NIFT_GGUF_KEY', `${where}: given twice`);
    metadata.set(key, readValue(cursor, key, where));
  }
  return metadata;
}

function valueType(cursor: Cursor, key: string, where: string): ValueType {
  const id = cursor.u32(`the type of ${key}`);
  const type = VALUE_TYPES[id];
  if (type !== undefined) return type;
  throw new NiftError('NIFT_GGUF_VALUE', `${where}: there is no value type ${id}`);
}

function readValue(cursor: Cursor, key: string, where: string): GgufValue {
  const type = valueType(cursor, key, where);
  if (type !== 'array') return { type, value: cursor.scalar(type, key) };
  const of = valueType(cursor, key, where);
  if (of === 'array') throw new NiftError('NIFT_GGUF_VALUE', `${where}: lists of lists are not read here`);
  const length = cursor.count(`items of ${key}`, of === 'string' ? 8 : VALUE_BYTES[of]);
  const value: Scalar[] = [];
  for (let i = 0; i < length; i++) value.push(cursor.scalar(of, key));
  return { type, of, value };
}

function checkAlignment(metadata: ReadonlyMap<string, GgufValue>, file: string): number {
  const given = metadata.get(ALIGNMENT_KEY);
  if (given === undefined) return DEFAULT_ALIGNMENT;
  const { type, value } = given;
  if (type === 'u32' && typeof value === 'number' && value > 0 && value <= 1 << 30 && (value & (value - 1)) === 0) return value;
  throw new NiftError('NIFT_GGUF_ALIGNMENT', `${file}: ${ALIGNMENT_KEY} is not a power of two of type u32`);
}

function readTensors(cursor: Cursor, count: number, file: string): Map<string, GgufTensor> {
  const tensors = new Map<string, GgufTensor>();
  for (let i = 0; i < count; i++) {
    const name = cursor.string(`the name of tensor ${i}`);
    const where = `${file}: tensor ${quote(name, 80)}`;
    const fail = (code: ErrorCode, problem: string): NiftError => new NiftError(code, `${where}: ${problem}`);
    if (Buffer.byteLength(name) > MAX_TENSOR_NAME) throw fail('NIFT_GGUF_TENSOR', `a name has at most ${MAX_TENSOR_NAME} bytes`);
    if (tensors.has(name)) throw fail('NIFT_GGUF_TENSOR', 'given twice');
    const rank = cursor.u32(`the rank of ${name}`);
    if (rank > MAX_RANK) throw fail('NIFT_GGUF_TENSOR', `${rank} axes, ggml has at most ${MAX_RANK}`);
    const shape = Array.from({ length: rank }, () => cursor.u64(`the shape of ${name}`)).reverse();
    const id = cursor.u32(`the type of ${name}`);
    const type = TYPE_BY_ID.get(id);
    if (type === undefined) throw fail('NIFT_GGUF_DTYPE', `there is no tensor type ${id}`);
    const byteLength = tensorBytes(type, shape);
    if (!Number.isSafeInteger(byteLength))
      throw fail('NIFT_GGUF_TENSOR', `${type} cannot store [${shape.join(', ')}] in whole blocks and less than 2^53 bytes`);
    tensors.set(name, { type, shape, offset: cursor.u64(`the offset of ${name}`), byteLength });
  }
  return tensors;
}

/** Turns offsets into the file's own: tensors lie in the order of the header, padded to the alignment, without holes. */
function placeTensors(
  tensors: ReadonlyMap<string, GgufTensor>,
  layout: { dataStart: number; alignment: number; fileSize: number },
  file: string,
): void {
  const { dataStart, alignment, fileSize } = layout;
  let expected = 0;
  let end = tensors.size === 0 ? Math.min(dataStart, fileSize) : dataStart;
  for (const [name, tensor] of tensors) {
    const where = `${file}: tensor ${quote(name, 80)}`;
    if (tensor.offset !== expected)
      throw new NiftError(
        'NIFT_GGUF_OFFSET',
        `${where} is said to start at ${tensor.offset}, expected ${expected} (padded to ${alignment})`,
      );
    tensor.offset += dataStart;
    end = tensor.offset + tensor.byteLength;
    if (end > fileSize)
      throw new NiftError('NIFT_GGUF_TRUNCATED', `${where} ends at byte ${end}, but the file has ${fileSize}`, {
        hint: 'The download or copy did not finish. Fetch the file again.',
      });
    expected = alignUp(expected + tensor.byteLength, alignment);
  }
  if (fileSize > Math.max(alignUp(end, alignment), dataStart + expected))
    throw new NiftError('NIFT_GGUF_TRAILING', `${file}: ${fileSize - end} bytes after the last tensor belong to none`);
}
