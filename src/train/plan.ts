/**
 * What a training run will do, as plain data, before any weight is loaded: `nift train --dry-run` prints it, `train` checks
 * the disk against it, tests compare it with what was measured.
 */
import { existsSync, statfsSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { addon } from '../backend/addon.js';
import type { ComputeDtype, StorageDtype } from '../backend/dtype.js';
import type { Recipe, RecipeValues } from '../config/recipe.js';
import { countTargets } from '../data/batch.js';
import { loadModelConfig, type ModelConfig } from '../model/config.js';
import { loraTargets } from '../model/lora.js';
import { parameterCount, parameterShapes } from '../model/parameters.js';
import { resolveDtype } from '../model/weights.js';
import { censusWarnings, loadTrainingData, type TrainingData } from './data.js';
import { loraConfig, startingAdapter } from './method.js';
import { planMemory, type MemoryPlan } from './memoryPlan.js';
import { warmupSteps } from './schedule.js';
import { Windows, type StepPlan, type WindowOptions } from './windows.js';

export interface TrainingPlan {
  model: {
    path: string;
    architecture: string;
    parameters: number;
    nonEmbeddingParameters: number;
    layers: number;
    contextLength: number;
  };
  method: { type: 'lora' | 'full'; trainableParameters: number; trainableTensors: number; trainableShare: number };
  dtype: { policy: string; checkpoint: StorageDtype; storage: StorageDtype; compute: ComputeDtype; reason: string };
  data: {
    rows: number;
    tokens: number;
    supervisedTokens: number;
    longestRow: number;
    /** Tokens of the largest micro-batch of the run: what memory is planned for. */
    largestBatchTokens: number;
    census: TrainingData['census'];
  };
  steps: StepPlan & { warmupSteps: number; rowsPerStep: number; tokens: number; supervisedTokens: number };
  /** Bytes. */
  memory: MemoryPlan & { available: number };
  disk: { bytesPerSave: number; saves: number[]; kept: number; needed: number; free: number };
  outputDir: string;
  warnings: string[];
}

/**
 * Reads the recipe's config and data, but no weights.
 * @throws what reading them throws (NIFT_MODEL_*, NIFT_DATA_*, ...)
 */
export async function planTraining(recipe: Recipe): Promise<TrainingPlan> {
  const config = await loadModelConfig(recipe.values.model_name_or_path);
  return buildPlan(recipe.values, config, await loadTrainingData(recipe, config));
}

/** The plan for data that has been read already. */
export function buildPlan(values: RecipeValues, config: ModelConfig, data: TrainingData): TrainingPlan {
  const windows = new Windows(windowOptions(values, data.rows.length));
  const largest = largestBatch(windows, data);
  const method = planMethod(values, config);
  const dtype = planDtype(values, config);
  const full = values.finetuning_type === 'full';
  const supervised = data.rows.reduce((sum, row) => sum + countTargets(row.labels), 0);
  const tokens = data.rows.reduce((sum, row) => sum + row.inputIds.length, 0);
  const memory = planMemory({
    config,
    fileDtype: dtype.checkpoint,
    storage: dtype.storage,
    full,
    trainableParameters: method.trainableParameters,
    adapters: method.adapters,
    dropout: method.dropout > 0,
    checkpointing: values.gradient_checkpointing,
    batchTokens: largest.tokens,
    batchTargets: largest.targets,
    accumulation: values.gradient_accumulation_steps,
    dataTokens: tokens,
    varied: largest.smallest < largest.tokens,
    text: data.template !== null,
    native: values.backend === 'native' && addon() !== null,
  });
  const warmup = warmupSteps({ steps: values.warmup_steps, ratio: values.warmup_ratio, totalSteps: windows.plan.totalSteps });
  const plan: TrainingPlan = {
    model: {
      path: values.model_name_or_path,
      architecture: config.architecture,
      parameters: parameterCount(config),
      nonEmbeddingParameters: parameterCount(config) - config.vocabSize * config.hiddenSize,
      layers: config.numLayers,
      contextLength: config.contextLength,
    },
    method: {
      type: values.finetuning_type,
      trainableParameters: method.trainableParameters,
      trainableTensors: method.trainableTensors,
      trainableShare: method.trainableParameters / (parameterCount(config) + (full ? 0 : method.trainableParameters)),
    },
    dtype,
    data: {
      rows: data.rows.length,
      tokens,
      supervisedTokens: supervised,
      longestRow: data.rows.reduce((longest, row) => Math.max(longest, row.inputIds.length), 0),
      largestBatchTokens: largest.tokens,
      census: data.census,
    },
    steps: {
      ...windows.plan,
      warmupSteps: warmup,
      rowsPerStep: values.per_device_train_batch_size * values.gradient_accumulation_steps,
      tokens: Math.round(tokens * windows.plan.epochs),
      supervisedTokens: Math.round(supervised * windows.plan.epochs),
    },
    memory: { ...memory, available: os.freemem() },
    disk: planDisk(values, windows.plan.totalSteps, method.trainableParameters),
    outputDir: values.output_dir,
    warnings: [],
  };
  plan.warnings = [...censusWarnings(data.census), ...planWarnings(plan)];
  return plan;
}

export function windowOptions(values: RecipeValues, rows: number): WindowOptions {
  return {
    rows,
    batchSize: values.per_device_train_batch_size,
    accumulation: values.gradient_accumulation_steps,
    mode: values.gradient_accumulation_mode,
    epochs: values.num_train_epochs,
    maxSteps: values.max_steps,
    shuffle: !values.disable_shuffling,
    seed: values.data_seed,
  };
}

/** The most tokens and targets that any micro-batch of the run holds, and the fewest tokens. */
function largestBatch(windows: Windows, data: TrainingData): { tokens: number; targets: number; smallest: number } {
  const largest = { tokens: 0, targets: 0, smallest: Infinity };
  for (let step = 0; step < windows.plan.totalSteps; step++) {
    for (const batch of windows.step(step)) {
      let tokens = 0;
      let targets = 0;
      for (const row of batch) {
        tokens += data.rows[row]!.inputIds.length;
        targets += data.targets[row]!;
      }
      largest.tokens = Math.max(largest.tokens, tokens);
      largest.targets = Math.max(largest.targets, targets);
      largest.smallest = Math.min(largest.smallest, tokens);
    }
  }
  return largest;
}

interface MethodPlan {
  trainableParameters: number;
  trainableTensors: number;
  adapters: { r: number; in: number; out: number }[];
  dropout: number;
}

function planMethod(values: RecipeValues, config: ModelConfig): MethodPlan {
  if (values.finetuning_type === 'full')
    return {
      trainableParameters: parameterCount(config),
      trainableTensors: parameterShapes(config).size,
      adapters: [],
      dropout: 0,
    };
  const lora = startingAdapter(values) ?? loraConfig(values);
  const targets = loraTargets(config, lora);
  const trainableParameters = targets.reduce((sum, target) => sum + target.r * (target.in + target.out), 0);
  const adapters = targets.filter((target) => target.layer === targets[0]?.layer);
  return { trainableParameters, trainableTensors: 2 * targets.length, adapters, dropout: lora.dropout ?? 0 };
}

function planDtype(values: RecipeValues, config: ModelConfig): TrainingPlan['dtype'] {
  const checkpoint = config.dtype ?? 'float32';
  const { storage, compute } = resolveDtype(values.dtype, checkpoint);
  const reasons: Record<RecipeValues['dtype'], string> = {
    auto: `the checkpoint is ${checkpoint}`,
    float32: 'asked for; 16-bit weights stay as stored and are expanded exactly',
    bfloat16: 'asked for',
    float16: 'asked for; gradients are kept in range by dynamic loss scaling',
  };
  const full = values.finetuning_type === 'full';
  return {
    policy: values.dtype,
    checkpoint,
    storage: full ? 'float32' : (storage ?? checkpoint),
    compute,
    reason: full ? `${reasons[values.dtype]}; every weight is trained, so all are float32 masters` : reasons[values.dtype],
  };
}

function planDisk(values: RecipeValues, totalSteps: number, trainable: number): TrainingPlan['disk'] {
  // Masters and two moments, and the same weights once more in the form that others read.
  const bytesPerSave = trainable * 16;
  const saves: number[] = [];
  for (let step = values.save_steps; step < totalSteps; step += values.save_steps) saves.push(step);
  saves.push(totalSteps);
  const kept = Math.min(saves.length, values.save_total_limit ?? saves.length);
  // While a checkpoint is being written the one it replaces is still there; the result itself comes on top.
  const needed = bytesPerSave * (kept + (kept < saves.length ? 1 : 0)) + trainable * 4;
  return { bytesPerSave, saves, kept, needed, free: freeBytes(values.output_dir) };
}

/** Free bytes on the volume that will hold `folder`. */
export function freeBytes(folder: string): number {
  let place = path.resolve(folder);
  while (!existsSync(place)) place = path.dirname(place);
  const { bavail, bsize } = statfsSync(place);
  return bavail * bsize;
}

function planWarnings(plan: TrainingPlan): string[] {
  const warnings: string[] = [];
  if (plan.memory.total > plan.memory.available)
    warnings.push(
      `about ${size(plan.memory.total)} of memory needed, ${size(plan.memory.available)} free: lower ` +
        'per_device_train_batch_size or cutoff_len, or set gradient_checkpointing: true',
    );
  if (plan.disk.needed > plan.disk.free)
    warnings.push(
      `checkpoints need ${size(plan.disk.needed)}, ${size(plan.disk.free)} are free at ${plan.outputDir}: set save_total_limit`,
    );
  if (plan.data.longestRow > plan.model.contextLength)
    warnings.push(`the longest row has ${plan.data.longestRow} tokens, the model's context is ${plan.model.contextLength}`);
  return warnings;
}

const size = (bytes: number): string => (bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`);
