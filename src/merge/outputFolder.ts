/** Checks of an output folder and of the space on its disk before anything is written. */
import { existsSync, readdirSync, realpathSync, statfsSync, statSync } from 'node:fs';
import path from 'node:path';
import { NiftError } from '../errors.js';
import { guardIo } from '../formats/io.js';

/** Where the output grows until it is complete. */
export const partialFolder = (out: string): string => `${path.resolve(out)}.partial`;

/** @throws NIFT_OUTPUT_DIR when `out` is one of the inputs, holds or lies in one, or is not empty (and `overwrite` is off) */
export function checkOutputFolder(out: string, inputs: readonly string[], overwrite: boolean): void {
  const target = real(out);
  for (const input of inputs) {
    const source = real(input);
    if (target === source || contains(target, source) || contains(source, target))
      throw new NiftError('NIFT_OUTPUT_DIR', `${out}: is, holds, or lies in the input ${input}`, {
        hint: 'Name a new folder beside it: the source is never changed.',
      });
  }
  if (!existsSync(out)) return;
  if (!statSync(out).isDirectory()) throw new NiftError('NIFT_OUTPUT_DIR', `${out}: is a file, expected a folder`);
  if (!overwrite && guardIo(out, 'list', () => readdirSync(out)).length > 0)
    throw new NiftError('NIFT_OUTPUT_DIR', `${out}: already exists and is not empty`, {
      hint: 'Name another folder, or add --overwrite to replace this one.',
    });
}

const contains = (outer: string, inner: string): boolean => inner.startsWith(outer + path.sep);

/** The path without symbolic links, as far as it exists. */
export function real(file: string): string {
  const target = path.resolve(file);
  if (existsSync(target)) return realpathSync(target);
  const parent = path.dirname(target);
  return parent === target ? target : path.join(real(parent), path.basename(target));
}

/** Bytes that this user may still write where `folder` is or will be; null where the system does not say. */
export function freeBytes(folder: string): number | null {
  let at = path.resolve(folder);
  while (!existsSync(at) && path.dirname(at) !== at) at = path.dirname(at);
  try {
    const { bavail, bsize } = statfsSync(at);
    return bavail * bsize;
  } catch {
    return null;
  }
}

/** @throws NIFT_DISK_FULL when `needed` bytes do not fit beside `folder` */
export function checkSpace(folder: string, needed: number): void {
  const free = freeBytes(folder);
  if (free === null || free >= needed) return;
  throw new NiftError('NIFT_DISK_FULL', `${folder}: ${needed} bytes to write, ${free} are free on this disk`, {
    exitCode: 1,
    hint: 'Nothing was written. Free some space, or name a folder on another disk.',
    details: { neededBytes: needed, freeBytes: free },
  });
}
