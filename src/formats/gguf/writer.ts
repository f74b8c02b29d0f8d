/** Writes GGUF 3 files. Tensors come in chunks, so that one needs not fit into memory; the file appears whole or not at all. */
import { NiftError, quote } from '../../errors.js';
import { atomicFile } from '../atomic.js';
import { writeFully } from '../io.js';
import {
  ALIGNMENT_KEY,
  alignUp,
  DEFAULT_ALIGNMENT,
  GGUF_MAGIC,
  GGUF_VERSION,
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
} from './types.js';

export interface GgufTensorToWrite {
  name: string;
  type: TensorType;
  /** Slowest axis first, as in safetensors; the file has them the other way round. */
  shape: readonly number[];
  /** The bytes, in order. Called when the tensor's turn comes; each chunk is written before the next is asked for. */
  chunks: () => Iterable<Uint8Array>;
}

/**
 * @returns bytes of the file
 * @throws NIFT_GGUF_TENSOR, NIFT_GGUF_KEY for tensors and keys that contradict the format, NIFT_DISK_FULL, NIFT_FILE_*
 */
export function writeGguf(file: string, metadata: ReadonlyMap<string, GgufValue>, tensors: readonly GgufTensorToWrite[]): number {
  const sizes = tensors.map((tensor) => checkedBytes(tensor, file));
  const header = buildHeader(file, metadata, tensors, sizes);
  let size = header.length;
  atomicFile(file, (fd) => {
    writeFully(fd, header);
    tensors.forEach((tensor, i) => {
      let written = 0;
      for (const chunk of tensor.chunks()) {
        written += chunk.length;
        if (written > sizes[i]!) break;
        writeFully(fd, chunk);
      }
      if (written !== sizes[i])
        throw tensorError(
          file,
          tensor.name,
          `${tensor.type} [${tensor.shape.join(', ')}] takes ${sizes[i]} bytes, ${written} were given`,
        );
      const padded = alignUp(written, DEFAULT_ALIGNMENT);
      writeFully(fd, new Uint8Array(padded - written));
      size += padded;
    });
  });
  return size;
}

const tensorError = (file: string, name: string, problem: string): NiftError =>
  new NiftError('NIFT_GGUF_TENSOR', `${file}: tensor ${quote(name)}: ${problem}`);

function checkedBytes({ name, type, shape }: GgufTensorToWrite, file: string): number {
  if (name === '' || Buffer.byteLength(name) > MAX_TENSOR_NAME)
    throw tensorError(file, name, `a name has 1 to ${MAX_TENSOR_NAME} bytes`);
  if (shape.length === 0 || shape.length > MAX_RANK || !shape.every((size) => Number.isSafeInteger(size) && size > 0))
    throw tensorError(file, name, `[${shape.join(', ')}] is not a shape of 1 to ${MAX_RANK} axes`);
  const bytes = tensorBytes(type, shape);
  if (Number.isSafeInteger(bytes)) return bytes;
  throw tensorError(file, name, `${type} cannot store [${shape.join(', ')}]`);
}

function buildHeader(
  file: string,
  metadata: ReadonlyMap<string, GgufValue>,
  tensors: readonly GgufTensorToWrite[],
  sizes: readonly number[],
): Uint8Array {
  if (metadata.has(ALIGNMENT_KEY)) throw new NiftError('NIFT_GGUF_KEY', `${file}: ${ALIGNMENT_KEY} is not for callers to set`);
  const bytes = new ByteBuilder();
  bytes.scalar('u32', GGUF_MAGIC);
  bytes.scalar('u32', GGUF_VERSION);
  bytes.scalar('u64', tensors.length);
  bytes.scalar('u64', metadata.size);
  for (const [key, value] of metadata) {
    bytes.scalar('string', key);
    bytes.value(value);
  }
  let offset = 0;
  const seen = new Set<string>();
  tensors.forEach(({ name, type, shape }, i) => {
    if (seen.has(name)) throw tensorError(file, name, 'given twice');
    seen.add(name);
    bytes.scalar('string', name);
    bytes.scalar('u32', shape.length);
    for (const size of [...shape].reverse()) bytes.scalar('u64', size);
    bytes.scalar('u32', TENSOR_TYPES[type].id);
    bytes.scalar('u64', offset);
    offset += alignUp(sizes[i]!, DEFAULT_ALIGNMENT);
  });
  return bytes.padded(DEFAULT_ALIGNMENT);
}

class ByteBuilder {
  private buffer = Buffer.alloc(1 << 16);
  private length = 0;

  private room(count: number): number {
    const start = this.length;
    this.length += count;
    if (this.length > this.buffer.length) {
      const larger = Buffer.alloc(Math.max(this.length, this.buffer.length * 2));
      this.buffer.copy(larger, 0, 0, start);
      this.buffer = larger;
    }
    return start;
  }

  value(value: GgufValue): void {
    this.scalar('u32', VALUE_TYPES.indexOf(value.type));
    if (value.type !== 'array') {
      this.scalar(value.type, value.value);
      return;
    }
    this.scalar('u32', VALUE_TYPES.indexOf(value.of));
    this.scalar('u64', value.value.length);
    for (const item of value.value) this.scalar(value.of, item);
  }

  scalar(type: ScalarType, value: Scalar): void {
    if (type === 'string') {
      const bytes = Buffer.from(String(value));
      this.scalar('u64', bytes.length);
      const at = this.room(bytes.length);
      bytes.copy(this.buffer, at);
      return;
    }
    const at = this.room(VALUE_BYTES[type]);
    if (type === 'u64') this.buffer.writeBigUInt64LE(BigInt(value), at);
    else if (type === 'i64') this.buffer.writeBigInt64LE(BigInt(value), at);
    else writeNumber(this.buffer, type, Number(value), at);
  }

  padded(alignment: number): Uint8Array {
    this.room(alignUp(this.length, alignment) - this.length);
    return this.buffer.subarray(0, this.length);
  }
}

/** Out of range values throw a RangeError: a bug of ours, not of the input. */
function writeNumber(buffer: Buffer, type: Exclude<ScalarType, 'string' | 'u64' | 'i64'>, value: number, at: number): void {
  switch (type) {
    case 'u8':
    case 'bool':
      buffer.writeUInt8(value, at);
      break;
    case 'i8':
      buffer.writeInt8(value, at);
      break;
    case 'u16':
      buffer.writeUInt16LE(value, at);
      break;
    case 'i16':
      buffer.writeInt16LE(value, at);
      break;
    case 'u32':
      buffer.writeUInt32LE(value, at);
      break;
    case 'i32':
      buffer.writeInt32LE(value, at);
      break;
    case 'f32':
      buffer.writeFloatLE(value, at);
      break;
    case 'f64':
      buffer.writeDoubleLE(value, at);
      break;
  }
}
