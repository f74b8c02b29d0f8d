/** A Hugging Face checkpoint folder: config.json, generation_config.json, weights, and the tokenizer's files, which are carried along. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { NiftError } from '../errors.js';
import { atomicFile, atomicFolderSync, type FolderOptions } from './atomic.js';
import { guardIo } from './io.js';
import { readJsonObject, stableJson, type JsonObject } from './jsonText.js';
import type { OpenOptions } from './safetensors.js';
import { writeShards, type ShardOptions, type TensorToWrite } from './safetensorsWriter.js';
import { openCheckpointTensors, type CheckpointTensors } from './shards.js';

export const CONFIG_FILE = 'config.json';
export const GENERATION_CONFIG_FILE = 'generation_config.json';

/** What belongs to the tokenizer, in any of its generations. */
export const TOKENIZER_FILES = [
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'tokenizer.model',
  'vocab.json',
  'merges.txt',
  'chat_template.jinja',
  'chat_template.json',
] as const;

export interface Checkpoint {
  folder: string;
  /** config.json as it stands. */
  config: JsonObject;
  /** null when the file is absent. */
  generationConfig: JsonObject | null;
  tensors: CheckpointTensors;
  /** Names of the tokenizer's files that are there. */
  tokenizerFiles: string[];
  /** Closes the weights. Idempotent. */
  close(): void;
}

/** Reads config.json. @throws NIFT_FILE_NOT_FOUND with a hint when the folder is no checkpoint; NIFT_JSON */
export function readConfig(folder: string): JsonObject {
  const file = path.join(folder, CONFIG_FILE);
  if (!existsSync(file)) {
    const adapter = existsSync(path.join(folder, 'adapter_config.json'));
    throw new NiftError('NIFT_FILE_NOT_FOUND', `${folder}: ${CONFIG_FILE} is not there`, {
      hint: adapter
        ? 'This folder holds an adapter. Name its base model as the model, and this folder as the adapter.'
        : 'Name a folder with a Hugging Face checkpoint (config.json, *.safetensors).',
    });
  }
  return readJsonObject(file);
}

/** generation_config.json, or null. */
export function readGenerationConfig(folder: string): JsonObject | null {
  const file = path.join(folder, GENERATION_CONFIG_FILE);
  return existsSync(file) ? readJsonObject(file) : null;
}

/** Opens a checkpoint folder: configs are read, weights are mapped, nothing is loaded. */
export function openCheckpoint(folder: string, options: OpenOptions = {}): Checkpoint {
  const config = readConfig(folder);
  const generationConfig = readGenerationConfig(folder);
  const tensors = openCheckpointTensors(folder, options);
  return { folder, config, generationConfig, tensors, tokenizerFiles: tokenizerFilesOf(folder), close: () => tensors.close() };
}

export function tokenizerFilesOf(folder: string): string[] {
  return guardIo(folder, 'list', () => {
    const names = new Set(readdirSync(folder));
    return TOKENIZER_FILES.filter((name) => names.has(name));
  });
}

/** Copies the tokenizer's files from one folder to another, each atomically. @returns their names */
export function copyTokenizer(from: string, to: string): string[] {
  const names = tokenizerFilesOf(from);
  if (path.resolve(from) === path.resolve(to)) return names;
  for (const name of names) {
    const bytes = guardIo(path.join(from, name), 'read', () => readFileSync(path.join(from, name)));
    atomicFile(path.join(to, name), bytes);
  }
  return names;
}

export interface CheckpointContent extends ShardOptions {
  config: object;
  generationConfig?: object | null;
  tensors: Iterable<TensorToWrite>;
  /** A folder whose tokenizer files are copied. */
  tokenizerFrom?: string;
}

/** Writes a checkpoint into an existing folder, each file atomically, weights last. @returns the file names written */
export function writeCheckpointFiles(folder: string, content: CheckpointContent): string[] {
  const written = content.tokenizerFrom === undefined ? [] : copyTokenizer(content.tokenizerFrom, folder);
  atomicFile(path.join(folder, CONFIG_FILE), `${stableJson(content.config)}\n`);
  written.push(CONFIG_FILE);
  if (content.generationConfig) {
    atomicFile(path.join(folder, GENERATION_CONFIG_FILE), `${stableJson(content.generationConfig)}\n`);
    written.push(GENERATION_CONFIG_FILE);
  }
  return [...written, ...writeShards(folder, content.tensors, content)];
}

/** Writes a checkpoint as a new folder, whole or not at all. */
export function writeCheckpoint(folder: string, content: CheckpointContent, options: FolderOptions = {}): string[] {
  return atomicFolderSync(folder, (temporary) => writeCheckpointFiles(temporary, content), options);
}
