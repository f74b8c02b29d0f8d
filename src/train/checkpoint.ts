/**
 * Checkpoints: folders `checkpoint-N` that hold everything a run needs to go on bit for bit.
 *
 *   adapter_config.json, adapter_model.safetensors   the adapter as PEFT reads it (or the whole model, finetuning_type: full)
 *   trainer.safetensors                              float32 masters and AdamW moments: param.NAME, m.NAME, v.NAME
 *   trainer_state.json                               log history, transformers' keys
 *   nift_state.json                                  the rest, written last: size and SHA-256 of every other file
 *
 * A folder is written under a temporary name, synced, then renamed, so it is there whole or not at all. Shuffling and
 * dropout are functions of the seed and the step: the step number is the only cursor.
 */
import { existsSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { tf, type Variable } from '../backend/tf.js';
import { NiftError } from '../errors.js';
import { atomicFolder, sha256File } from '../formats/atomic.js';
import { openSafetensors } from '../formats/safetensors.js';
import { writeSafetensors, type TensorToWrite } from '../formats/safetensorsWriter.js';
import type { AdamWState } from '../ops/adamw.js';
import { VERSION } from '../version.js';
import type { LogRow } from './events.js';
import type { LossScaleState } from './lossScale.js';
import type { RunIdentity } from './outputFolder.js';
import { TRAINER_STATE } from './logs.js';

export const STATE_FILE = 'nift_state.json';
const TENSOR_FILE = 'trainer.safetensors';
const FORMAT = 1;

/** Sums that run over the whole training. */
export interface Totals {
  /** Sum of the losses of all steps; divided by the steps it is `train_loss`. */
  lossSum: number;
  steps: number;
  tokens: number;
  supervisedTokens: number;
  samples: number;
  seconds: number;
  skippedSteps: number;
}

/** Losses since the last log row. */
export interface PendingLog {
  lossSum: number;
  weight: number;
}

export interface TrainingState {
  /** Optimizer steps done, skipped ones included. */
  step: number;
  /** Updates made: the schedule's and AdamW's clock. */
  updates: number;
  lossScale: LossScaleState | null;
  totals: Totals;
  pending: PendingLog;
  logHistory: LogRow[];
}

interface StateFile extends TrainingState {
  format: number;
  version: string;
  identity: RunIdentity;
  files: Record<string, { bytes: number; sha256: string }>;
}

/** The tensors that a checkpoint holds and restores. */
export interface TrainingTensors {
  params: ReadonlyMap<string, Variable>;
  optimizer: AdamWState;
}

export interface CheckpointContent {
  state: TrainingState;
  identity: RunIdentity;
  tensors: TrainingTensors;
  /** Writes the adapter or model files into the folder. */
  saveModel: (folder: string) => unknown;
  /** Text of trainer_state.json. */
  trainerState: string;
}

/** Writes `outputDir/checkpoint-STEP`, checks what reached the disk, and returns the folder. @throws NIFT_DISK_FULL, NIFT_FILE_IO */
export async function saveCheckpoint(outputDir: string, content: CheckpointContent): Promise<string> {
  const folder = path.join(outputDir, `checkpoint-${content.state.step}`);
  if (existsSync(folder)) rmSync(folder, { recursive: true });
  await atomicFolder(folder, async (temporary) => {
    content.saveModel(temporary);
    writeTensors(path.join(temporary, TENSOR_FILE), content.tensors);
    writeFileSync(path.join(temporary, TRAINER_STATE), content.trainerState);
    const files: StateFile['files'] = {};
    for (const name of readdirSync(temporary).sort()) {
      const file = path.join(temporary, name);
      files[name] = { bytes: statSync(file).size, sha256: sha256File(file) };
    }
    const state: StateFile = { format: FORMAT, version: VERSION, identity: content.identity, ...content.state, files };
    writeFileSync(path.join(temporary, STATE_FILE), JSON.stringify(state));
  });
  const problem = verifyCheckpoint(folder);
  if (problem !== null)
    throw new NiftError('NIFT_FILE_IO', `${folder}: ${problem} right after it was written`, {
      exitCode: 1,
      hint: 'The disk does not keep what is written to it; older checkpoints are still there.',
    });
  return folder;
}

function writeTensors(file: string, { params, optimizer }: TrainingTensors): void {
  const tensor = (name: string, variable: Variable): TensorToWrite => ({
    name,
    dtype: 'F32',
    shape: variable.shape,
    data: () => variable.dataSync<'float32'>(),
  });
  const tensors = [...params].flatMap(([name, variable], i) => [
    tensor(`param.${name}`, variable),
    tensor(`m.${name}`, optimizer.m[i]!),
    tensor(`v.${name}`, optimizer.v[i]!),
  ]);
  writeSafetensors(file, tensors, { format: 'nift' });
}

/** Steps of the checkpoints in a folder, newest first. */
export function listCheckpoints(outputDir: string): number[] {
  if (!existsSync(outputDir)) return [];
  const steps = readdirSync(outputDir).flatMap((name) => /^checkpoint-(\d+)$/.exec(name)?.[1] ?? []);
  return steps.map(Number).sort((a, b) => b - a);
}

/** Why a checkpoint cannot be used, or null when every file is there with the recorded size and hash. */
export function verifyCheckpoint(folder: string): string | null {
  let state: StateFile;
  try {
    state = readState(folder);
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
  if (state.format !== FORMAT) return `${STATE_FILE} has format ${state.format}, expected ${FORMAT}`;
  for (const [name, { bytes, sha256 }] of Object.entries(state.files)) {
    const file = path.join(folder, name);
    if (!existsSync(file)) return `${name} is missing`;
    const size = statSync(file).size;
    if (size !== bytes) return `${name} has ${size} bytes, expected ${bytes}`;
    if (sha256File(file) !== sha256) return `${name} does not have the recorded SHA-256`;
  }
  return null;
}

/** The state and identity that a verified checkpoint holds. */
export function readCheckpoint(folder: string): { state: TrainingState; identity: RunIdentity } {
  const { format: _format, version: _version, identity, files: _files, ...state } = readState(folder);
  return { state, identity };
}

function readState(folder: string): StateFile {
  const file = path.join(folder, STATE_FILE);
  if (!existsSync(file)) throw new NiftError('NIFT_RESUME', `${STATE_FILE} is missing`);
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as StateFile;
  } catch (cause) {
    throw new NiftError('NIFT_RESUME', `${STATE_FILE} is not valid JSON`, { cause });
  }
}

/** Puts the checkpoint's values into the variables, matched by name and shape. @throws NIFT_RESUME listing what does not fit */
export function restoreTensors(folder: string, { params, optimizer }: TrainingTensors): void {
  const source = openSafetensors(path.join(folder, TENSOR_FILE));
  try {
    const targets = new Map<string, Variable>();
    [...params].forEach(([name, variable], i) => {
      targets.set(`param.${name}`, variable);
      targets.set(`m.${name}`, optimizer.m[i]!);
      targets.set(`v.${name}`, optimizer.v[i]!);
    });
    const missing = [...targets].filter(
      ([name, { shape }]) => !source.has(name) || String(source.info(name).shape) !== String(shape),
    );
    const unknown = source.names().filter((name) => !targets.has(name));
    if (missing.length > 0 || unknown.length > 0)
      throw new NiftError(
        'NIFT_RESUME',
        `${folder}: ${missing.length} tensors are missing or have another shape, ${unknown.length} are unknown, ` +
          `first: ${missing[0]?.[0] ?? unknown[0]}`,
        { details: { missing: missing.map(([name]) => name), unknown } },
      );
    // The file may be mapped; a copy lets it go.
    for (const [name, variable] of targets) {
      tf.tidy(() => variable.assign(tf.tensor(source.readFloat32(name).slice(), variable.shape, 'float32')));
    }
  } finally {
    source.close();
  }
}

/**
 * Deletes all but the newest `keep` checkpoints up to `step`, the one that has just been verified. Later ones are not of this
 * run, or damaged: they neither count nor go.
 */
export function rotateCheckpoints(outputDir: string, keep: number | null, step: number): void {
  if (keep === null) return;
  const ours = listCheckpoints(outputDir).filter((other) => other <= step);
  for (const old of ours.slice(Math.max(1, keep))) rmSync(path.join(outputDir, `checkpoint-${old}`), { recursive: true });
}
