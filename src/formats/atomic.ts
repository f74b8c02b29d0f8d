/**
 * Files and folders that appear whole or not at all: write to `name.tmp-<pid>`, sync, rename, sync the folder around it.
 * After a crash at any moment the old content or the new one is there, never a mixture; the leftovers of dead processes are removed by
 * the next write to the same name.
 */
import { createHash } from 'node:crypto';
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs';
import path from 'node:path';
import { NiftError } from '../errors.js';
import { guardIo, ioError, makeFolder, openForReading, syncFolder, writeFully } from './io.js';

/** Text, bytes, or a function that writes to an open descriptor. */
export type FileContent = string | Uint8Array | ((fd: number) => void);

/** Writes one file atomically. On any failure nothing new is left behind. @throws NIFT_DISK_FULL, NIFT_FILE_* or what `content` throws */
export function atomicFile(file: string, content: FileContent): void {
  const temporary = `${file}.tmp-${process.pid}`;
  removeStale(file);
  const fd = guardIo(file, 'create', () => openSync(temporary, 'w'));
  let open = true;
  try {
    if (typeof content === 'function') content(fd);
    else writeFully(fd, typeof content === 'string' ? Buffer.from(content) : content);
    fsyncSync(fd);
    closeSync(fd);
    open = false;
    renameSync(temporary, file);
    syncFolder(path.dirname(file));
  } catch (error) {
    if (open) closeSync(fd);
    rmSync(temporary, { force: true });
    throw errorOf(error, file);
  }
}

/** Only failures of system calls are translated; what the caller's own function throws passes unchanged. */
const errorOf = (error: unknown, file: string): unknown =>
  error instanceof Error && 'syscall' in error ? ioError(error, file, 'write') : error;

export interface FolderOptions {
  /** Put the new folder in the place of an existing one. Without it a folder that is not empty is an error. */
  replace?: boolean;
}

/**
 * Makes a folder atomically.
 * @param fill writes the content into the temporary folder it is given
 * @returns what `fill` returned
 * @throws NIFT_OUTPUT_DIR when `folder` holds something and `replace` is off
 */
export async function atomicFolder<T>(
  folder: string,
  fill: (temporary: string) => T | Promise<T>,
  options: FolderOptions = {},
): Promise<T> {
  const temporary = prepareFolder(folder, options);
  try {
    const result = await fill(temporary);
    publishFolder(temporary, folder);
    return result;
  } catch (error) {
    rmSync(temporary, { recursive: true, force: true });
    throw errorOf(error, folder);
  }
}

/** `atomicFolder` for a `fill` that does not wait. */
export function atomicFolderSync<T>(folder: string, fill: (temporary: string) => T, options: FolderOptions = {}): T {
  const temporary = prepareFolder(folder, options);
  try {
    const result = fill(temporary);
    publishFolder(temporary, folder);
    return result;
  } catch (error) {
    rmSync(temporary, { recursive: true, force: true });
    throw errorOf(error, folder);
  }
}

function prepareFolder(folder: string, options: FolderOptions): string {
  const target = path.resolve(folder);
  return guardIo(folder, 'create', () => {
    makeFolder(path.dirname(target));
    removeStale(target);
    if (!options.replace && existsSync(target) && (!statSync(target).isDirectory() || readdirSync(target).length > 0))
      throw new NiftError('NIFT_OUTPUT_DIR', `${folder}: already exists and is not empty`, {
        hint: 'Name another folder, or remove this one.',
      });
    const temporary = `${target}.tmp-${process.pid}`;
    rmSync(temporary, { recursive: true, force: true });
    mkdirSync(temporary);
    return temporary;
  });
}

/** Puts a finished temporary folder in the place of `folder`. @param sync false: the caller has synced its files, or need not */
export function publishFolder(temporary: string, folder: string, sync = true): void {
  const target = path.resolve(folder);
  if (sync) syncTree(temporary);
  const old = `${target}.old-${process.pid}`;
  const replaces = existsSync(target);
  if (replaces) {
    rmSync(old, { recursive: true, force: true });
    renameSync(target, old);
  }
  try {
    renameSync(temporary, target);
  } catch (error) {
    if (replaces) renameSync(old, target);
    throw error;
  }
  syncFolder(path.dirname(target));
  if (replaces) rmSync(old, { recursive: true, force: true });
}

/** Syncs every file and folder below. */
function syncTree(folder: string): void {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const child = path.join(folder, entry.name);
    if (entry.isDirectory()) syncTree(child);
    else if (entry.isFile()) {
      const fd = openSync(child, 'r+');
      try {
        fsyncSync(fd);
      } finally {
        closeSync(fd);
      }
    }
  }
  syncFolder(folder);
}

/**
 * Removes what dead processes left beside `target`: `target.tmp-<pid>`, and `target.old-<pid>`, which goes back into its place when
 * the crash came between the two renames.
 */
function removeStale(target: string): void {
  const folder = path.dirname(target);
  const base = path.basename(target);
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch {
    return; // The write that follows says what is wrong with the folder.
  }
  for (const name of names) {
    if (!name.startsWith(`${base}.`)) continue;
    const match = /^\.(tmp|old)-(\d+)$/.exec(name.slice(base.length));
    if (!match || isAlive(Number(match[2]))) continue;
    const leftover = path.join(folder, name);
    if (match[1] === 'old' && !existsSync(target)) renameSync(leftover, target);
    else rmSync(leftover, { recursive: true, force: true });
  }
}

function isAlive(pid: number): boolean {
  if (pid === process.pid) return true;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}

/** SHA-256 of a file's bytes, hexadecimal. */
export function sha256File(file: string): string {
  const { fd } = openForReading(file);
  const hash = createHash('sha256');
  const window = new Uint8Array(1 << 20);
  return guardIo(file, 'read', () => {
    try {
      for (let count; (count = readSync(fd, window, 0, window.length, null)) > 0;) hash.update(window.subarray(0, count));
      return hash.digest('hex');
    } finally {
      closeSync(fd);
    }
  });
}
