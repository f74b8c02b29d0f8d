/** The bytes of a file: mapped when the addon can, read at positions otherwise. Callers cannot tell. */
import { closeSync, fstatSync } from 'node:fs';
import { addon, type Addon } from '../backend/addon.js';
import { NiftError } from '../errors.js';
import { guardIo, openForReading, readFully } from './io.js';

interface Mapping {
  native: Addon;
  handle: object;
}

export class ByteSource {
  private fd: number | undefined;
  private mapping: Mapping | null;

  private constructor(
    private readonly file: string,
    readonly size: number,
    fd: number,
    map: boolean,
  ) {
    this.fd = fd;
    this.mapping = map && size > 0 ? mapFile(fd, size) : null;
  }

  /** Opens a regular file. @param map false: never map it */
  static open(file: string, map = true): ByteSource {
    const { fd, size } = openForReading(file);
    return new ByteSource(file, size, fd, map);
  }

  /** True when `bytes` gives views of the page cache instead of copies. */
  get mapped(): boolean {
    return this.mapping !== null;
  }

  /**
   * The bytes [offset, offset + length) in an ArrayBuffer of their own, so that any typed view of them is aligned in JavaScript. They
   * stay valid after close(). Where offset is not a multiple of `alignment` they are copied.
   */
  bytes(offset: number, length: number, alignment: number): Uint8Array {
    if (!this.mapping || offset % alignment !== 0) return this.copy(offset, length);
    const { native, handle } = this.mapping;
    return this.guard(offset, length, (fd) => {
      // Touching a page behind the end of a file is a SIGBUS.
      if (fstatSync(fd).size < offset + length) throw becameShorter();
      return new Uint8Array(native.mapView(handle, offset, length));
    });
  }

  /** The same bytes, read from the file. */
  copy(offset: number, length: number): Uint8Array {
    return this.guard(offset, length, (fd) => {
      const target = new Uint8Array(length);
      if (!readFully(fd, target, offset)) throw becameShorter();
      return target;
    });
  }

  private guard(offset: number, length: number, read: (fd: number) => Uint8Array): Uint8Array {
    const fd = this.fd;
    if (fd === undefined) throw new NiftError('NIFT_FILE_IO', `${this.file}: used after close()`, { exitCode: 1 });
    return guardIo(this.file, `read ${length} bytes at ${offset}`, () => read(fd));
  }

  /** Idempotent. */
  close(): void {
    if (this.fd !== undefined) closeSync(this.fd);
    this.fd = undefined;
    this.mapping?.native.unmapFile(this.mapping.handle);
  }
}

/** null where the addon is absent, or the file system or platform does not map files. */
function mapFile(fd: number, size: number): Mapping | null {
  const native = addon();
  if (!native) return null;
  try {
    return { native, handle: native.mapFile(fd, size) };
  } catch {
    return null;
  }
}

const becameShorter = (): Error => new Error('the file has become shorter since it was opened');
