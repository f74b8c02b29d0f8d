/**
 * Safetensors files: tensors by name, without copies.
 *
 * The file is mapped through the addon; each tensor is an ArrayBuffer of its own over that mapping, which lives until the file is
 * closed and the last view is gone. A write into a view changes a private page and never the file. Without the addon the same calls
 * read at positions. Everything in the header is checked before any size in it is believed.
 *
 * A file that was cut short before a tensor is asked for gives an error. One that another process truncates while views of it are in use
 * ends this process (SIGBUS): replace such files by renaming, as everything here does.
 */
import { addon } from '../backend/addon.js';
import { nearest, NiftError, quote } from '../errors.js';
import { ByteSource } from './byteSource.js';
import { halfToFloat } from './half.js';
import {
  headerLength,
  parseHeader,
  SAFETENSORS_DTYPES,
  type SafetensorsDtype,
  type SafetensorsHeader,
  type TensorEntry,
} from './safetensorsHeader.js';

export { SAFETENSORS_DTYPES, type SafetensorsDtype, type TensorEntry } from './safetensorsHeader.js';

/** What `typed` returns for a dtype. F16 and BF16 come as their bits, BOOL as 0 and 1. */
export interface TypedArrays {
  F64: Float64Array;
  F32: Float32Array;
  F16: Uint16Array;
  BF16: Uint16Array;
  I64: BigInt64Array;
  I32: Int32Array;
  I16: Int16Array;
  I8: Int8Array;
  U8: Uint8Array;
  BOOL: Uint8Array;
}
export type TensorData = TypedArrays[SafetensorsDtype];

const VIEWS: {
  [D in SafetensorsDtype]: new (buffer: ArrayBufferLike, byteOffset: number, length: number) => TypedArrays[D];
} = {
  F64: Float64Array,
  F32: Float32Array,
  F16: Uint16Array,
  BF16: Uint16Array,
  I64: BigInt64Array,
  I32: Int32Array,
  I16: Int16Array,
  I8: Int8Array,
  U8: Uint8Array,
  BOOL: Uint8Array,
};

/** Something that gives tensors by name: one file, or all shards of a checkpoint. */
export interface TensorSource {
  names(): string[];
  has(name: string): boolean;
  info(name: string): TensorEntry;
  bytes(name: string): Uint8Array;
  typed(name: string): TensorData;
  readFloat32(name: string): Float32Array;
  close(): void;
}

export interface OpenOptions {
  /** Map the file when the addon can (default). False reads at positions. */
  map?: boolean;
}

/** Opens a safetensors file and checks its whole header. @throws NiftError NIFT_SAFETENSORS_*, NIFT_FILE_* */
export function openSafetensors(file: string, options: OpenOptions = {}): SafetensorsFile {
  const source = ByteSource.open(file, options.map ?? true);
  try {
    const length = headerLength(source.copy(0, Math.min(8, source.size)), source.size, file);
    const header = parseHeader(source.copy(8, length), source.size, file);
    return new SafetensorsFile(file, source, header);
  } catch (error) {
    source.close();
    throw error;
  }
}

export class SafetensorsFile implements TensorSource {
  constructor(
    readonly path: string,
    private readonly source: ByteSource,
    private readonly header: SafetensorsHeader,
  ) {}

  /** `__metadata__`, empty when absent. */
  get metadata(): Record<string, string> {
    return this.header.metadata;
  }
  /** Size of the file in bytes. */
  get byteLength(): number {
    return this.source.size;
  }
  /** Whether tensors are views of the file instead of copies. */
  get mapped(): boolean {
    return this.source.mapped;
  }

  /** In file order. */
  names(): string[] {
    return [...this.header.tensors.keys()];
  }
  has(name: string): boolean {
    return this.header.tensors.has(name);
  }
  /** @throws NIFT_TENSOR_NOT_FOUND */
  info(name: string): TensorEntry {
    const entry = this.header.tensors.get(name);
    if (!entry) throw tensorNotFound(name, this.path, this.header.tensors.keys());
    return entry;
  }

  /** The tensor's bytes, in an ArrayBuffer of exactly that length. */
  bytes(name: string): Uint8Array {
    const { offset, byteLength, dtype } = this.info(name);
    return this.source.bytes(offset, byteLength, SAFETENSORS_DTYPES[dtype]);
  }
  /** The tensor in the typed array of its dtype (half precision: its bits). */
  typed(name: string): TensorData {
    return typedView(this.info(name).dtype, this.bytes(name));
  }
  /** The values as float32, whatever the dtype. F32 is a view of the file, everything else a new array. */
  readFloat32(name: string): Float32Array {
    return toFloat32(this.info(name).dtype, this.typed(name));
  }
  /** Idempotent. Views that were handed out stay valid. */
  close(): void {
    this.source.close();
  }
}

export function tensorNotFound(name: string, where: string, names: Iterable<string>): NiftError {
  const near = nearest(name, names);
  return new NiftError('NIFT_TENSOR_NOT_FOUND', `${where}: no tensor ${quote(name)}`, {
    ...(near === undefined ? {} : { hint: `The nearest name is ${quote(near)}.` }),
  });
}

/** Bytes as the typed array of `dtype`; copies when they are not aligned for it. */
export function typedView<D extends SafetensorsDtype>(dtype: D, bytes: Uint8Array): TypedArrays[D] {
  const size = SAFETENSORS_DTYPES[dtype];
  const aligned = bytes.byteOffset % size === 0 ? bytes : bytes.slice();
  return new VIEWS[dtype](aligned.buffer, aligned.byteOffset, aligned.byteLength / size);
}

/** Values of `dtype` as float32; integers and doubles are rounded to nearest. A Float32Array is returned as it is. */
export function toFloat32(dtype: SafetensorsDtype, data: TensorData): Float32Array {
  if (data instanceof Float32Array) return data;
  if (data instanceof BigInt64Array) return Float32Array.from(data, Number);
  if (dtype === 'F16' || dtype === 'BF16') {
    const bits = data as Uint16Array;
    const out = new Float32Array(bits.length);
    const native = addon();
    if (native) native.halfToFloat(bits, dtype === 'BF16' ? 1 : 2, out);
    else halfToFloat(bits, dtype, out);
    return out;
  }
  return Float32Array.from(data as Exclude<TensorData, BigInt64Array>);
}
