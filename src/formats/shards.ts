/**
 * The weights of a checkpoint folder: `model.safetensors`, or shards named by `model.safetensors.index.json`.
 *
 * The index comes from strangers: a path in it may not leave the folder, and index and shards must name the same tensors.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { NiftError, quote } from '../errors.js';
import { isMissing } from './io.js';
import { isJsonObject, readJsonObject, type JsonObject } from './jsonText.js';
import {
  openSafetensors,
  tensorNotFound,
  type OpenOptions,
  type SafetensorsFile,
  type TensorData,
  type TensorEntry,
  type TensorSource,
} from './safetensors.js';

export const WEIGHTS_FILE = 'model.safetensors';
export const INDEX_FILE = 'model.safetensors.index.json';

export interface CheckpointIndex {
  /** Tensor name -> file name inside the folder. */
  weightMap: Map<string, string>;
  metadata: JsonObject;
}

/** Opens the weights of a checkpoint folder. A single file wins over an index, as in transformers. */
export function openCheckpointTensors(folder: string, options: OpenOptions = {}): CheckpointTensors {
  const single = path.join(folder, WEIGHTS_FILE);
  const index = path.join(folder, INDEX_FILE);
  if (existsSync(single)) {
    const file = openSafetensors(single, options);
    return new CheckpointTensors(folder, new Map(file.names().map((name) => [name, file])), [file], file.metadata);
  }
  if (!existsSync(index)) throw noWeights(folder);
  return openShards(folder, readIndex(index), options);
}

function noWeights(folder: string): NiftError {
  const pickled = ['pytorch_model.bin', 'pytorch_model.bin.index.json'].find((name) => existsSync(path.join(folder, name)));
  return new NiftError('NIFT_FILE_NOT_FOUND', `${folder}: neither ${WEIGHTS_FILE} nor ${INDEX_FILE} is there`, {
    hint: pickled
      ? `${pickled} is a pickle, which can run code when it is read. Fetch the safetensors files of this checkpoint.`
      : 'Name a folder with a Hugging Face checkpoint.',
  });
}

/** Reads and checks an index file by itself. @throws NIFT_INDEX, NIFT_INDEX_PATH */
export function readIndex(file: string): CheckpointIndex {
  const root = readJsonObject(file, { utf8: 'NIFT_INDEX', syntax: 'NIFT_INDEX', duplicate: 'NIFT_INDEX' });
  const map = Object.hasOwn(root, 'weight_map') ? root['weight_map'] : undefined;
  if (!isJsonObject(map))
    throw new NiftError('NIFT_INDEX', `${file}: "weight_map" is not an object of file names by tensor name`);
  const weightMap = new Map<string, string>();
  for (const [name, shard] of Object.entries(map)) {
    if (typeof shard !== 'string') throw new NiftError('NIFT_INDEX', `${file}: the shard of ${quote(name)} is not a file name`);
    checkShardPath(shard, file);
    weightMap.set(name, shard);
  }
  if (weightMap.size === 0) throw new NiftError('NIFT_INDEX', `${file}: "weight_map" names no tensor`);
  const metadata = Object.hasOwn(root, 'metadata') && isJsonObject(root['metadata']) ? root['metadata'] : {};
  return { weightMap, metadata };
}

/** A shard is a relative path that stays inside the folder, in any platform's spelling. */
function checkShardPath(shard: string, file: string): void {
  const parts = shard.split(/[/\\]/);
  const leaves = path.posix.isAbsolute(shard) || path.win32.isAbsolute(shard) || /^[a-zA-Z]:/.test(shard) || parts.includes('..');
  if (!leaves && shard !== '' && !shard.includes('\0')) return;
  throw new NiftError('NIFT_INDEX_PATH', `${file}: the shard path ${quote(shard)} is not a file inside the folder`, {
    hint: 'Do not use this checkpoint: its index points at files of yours.',
  });
}

// Symbolic links are followed: the hub's cache consists of them, and whoever made the folder made the links.
function openShards(folder: string, index: CheckpointIndex, options: OpenOptions): CheckpointTensors {
  const shardNames = [...new Set(index.weightMap.values())].sort();
  const files = new Map<string, SafetensorsFile>();
  try {
    const absent: string[] = [];
    for (const shard of shardNames) {
      try {
        files.set(shard, openSafetensors(path.join(folder, shard), options));
      } catch (error) {
        if (!(error instanceof NiftError && error.code === 'NIFT_FILE_NOT_FOUND' && isMissing(error.cause))) throw error;
        absent.push(shard);
      }
    }
    if (absent.length > 0)
      throw new NiftError(
        'NIFT_FILE_NOT_FOUND',
        `${folder}: ${absent.length} of ${shardNames.length} shards are missing: ${absent.join(', ')}`,
        {
          hint: 'Fetch the missing files of this checkpoint.',
          details: { missing: absent },
        },
      );
    checkIndexAgainstShards(folder, index, files);
  } catch (error) {
    for (const file of files.values()) file.close();
    throw error;
  }
  const owner = new Map([...index.weightMap].map(([name, shard]) => [name, files.get(shard)!]));
  return new CheckpointTensors(folder, owner, [...files.values()], files.values().next().value?.metadata ?? {});
}

function checkIndexAgainstShards(folder: string, index: CheckpointIndex, files: Map<string, SafetensorsFile>): void {
  const problems: string[] = [];
  for (const [name, shard] of index.weightMap)
    if (!files.get(shard)!.has(name)) problems.push(`${quote(name)} is not in ${shard}, where the index puts it`);
  for (const [shard, file] of files)
    for (const name of file.names()) {
      const claimed = index.weightMap.get(name);
      if (claimed === undefined) problems.push(`${quote(name)} is in ${shard}, but not in the index`);
      else if (claimed !== shard && files.get(claimed)!.has(name))
        problems.push(`${quote(name)} is in ${shard} and in ${claimed}`);
    }
  if (problems.length === 0) return;
  const shown = problems.slice(0, 10).join('; ');
  const more = problems.length > 10 ? `; and ${problems.length - 10} more` : '';
  throw new NiftError(
    'NIFT_INDEX',
    `${path.join(folder, INDEX_FILE)}: ${problems.length} disagreements with its shards: ${shown}${more}`,
    {
      details: { problems },
    },
  );
}

export class CheckpointTensors implements TensorSource {
  constructor(
    readonly folder: string,
    private readonly owner: Map<string, SafetensorsFile>,
    /** The files, in name order. */
    readonly files: readonly SafetensorsFile[],
    /** `__metadata__` of the first file. */
    readonly metadata: Record<string, string>,
  ) {}

  names(): string[] {
    return [...this.owner.keys()];
  }
  has(name: string): boolean {
    return this.owner.has(name);
  }
  private file(name: string): SafetensorsFile {
    const file = this.owner.get(name);
    if (!file) throw tensorNotFound(name, this.folder, this.owner.keys());
    return file;
  }
  /** `offset` counts from the start of the tensor's own file. */
  info(name: string): TensorEntry {
    return this.file(name).info(name);
  }
  bytes(name: string): Uint8Array {
    return this.file(name).bytes(name);
  }
  typed(name: string): TensorData {
    return this.file(name).typed(name);
  }
  readFloat32(name: string): Float32Array {
    return this.file(name).readFloat32(name);
  }
  /** Name -> shape, for `matchTensors`. */
  shapes(): Map<string, number[]> {
    return new Map(this.names().map((name) => [name, this.info(name).shape]));
  }
  close(): void {
    for (const file of this.files) file.close();
  }
}
