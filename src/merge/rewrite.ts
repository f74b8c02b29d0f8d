/**
 * A checkpoint rewritten tensor by tensor: the pass under every command that makes a checkpoint out of checkpoints.
 *
 * `planRewrite` reads headers only and says which tensors the output has, in which files, and what that takes; `runRewrite` writes them
 * one at a time into `OUT.partial`, then the index, the side files and the manifest, and renames the folder. Memory holds blocks of one
 * tensor, never a tensor list. Killed at any moment, the partial folder has no config.json and is taken up again by `resume`.
 */
import { createHash } from 'node:crypto';
import { closeSync, existsSync, fsync, mkdirSync, openSync, rmSync, statSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { addon } from '../backend/addon.js';
import type { StorageDtype } from '../backend/dtype.js';
import { NiftError } from '../errors.js';
import { publishFolder } from '../formats/atomic.js';
import { openCheckpoint, type Checkpoint } from '../formats/checkpoint.js';
import { combineCrc32, crc32, crc32Text } from '../formats/crc32.js';
import { guardIo, ioError, openForReading, syncFolder, writeFully } from '../formats/io.js';
import type { JsonObject } from '../formats/jsonText.js';
import { writeManifest } from '../formats/manifest.js';
import { byteLengthOf, SAFETENSORS_DTYPES, type TensorEntry } from '../formats/safetensorsHeader.js';
import {
  buildHeader,
  DEFAULT_SHARD_BYTES,
  fileOrder,
  planShards,
  PT_METADATA,
  shardNames,
  writeIndex,
  type TensorDescription,
} from '../formats/safetensorsWriter.js';
import { INDEX_FILE } from '../formats/shards.js';
import { isBusy, isIntact, JOURNAL_FILE, readJournal, recordShard, startJournal, type ShardRecord } from './journal.js';
import { errnoName, FILE_DTYPE, mergeTensor, STORAGE_OF, type LowRankChange, type StoredTensor } from './mergeTensor.js';
import { checkOutputFolder, checkSpace, partialFolder } from './outputFolder.js';
import { configWithDtype, sideBytes, sideFilesOf, writeSideFiles } from './sideFiles.js';
import { TensorSink } from './tensorSink.js';

const sync = promisify(fsync);

/** A tensor of the output. */
export interface PlannedTensor extends TensorDescription {
  /** Writes exactly its bytes, in order. Called once, when its turn comes. */
  write: (sink: TensorSink) => Promise<void>;
  /** The source tensor whose bytes it has, unchanged. */
  copyOf?: string;
  /** Bytes held while it is written, beyond blocks (factors, a second source). */
  workingBytes?: number;
}

/** A checkpoint open for reading at positions. */
export class RewriteSource {
  readonly checkpoint: Checkpoint;
  private readonly descriptors = new Map<string, number>();
  private readonly pathOf = new Map<string, string>();

  constructor(readonly folder: string) {
    // Positions instead of maps: a source that is cut short is an error, not a signal, and no page of it counts as ours.
    this.checkpoint = openCheckpoint(folder, { map: false });
    for (const file of this.checkpoint.tensors.files) for (const name of file.names()) this.pathOf.set(name, file.path);
  }

  names(): string[] {
    return this.checkpoint.tensors.names();
  }
  has(name: string): boolean {
    return this.checkpoint.tensors.has(name);
  }
  info(name: string): TensorEntry {
    return this.checkpoint.tensors.info(name);
  }

  /** The tensor as a place in an open file. */
  stored(name: string): StoredTensor {
    const { dtype, shape, offset, byteLength } = this.info(name);
    const file = this.pathOf.get(name)!;
    let fd = this.descriptors.get(file);
    if (fd === undefined) this.descriptors.set(file, (fd = openForReading(file).fd));
    return { name, dtype, shape, path: file, fd, offset, byteLength };
  }

  /** Idempotent. */
  close(): void {
    this.checkpoint.close();
    for (const fd of this.descriptors.values()) closeSync(fd);
    this.descriptors.clear();
  }

  /** A tensor of the output that has this one's values, converted when `dtype` says so, plus `changes`. */
  carry(
    name: string,
    options: { dtype?: RewriteDtype; as?: string; changes?: () => LowRankChange[]; workingBytes?: number } = {},
  ): PlannedTensor {
    const { dtype: own, shape } = this.info(name);
    const wanted = options.dtype ?? 'keep';
    const dtype = wanted === 'keep' || STORAGE_OF[own] === undefined ? own : FILE_DTYPE[wanted];
    const { changes } = options;
    return {
      name: options.as ?? name,
      dtype,
      shape,
      write: (sink) => mergeTensor(this.stored(name), sink, dtype, changes?.() ?? []),
      ...(changes === undefined && dtype === own ? { copyOf: name } : {}),
      ...(options.workingBytes === undefined ? {} : { workingBytes: options.workingBytes }),
    };
  }
}

export type RewriteDtype = 'keep' | StorageDtype;

export interface RewriteOptions {
  /** Folder of the checkpoint that is rewritten. */
  model: string;
  /** What else the output follows from: plain JSON, part of the plan's hash and of the manifest. */
  config: JsonObject;
  /** For the manifest ("merge"). */
  command: string;
  /** The output's tensors for one of the source: undefined carries it over, an empty list drops it. */
  tensorTransform?: (name: string, entry: TensorEntry, source: RewriteSource) => readonly PlannedTensor[] | undefined;
  /** Default keep. */
  dtype?: RewriteDtype;
  /** Default 5 GB. */
  maxShardBytes?: number;
  /** Changes to config.json beyond the dtype. */
  editConfig?: (config: JsonObject) => JsonObject;
  /** Files to add or put in the place of the source's, by name. */
  extraFiles?: ReadonlyMap<string, string | Uint8Array>;
  /** Other folders that are read: never the output. */
  inputs?: readonly string[];
}

export interface RewritePlan {
  options: RewriteOptions;
  source: RewriteSource;
  shards: { file: string; tensors: PlannedTensor[]; header: Uint8Array; bytes: number }[];
  /** Files of the source that are carried over, and those that are not. */
  sideFiles: { carried: string[]; left: string[] };
  tensors: number;
  /** Elements of all tensors. */
  parameters: number;
  /** Bytes of the weights that will be written. */
  outputBytes: number;
  largestTensorBytes: number;
  /** Upper bound of memory held for tensors at any time. */
  workingBytes: number;
  /** Hash of everything that the output follows from. */
  hash: string;
}

/** Blocks of source and output, and two rows of float32, for one thread (native/bindings/merge_adapter.cpp), generously. */
const BLOCK_BYTES = 4 << 20;

/** Plans from headers alone. The caller closes `plan.source`. */
export function planRewrite(options: RewriteOptions): RewritePlan {
  const source = new RewriteSource(options.model);
  try {
    return planFrom(source, options);
  } catch (error) {
    source.close();
    throw error;
  }
}

function planFrom(source: RewriteSource, options: RewriteOptions): RewritePlan {
  const { model, dtype = 'keep' } = options;
  const planned = source
    .names()
    .flatMap((name) => options.tensorTransform?.(name, source.info(name), source) ?? [source.carry(name, { dtype })]);
  if (planned.length === 0) throw new NiftError('NIFT_CHECKPOINT_MISMATCH', `${model}: no tensor would be written`);
  const groups = planShards(planned, options.maxShardBytes ?? DEFAULT_SHARD_BYTES, model);
  const names = shardNames(groups.length);
  const shards = groups.map((group, i) => {
    const tensors = fileOrder(group);
    const header = buildHeader(tensors, PT_METADATA, names[i]!);
    return { file: names[i]!, tensors, header, bytes: header.length + sum(tensors.map(bytesOf)) };
  });
  const largestTensorBytes = Math.max(...planned.map(bytesOf));
  return {
    options,
    source,
    shards,
    sideFiles: sideFilesOf(model),
    tensors: planned.length,
    parameters: sum(planned.map((tensor) => bytesOf(tensor) / SAFETENSORS_DTYPES[tensor.dtype])),
    outputBytes: sum(shards.map((shard) => shard.bytes)),
    largestTensorBytes,
    workingBytes: BLOCK_BYTES * os.availableParallelism() + Math.max(0, ...planned.map((tensor) => tensor.workingBytes ?? 0)),
    hash: planHash(source, options, shards),
  };
}

const bytesOf = (tensor: TensorDescription): number => byteLengthOf(tensor.dtype, tensor.shape, tensor.name);
const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

/** Headers hold names, shapes, dtypes and order of the output; sizes and times stand for the source's contents. */
function planHash(
  source: RewriteSource,
  options: RewriteOptions,
  shards: readonly { file: string; header: Uint8Array }[],
): string {
  const hash = createHash('sha256');
  hash.update(JSON.stringify([options.command, options.config, source.checkpoint.config]));
  for (const file of source.checkpoint.tensors.files) hash.update(`${file.path}:${file.byteLength}:${modified(file.path)}\n`);
  for (const shard of shards) hash.update(`${shard.file}\n`).update(shard.header);
  return hash.digest('hex');
}

const modified = (file: string): number => guardIo(file, 'look at', () => statSync(file).mtimeMs);

export interface RunOptions {
  out: string;
  overwrite?: boolean;
  /** Take up what an interrupted run of the same plan has finished. */
  resume?: boolean;
  /** False: leave it to the system when data reaches the disk, as `cp` does. Default true. */
  sync?: boolean;
  signal?: AbortSignal;
  onProgress?: (progress: { bytes: number; totalBytes: number; tensor: string }) => void;
  /** Text of README.md. */
  readme?: string;
  /** Looks at the complete folder before it gets its name; throwing throws the output away. */
  check?: (folder: string) => Promise<void>;
}

export interface RewriteResult {
  out: string;
  files: ShardRecord[];
  /** CRC-32 of each tensor written in this run. */
  tensors: Map<string, number>;
  /** Shards taken over from an interrupted run. */
  resumedShards: number;
  /** An interrupted run was there and has been thrown away. */
  discarded: boolean;
  bytes: number;
}

/**
 * Writes the planned checkpoint.
 * @throws NIFT_OUTPUT_DIR, NIFT_RESUME, NIFT_DISK_FULL, NIFT_MERGE_OVERFLOW, NIFT_FILE_IO
 */
export async function runRewrite(plan: RewritePlan, run: RunOptions): Promise<RewriteResult> {
  checkOutputFolder(run.out, [plan.options.model, ...(plan.options.inputs ?? [])], run.overwrite ?? false);
  const partial = partialFolder(run.out);
  const { kept, discarded } = takeUp(partial, plan, run);
  const finished = new Map(kept.map((shard) => [shard.file, shard]));
  const missing = plan.shards.filter((shard) => !finished.has(shard.file));
  checkSpace(run.out, sum(missing.map((shard) => shard.bytes)) + sideBytes(plan.options.model, plan.sideFiles.carried));
  guardIo(partial, 'create', () => mkdirSync(partial, { recursive: true }));
  try {
    startJournal(partial, plan.hash, kept);
    const tensors = new Map<string, number>();
    await writeShards(plan, partial, run, finished, tensors);
    finishFolder(plan, partial, run, finished);
    await run.check?.(partial);
    rmSync(path.join(partial, JOURNAL_FILE));
    // Shards and small files are synced where they are written; the folder's own entries are not.
    if (run.sync !== false) syncFolder(partial);
    guardIo(run.out, 'create', () => publishFolder(partial, run.out, false));
    const files = plan.shards.map((shard) => finished.get(shard.file)!);
    return { out: run.out, files, tensors, resumedShards: kept.length, discarded, bytes: plan.outputBytes };
  } catch (error) {
    throw abandon(partial, plan, run, finished.size, error);
  }
}

/**
 * After a stop or on a full disk, finished shards wait for `resume`; after anything else the same would happen again, or the output is
 * wrong, so nothing stays.
 */
function abandon(partial: string, plan: RewritePlan, run: RunOptions, finished: number, error: unknown): unknown {
  const code = error instanceof NiftError ? error.code : undefined;
  if (finished === 0 || (code !== 'NIFT_INTERRUPTED' && code !== 'NIFT_DISK_FULL')) {
    rmSync(partial, { recursive: true, force: true });
    return error;
  }
  const done = new Set(readJournal(partial)?.shards.map((shard) => shard.file));
  for (const shard of plan.shards) if (!done.has(shard.file)) rmSync(path.join(partial, shard.file), { force: true });
  if (code !== 'NIFT_DISK_FULL') return error;
  return new NiftError('NIFT_DISK_FULL', `${run.out}: the disk is full after ${finished} of ${plan.shards.length} files`, {
    exitCode: 1,
    cause: error,
    hint: `They wait in ${partial}. Free some space and add --resume, or remove that folder.`,
  });
}

/** Decides what of an earlier run's partial folder stays; everything else of it is removed. */
function takeUp(partial: string, plan: RewritePlan, run: RunOptions): { kept: ShardRecord[]; discarded: boolean } {
  if (!existsSync(partial)) return { kept: [], discarded: false };
  const journal = readJournal(partial);
  if (journal === null)
    throw new NiftError('NIFT_OUTPUT_DIR', `${partial}: exists and is not an unfinished output of nift`, {
      hint: 'Remove or rename it, or name another output folder.',
    });
  if (isBusy(journal))
    throw new NiftError('NIFT_OUTPUT_DIR', `${partial}: process ${journal.plan.pid} is writing it`, {
      hint: 'Wait for it, or name another output folder.',
    });
  if (!run.resume) {
    rmSync(partial, { recursive: true });
    return { kept: [], discarded: true };
  }
  if (journal.plan.plan !== plan.hash)
    throw new NiftError('NIFT_RESUME', `${partial}: was begun with another model, adapter or options`, {
      hint: 'Give the same ones to continue, or leave out --resume to start anew.',
    });
  const expected = new Map(plan.shards.map((shard) => [shard.file, shard.bytes]));
  const kept = journal.shards.filter((shard) => expected.get(shard.file) === shard.bytes && isIntact(partial, shard));
  const names = new Set(kept.map((shard) => shard.file));
  for (const shard of plan.shards) if (!names.has(shard.file)) rmSync(path.join(partial, shard.file), { force: true });
  return { kept, discarded: false };
}

/** Writes what is not finished. A shard reaches the disk while the next one is computed. */
async function writeShards(
  plan: RewritePlan,
  partial: string,
  run: RunOptions,
  finished: Map<string, ShardRecord>,
  tensors: Map<string, number>,
): Promise<void> {
  let written = sum([...finished.values()].map((shard) => shard.bytes));
  let settling: Promise<void> = Promise.resolve();
  for (const shard of plan.shards) {
    if (finished.has(shard.file)) continue;
    const file = path.join(partial, shard.file);
    const fd = guardIo(file, 'create', () => openSync(file, 'w'));
    let open = true;
    try {
      reserve(fd, file, shard.bytes);
      let crc = crc32(shard.header);
      guardIo(file, 'write', () => writeFully(fd, shard.header));
      let offset = shard.header.length;
      for (const tensor of shard.tensors) {
        if (run.signal?.aborted) throw interrupted(run.out);
        run.onProgress?.({ bytes: written + offset, totalBytes: plan.outputBytes, tensor: tensor.name });
        const length = bytesOf(tensor);
        const sink = new TensorSink(fd, file, offset, length);
        await tensor.write(sink);
        if (!sink.complete) throw new NiftError('NIFT_INTERNAL', `${tensor.name}: fewer bytes were written than planned`);
        tensors.set(tensor.name, sink.crc);
        crc = combineCrc32(crc, sink.crc, length);
        offset += length;
      }
      written += shard.bytes;
      await settling;
      open = false;
      const record = { file: shard.file, bytes: shard.bytes, crc32: crc32Text(crc) };
      settling = settle(fd, file, run.sync !== false).then(() => {
        recordShard(partial, record);
        finished.set(shard.file, record);
      });
      settling.catch(() => undefined); // Awaited below or before the next shard's end.
    } catch (error) {
      if (open) closeSync(fd);
      await settling.catch(() => undefined);
      throw error;
    }
  }
  await settling;
}

async function settle(fd: number, file: string, toDisk: boolean): Promise<void> {
  try {
    if (toDisk) await sync(fd);
  } catch (error) {
    throw ioError(error, file, 'sync');
  } finally {
    closeSync(fd);
  }
}

/** A disk that is too small says so before the work is done. */
function reserve(fd: number, file: string, bytes: number): void {
  const failure = addon()?.reserveFile(fd, bytes) ?? 0;
  if (failure !== 0)
    throw ioError(Object.assign(new Error('fallocate'), { code: errnoName(failure) }), file, `reserve ${bytes} bytes`);
}

const interrupted = (out: string): NiftError =>
  new NiftError('NIFT_INTERRUPTED', `${out}: stopped before it was complete`, {
    exitCode: 1,
    hint: 'The same command with --resume goes on from the last finished file.',
  });

/** Index, side files, model card, config and manifest: after the weights, the manifest last. */
function finishFolder(plan: RewritePlan, partial: string, run: RunOptions, finished: Map<string, ShardRecord>): void {
  const { options, source } = plan;
  if (plan.shards.length > 1) {
    const groups = plan.shards.map((shard) => shard.tensors);
    const names = plan.shards.map((shard) => shard.file);
    writeIndex(path.join(partial, INDEX_FILE), groups, names);
  }
  const edited = options.editConfig?.(source.checkpoint.config) ?? source.checkpoint.config;
  const { dtype = 'keep' } = options;
  writeSideFiles(options.model, partial, {
    config: dtype === 'keep' ? edited : configWithDtype(edited, dtype),
    unchanged: dtype === 'keep' && options.editConfig === undefined,
    carried: plan.sideFiles.carried,
    extra: new Map([...(options.extraFiles ?? []), ...(run.readme === undefined ? [] : [['README.md', run.readme] as const])]),
  });
  writeManifest(partial, {
    command: options.command,
    config: options.config,
    base: options.model,
    except: JOURNAL_FILE,
    crc32: new Map([...finished.values()].map((shard) => [shard.file, shard.crc32])),
  });
}
