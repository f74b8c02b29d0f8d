/** The bytes of a file: mapped when the addon can, read at positions otherwise. Callers cannot tell. */
import { closeSync } from 'node:fs';
import { addon } from '../backend/addon.js';
import { NiftError } from '../errors.js';
import { guardIo, openForReading, readFully } from './io.js';

export interface ByteSource {
  readonly size: number;
  /** True when `bytes` gives views of the page cache instead of copies. */
  readonly mapped: boolean;
  /**
   * The bytes [offset, offset + length) in an ArrayBuffer of their own, so that any typed view of them is aligned in JS. They stay
   * valid after close(). Where offset is not a multiple of `alignment` they are copied.
   */
  bytes(offset: number, length: number, alignment: number): Uint8Array;
  /** Idempotent. */
  close(): void;
}

/** Opens a regular file. @param map false: never map it */
export function openByteSource(file: string, map = true): ByteSource {
  const { fd, size } = openForReading(file);
  const native = map && size > 0 ? addon() : null;
  if (native) {
    try {
      const handle = native.mapFile(fd, size);
      closeSync(fd);
      return new MappedSource(file, size, handle);
    } catch {
      // This file system or platform does not map files: read them.
    }
  }
  return new ReadSource(file, size, fd);
}

class MappedSource implements ByteSource {
  readonly mapped = true;
  private handle: object | undefined;

  constructor(
    private readonly file: string,
    readonly size: number,
    handle: object,
  ) {
    this.handle = handle;
  }

  bytes(offset: number, length: number, alignment: number): Uint8Array {
    const native = addon();
    const handle = this.handle;
    if (!handle || !native) throw closedError(this.file);
    return guardIo(this.file, `read ${length} bytes at ${offset}`, () => {
      const view = new Uint8Array(native.mapView(handle, offset, length));
      return offset % alignment === 0 ? view : view.slice();
    });
  }

  close(): void {
    if (this.handle) addon()?.unmapFile(this.handle);
    this.handle = undefined;
  }
}

class ReadSource implements ByteSource {
  readonly mapped = false;
  private fd: number | undefined;

  constructor(
    private readonly file: string,
    readonly size: number,
    fd: number,
  ) {
    this.fd = fd;
  }

  bytes(offset: number, length: number): Uint8Array {
    const fd = this.fd;
    if (fd === undefined) throw closedError(this.file);
    return guardIo(this.file, `read ${length} bytes at ${offset}`, () => {
      const target = new Uint8Array(length);
      if (!readFully(fd, target, offset)) throw new Error('the file has become shorter since it was opened');
      return target;
    });
  }

  close(): void {
    if (this.fd !== undefined) closeSync(this.fd);
    this.fd = undefined;
  }
}

const closedError = (file: string): NiftError => new NiftError('NIFT_FILE_IO', `${file}: used after close()`, { exitCode: 1 });
