/** `train`: from a recipe to a finished, stopped or already finished run. */
import { useBackend } from '../backend/index.js';
import type { Recipe, RecipeValues } from '../config/recipe.js';
import { NiftError } from '../errors.js';
import type { CausalLM } from '../model/causalLM.js';
import { loadModelConfig, type ModelConfig } from '../model/config.js';
import { loadTrainingData, type TrainingData } from './data.js';
import type { OnEvent, TrainResult } from './events.js';
import { loadModel } from './method.js';
import { openOutput } from './output.js';
import { abandonFolder, hashModelFolder, type RunIdentity } from './outputFolder.js';
import { buildPlan, type TrainingPlan } from './plan.js';
import { Run } from './run.js';

export interface TrainOptions {
  onEvent?: OnEvent;
  /** Once aborted, the current step is finished, a checkpoint is saved, and `train` returns with status `stopped`. */
  signal?: AbortSignal;
}

/**
 * Trains as the recipe says, or goes on with the run that its output folder holds.
 * @throws NIFT_OUTPUT_DIR, NIFT_RESUME, NIFT_DATA_*, NIFT_MODEL_*, NIFT_NON_FINITE, NIFT_LOSS_SCALE, NIFT_DISK_FULL, ...
 */
export async function train(recipe: Recipe, options: TrainOptions = {}): Promise<TrainResult> {
  const { values } = recipe;
  const emit = options.onEvent ?? (() => undefined);
  await useBackend(values.backend, { threads: values.threads ?? undefined });
  const config = await loadModelConfig(values.model_name_or_path);
  const data = await loadTrainingData(recipe, config, options.signal).catch((error: unknown) => {
    if (options.signal?.aborted !== true || error instanceof NiftError) throw error;
    return null;
  });
  if (data === null) return stoppedEarly(values);
  const plan = buildPlan(values, config, data);
  emit({ type: 'plan', plan });
  for (const message of plan.warnings) emit({ type: 'warning', message });
  const identity = runIdentity(values, data);
  const start = openOutput(values, identity, emit);
  if (start.kind === 'finished') return alreadyFinished(values, plan, start.run.finished);
  const model = await loadChecked(values, config, plan).catch((error: unknown) => {
    // Nothing has been trained, so nothing is left behind.
    abandonFolder(values.output_dir);
    throw error;
  });
  const run = new Run({ values, plan, data, identity, model, emit });
  try {
    if (start.kind === 'resume') run.restore(start.checkpoint);
    run.openLog();
    return await run.train(options.signal);
  } finally {
    run.dispose();
  }
}

async function loadChecked(values: RecipeValues, config: ModelConfig, plan: TrainingPlan): Promise<CausalLM> {
  checkDisk(plan);
  return loadModel(values, config);
}

function runIdentity(values: RecipeValues, data: TrainingData): RunIdentity {
  const adapter = values.adapter_name_or_path;
  return {
    recipe: values,
    data: data.hash,
    base: hashModelFolder(values.model_name_or_path),
    adapter: adapter === null ? null : hashModelFolder(adapter),
  };
}

/** Stopped while the data was read: nothing has been written. */
function stoppedEarly(values: RecipeValues): TrainResult {
  return {
    status: 'stopped',
    outputDir: values.output_dir,
    step: 0,
    totalSteps: 0,
    trainLoss: null,
    seconds: 0,
    logHistory: [],
    checkpoint: null,
  };
}

function alreadyFinished(
  values: RecipeValues,
  plan: TrainingPlan,
  finished: { step: number; trainLoss: number | null; seconds: number } | null,
): TrainResult {
  return {
    status: 'already-finished',
    outputDir: values.output_dir,
    step: finished?.step ?? plan.steps.totalSteps,
    totalSteps: plan.steps.totalSteps,
    trainLoss: finished?.trainLoss ?? null,
    seconds: finished?.seconds ?? 0,
    logHistory: [],
    checkpoint: null,
  };
}

function checkDisk({ disk, outputDir }: TrainingPlan): void {
  if (disk.needed <= disk.free) return;
  throw new NiftError(
    'NIFT_DISK_FULL',
    `output_dir ${outputDir}: ${disk.kept} checkpoints and the result take ${disk.needed} bytes, ${disk.free} are free`,
    { hint: 'Set save_total_limit, raise save_steps, or choose another volume.', details: { ...disk }, exitCode: 1 },
  );
}
