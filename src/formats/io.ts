/** File system calls of this folder: every failure leaves as a NiftError that names the path. */
import { closeSync, existsSync, fstatSync, fsyncSync, mkdirSync, openSync, readSync, statSync, writeSync } from 'node:fs';
import path from 'node:path';
import { NiftError } from '../errors.js';

/** The most that one read or write call moves: some kernels refuse 2^31 bytes and more. */
const CHUNK = 1 << 30;

const errno = (error: unknown): string | undefined =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;

/** Whether a file system call failed because nothing is there. */
export const isMissing = (error: unknown): boolean => errno(error) === 'ENOENT' || errno(error) === 'ENOTDIR';

/** Turns the failure of a file system call into a NiftError; NiftErrors pass unchanged. */
export function ioError(error: unknown, file: string, action: string): NiftError {
  if (error instanceof NiftError) return error;
  const code = errno(error);
  if (isMissing(error)) return new NiftError('NIFT_FILE_NOT_FOUND', `${file}: no such file or folder`, { cause: error });
  if (code === 'ENOSPC' || code === 'EDQUOT' || code === 'EFBIG')
    return new NiftError('NIFT_DISK_FULL', `${file}: no space left to ${action}`, {
      cause: error,
      exitCode: 1,
      hint: 'Nothing partial was left behind. Free some space, or write to another disk.',
    });
  const reason = error instanceof Error ? error.message : String(error);
  if (error instanceof RangeError && /allocation failed|Invalid typed array length/.test(reason))
    return new NiftError('NIFT_OUT_OF_MEMORY', `${file}: no memory to ${action}`, { cause: error, exitCode: 1 });
  return new NiftError('NIFT_FILE_IO', `${file}: cannot ${action}: ${reason}`, { cause: error, exitCode: 1 });
}

/** Runs a file system call on `file`; its failure becomes a NiftError ("cannot ACTION"). */
export function guardIo<T>(file: string, action: string, call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw ioError(error, file, action);
  }
}

/** Makes a folder and its parents. Node's own `recursive` never returns where a folder cannot be made, as in /proc. */
export function makeFolder(folder: string): void {
  if (existsSync(folder)) return;
  makeFolder(path.dirname(path.resolve(folder)));
  try {
    mkdirSync(folder);
  } catch (error) {
    // Somebody else was faster.
    if (errno(error) !== 'EEXIST') throw error;
  }
}

/** Opens a regular file for reading (a pipe or device would block) and returns its descriptor and size in bytes. */
export function openForReading(file: string): { fd: number; size: number } {
  return guardIo(file, 'open', () => {
    if (!statSync(file).isFile()) throw new NiftError('NIFT_FILE_IO', `${file}: not a regular file`);
    const fd = openSync(file, 'r');
    try {
      return { fd, size: fstatSync(fd).size };
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  });
}

/** Fills `target` from `position`; false when the file ends before. */
export function readFully(fd: number, target: Uint8Array, position: number): boolean {
  let done = 0;
  while (done < target.length) {
    const count = readSync(fd, target, done, Math.min(CHUNK, target.length - done), position + done);
    if (count === 0) return false;
    done += count;
  }
  return true;
}

/** Writes all of `data` at the descriptor's position. */
export function writeFully(fd: number, data: Uint8Array): void {
  let done = 0;
  while (done < data.length) done += writeSync(fd, data, done, Math.min(CHUNK, data.length - done));
}

/** Makes a folder's entries (a rename, a new file) durable. Platforms that cannot sync a folder are left alone. */
export function syncFolder(folder: string): void {
  let fd: number;
  try {
    fd = openSync(folder, 'r');
  } catch {
    return;
  }
  try {
    fsyncSync(fd);
  } catch (error) {
    const code = errno(error);
    if (code !== 'EINVAL' && code !== 'EPERM' && code !== 'EISDIR' && code !== 'ENOTSUP' && code !== 'EBADF') throw error;
  } finally {
    closeSync(fd);
  }
}
