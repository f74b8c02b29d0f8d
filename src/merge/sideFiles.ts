/** Everything of a checkpoint folder that is not weights: what is carried over, and config.json made consistent with the weights. */
import { mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import path from 'node:path';
import type { StorageDtype } from '../backend/dtype.js';
import { atomicFile } from '../formats/atomic.js';
import { CONFIG_FILE } from '../formats/checkpoint.js';
import { guardIo } from '../formats/io.js';
import { stableJson, type JsonObject } from '../formats/jsonText.js';
import { MANIFEST_FILE } from '../formats/manifest.js';

/** Weights in any format, and what indexes them. */
const WEIGHTS = /\.(safetensors|bin|pt|pth|gguf|ggml|msgpack|h5|ot|onnx|pkl|ckpt|npz|tflite|nemo)$|\.index\.json$/i;
/** Describes the source only; the output has its own. */
const OWN = new Set(['README.md', MANIFEST_FILE, 'nift_run.json', 'nift_journal.jsonl']);
/** Logs and states of the training that made the source. */
const TRAINING =
  /^(trainer_(log\.jsonl|state\.json)|(train|all|eval)_results\.json|training_(loss|args).*|optimizer.*|scheduler.*|rng_state.*)$/;
/** Chat templates may be many: transformers keeps them in this folder. */
const FOLDERS = new Set(['additional_chat_templates']);
const MAX_BYTES = 256 * 2 ** 20;

/** Files of `folder` that belong to a changed copy of it, and the others. Symbolic links count as what they point at. */
export function sideFilesOf(folder: string): { carried: string[]; left: string[] } {
  const carried: string[] = [];
  const left: string[] = [];
  for (const name of guardIo(folder, 'list', () => readdirSync(folder)).sort()) {
    if (name === CONFIG_FILE || name.startsWith('.')) continue;
    const status = guardIo(path.join(folder, name), 'look at', () => statSync(path.join(folder, name)));
    if (status.isDirectory() && FOLDERS.has(name))
      carried.push(...readdirSync(path.join(folder, name)).map((child) => path.posix.join(name, child)));
    else if (status.isFile() && status.size <= MAX_BYTES && !WEIGHTS.test(name) && !OWN.has(name) && !TRAINING.test(name))
      carried.push(name);
    else left.push(status.isDirectory() ? `${name}/` : name);
  }
  return { carried, left };
}

/** Bytes of those files on disk, with room for config, card and manifest. */
export function sideBytes(folder: string, names: readonly string[]): number {
  const sizes = names.map((name) => guardIo(path.join(folder, name), 'look at', () => statSync(path.join(folder, name)).size));
  return sizes.reduce((total, size) => total + size + BLOCK, 8 * BLOCK);
}

/** Files take whole blocks. */
const BLOCK = 4096;

export interface SideFiles {
  config: JsonObject;
  /** config.json can be copied byte for byte. */
  unchanged: boolean;
  carried: readonly string[];
  /** Written in the place of those of the source, or beside them. */
  extra: ReadonlyMap<string, string | Uint8Array>;
}

/** Writes the side files into the folder of finished weights, config.json last: it makes the folder a checkpoint. */
export function writeSideFiles(from: string, to: string, files: SideFiles): void {
  for (const name of files.carried) {
    if (files.extra.has(name)) continue;
    const bytes = guardIo(path.join(from, name), 'read', () => readFileSync(path.join(from, name)));
    guardIo(to, 'create', () => mkdirSync(path.dirname(path.join(to, name)), { recursive: true }));
    atomicFile(path.join(to, name), bytes);
  }
  for (const [name, content] of files.extra) atomicFile(path.join(to, name), content);
  const config = path.join(from, CONFIG_FILE);
  atomicFile(
    path.join(to, CONFIG_FILE),
    files.unchanged ? guardIo(config, 'read', () => readFileSync(config)) : `${stableJson(files.config)}\n`,
  );
}

/** config.json for weights stored as `dtype`: the keys that name it, at every level, in the spelling that the file uses. */
export function configWithDtype(config: JsonObject, dtype: StorageDtype): JsonObject {
  const edited = withDtype(config, dtype);
  return 'torch_dtype' in edited || 'dtype' in edited ? edited : { ...edited, torch_dtype: dtype };
}

function withDtype(config: JsonObject, dtype: StorageDtype): JsonObject {
  return Object.fromEntries(
    Object.entries(config).map(([key, value]) => {
      if (key === 'torch_dtype' || key === 'dtype') return [key, dtype];
      const nested = key.endsWith('_config') && key !== 'quantization_config' && typeof value === 'object' && value !== null;
      return [key, nested && !Array.isArray(value) ? withDtype(value, dtype) : value];
    }),
  );
}
