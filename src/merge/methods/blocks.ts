/** Tensors of open checkpoints read block by block as float32, so that memory does not grow with them. */
import { closeSync } from 'node:fs';
import { addon } from '../../backend/addon.js';
import { halfToFloat } from '../../formats/half.js';
import { guardIo, openForReading, readFully } from '../../formats/io.js';
import { SAFETENSORS_DTYPES, type SafetensorsFile, type TensorEntry } from '../../formats/safetensors.js';
import { STORAGE_OF, type StoredTensor } from '../mergeTensor.js';

/** Elements of a block: large enough for few reads, small enough for the cache of a core. */
export const BLOCK_ELEMENTS = 1 << 16;

/** The tensors of one or more open files by name, as places in files. Closes the descriptors that it opens, not the files. */
export class StoredTensors {
  private readonly fileOf = new Map<string, SafetensorsFile>();
  private readonly descriptors = new Map<string, number>();

  constructor(files: readonly SafetensorsFile[]) {
    for (const file of files) for (const name of file.names()) this.fileOf.set(name, file);
  }

  names(): string[] {
    return [...this.fileOf.keys()];
  }
  has(name: string): boolean {
    return this.fileOf.has(name);
  }
  info(name: string): TensorEntry {
    return this.fileOf.get(name)!.info(name);
  }
  stored(name: string): StoredTensor {
    const { path } = this.fileOf.get(name)!;
    const { dtype, shape, offset, byteLength } = this.info(name);
    let fd = this.descriptors.get(path);
    if (fd === undefined) this.descriptors.set(path, (fd = openForReading(path).fd));
    return { name, dtype, shape, path, fd, offset, byteLength };
  }
  /** Idempotent. */
  close(): void {
    for (const fd of this.descriptors.values()) closeSync(fd);
    this.descriptors.clear();
  }
}

export const elementsOf = (tensor: StoredTensor): number => tensor.byteLength / SAFETENSORS_DTYPES[tensor.dtype];

/** Whether a tensor holds floats that we convert. */
export const isFloat = (tensor: Pick<StoredTensor, 'dtype'>): boolean => STORAGE_OF[tensor.dtype] !== undefined;

/** Reads one float tensor in blocks; every call fills the same buffers. */
export class BlockReader {
  private readonly bytes: Uint8Array;
  private readonly values: Float32Array;

  constructor(
    private readonly tensor: StoredTensor,
    blockElements = BLOCK_ELEMENTS,
  ) {
    const elements = Math.min(blockElements, elementsOf(tensor));
    this.bytes = new Uint8Array(elements * SAFETENSORS_DTYPES[tensor.dtype]);
    this.values = tensor.dtype === 'F32' ? new Float32Array(this.bytes.buffer) : new Float32Array(elements);
  }

  /** Elements [first, first + count) as float32, valid until the next call. @throws NIFT_FILE_IO */
  read(first: number, count: number): Float32Array {
    const { dtype, path, fd, offset, name } = this.tensor;
    const width = SAFETENSORS_DTYPES[dtype];
    const target = this.bytes.subarray(0, count * width);
    guardIo(path, `read ${name}`, () => {
      if (!readFully(fd, target, offset + first * width)) throw new Error('the file has become shorter since it was opened');
    });
    const values = this.values.subarray(0, count);
    if (dtype === 'F16' || dtype === 'BF16') {
      const bits = new Uint16Array(target.buffer, 0, count);
      const native = addon();
      if (native) native.halfToFloat(bits, dtype === 'BF16' ? 1 : 2, values);
      else halfToFloat(bits, dtype, values);
    }
    return values;
  }
}

/** Calls `visit` for each block of `elements` elements, in order. */
export function forBlocks(elements: number, visit: (first: number, count: number) => void, blockElements = BLOCK_ELEMENTS): void {
  for (let first = 0; first < elements; first += blockElements) visit(first, Math.min(blockElements, elements - first));
}
