/**
 * What an unfinished output folder (`OUT.partial`) holds for sure: one JSON line for the plan, one per finished shard with its size and
 * CRC-32. A shard's line is appended after the shard is complete (and synced), so a line never says too much; a torn last line is
 * dropped.
 */
import { closeSync, existsSync, fsyncSync, openSync, readFileSync, statSync, writeSync } from 'node:fs';
import path from 'node:path';
import { crc32File } from '../formats/crc32.js';
import { guardIo } from '../formats/io.js';
import { VERSION } from '../version.js';

export const JOURNAL_FILE = 'nift_journal.jsonl';

export interface ShardRecord {
  file: string;
  bytes: number;
  crc32: string;
}

interface PlanRecord {
  nift: string;
  /** Hash of everything that the output follows from. */
  plan: string;
  pid: number;
}

export interface Journal {
  plan: PlanRecord;
  shards: ShardRecord[];
}

/** null when the folder has none, or only a torn first line. */
export function readJournal(folder: string): Journal | null {
  const file = path.join(folder, JOURNAL_FILE);
  if (!existsSync(file)) return null;
  const lines = guardIo(file, 'read', () => readFileSync(file, 'utf8')).split('\n');
  lines.pop(); // What follows the last line break is torn, or nothing.
  const [plan, ...shards] = lines.map(parseLine);
  const known = (plan ?? null) as PlanRecord | null;
  if (known === null || typeof known.plan !== 'string') return null;
  return { plan: known, shards: shards.filter(isShard) };
}

function parseLine(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return null;
  }
}

const isShard = (value: unknown): value is ShardRecord =>
  typeof value === 'object' && value !== null && 'file' in value && typeof value.file === 'string' && 'crc32' in value;

/** Starts the journal of a fresh folder, or takes over that of a resumed one. */
export function startJournal(folder: string, plan: string, kept: readonly ShardRecord[]): void {
  const file = path.join(folder, JOURNAL_FILE);
  const lines = [{ nift: VERSION, plan, pid: process.pid }, ...kept].map((line) => `${JSON.stringify(line)}\n`);
  append(file, lines.join(''), 'w');
}

export function recordShard(folder: string, shard: ShardRecord): void {
  append(path.join(folder, JOURNAL_FILE), `${JSON.stringify(shard)}\n`, 'a');
}

function append(file: string, text: string, flags: 'a' | 'w'): void {
  guardIo(file, 'write', () => {
    const fd = openSync(file, flags);
    try {
      writeSync(fd, text);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  });
}

/** Whether a shard still is what the journal says. Reads it all. */
export function isIntact(folder: string, shard: ShardRecord): boolean {
  const file = path.join(folder, shard.file);
  return existsSync(file) && statSync(file).size === shard.bytes && crc32File(file) === shard.crc32;
}

/** Whether the process that wrote the journal is still at work (and is not this one). */
export function isBusy(journal: Journal): boolean {
  if (journal.plan.pid === process.pid) return false;
  try {
    process.kill(journal.plan.pid, 0);
    return true;
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}
