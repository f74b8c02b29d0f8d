/** Where one tensor of a shard goes: its bytes arrive in order, and their CRC-32 is kept. */
import { write } from 'node:fs';
import { promisify } from 'node:util';
import { NiftError } from '../errors.js';
import { combineCrc32, crc32 } from '../formats/crc32.js';
import { ioError } from '../formats/io.js';

const writeAt = promisify(write);

export class TensorSink {
  /** CRC-32 of what has been written. */
  crc = 0;
  private done = 0;

  /**
   * @param fd descriptor of the shard; -1 only counts and sums
   * @param offset bytes from its start to the tensor
   */
  constructor(
    readonly fd: number,
    readonly path: string,
    private readonly offset: number,
    readonly byteLength: number,
  ) {}

  /** Where in the file the next byte belongs. */
  get position(): number {
    return this.offset + this.done;
  }

  get complete(): boolean {
    return this.done === this.byteLength;
  }

  /** Appends bytes; they may be changed again once the promise is fulfilled. @throws NIFT_DISK_FULL, NIFT_FILE_IO */
  async write(bytes: Uint8Array): Promise<void> {
    this.claim(bytes.length);
    try {
      for (let at = 0; this.fd >= 0 && at < bytes.length;)
        at += (await writeAt(this.fd, bytes, at, bytes.length - at, this.position + at)).bytesWritten;
    } catch (error) {
      throw ioError(error, this.path, 'write');
    }
    this.crc = crc32(bytes, this.crc);
    this.done += bytes.length;
  }

  /** Accounts for bytes that somebody else has written at `position`. */
  wrote(byteLength: number, crcOfThem: number): void {
    this.claim(byteLength);
    this.crc = combineCrc32(this.crc, crcOfThem, byteLength);
    this.done += byteLength;
  }

  private claim(byteLength: number): void {
    if (this.done + byteLength <= this.byteLength) return;
    throw new NiftError('NIFT_INTERNAL', `${this.path}: ${this.done + byteLength} bytes for a tensor of ${this.byteLength}`);
  }
}
