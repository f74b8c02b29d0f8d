/** nift's public API. Everything else is internal and may change without notice. */
export { ERROR_CODES, NiftError, type ErrorCode } from './errors.js';
export { VERSION } from './version.js';

// Backends and TF.js. Always use this `tf`: a second copy of TF.js has its own kernels and tensors.
export { tf } from './backend/tf.js';
export {
  BACKEND_NAMES,
  currentBackend,
  makeWeight,
  NativeBackend,
  storageOf,
  useBackend,
  type MemoryStats,
} from './backend/index.js';
export type { ComputeDtype, StorageDtype } from './backend/dtype.js';

// Fused ops: TF.js ops with gradients, for models of your own.
export { adamw, createAdamWState, type AdamWState } from './ops/adamw.js';
export { cachedAttention, createKvCache, type KvCache } from './ops/cachedAttention.js';
export { causalAttention } from './ops/causalAttention.js';
export { dropout } from './ops/dropout.js';
export { embedding } from './ops/embedding.js';
export { linear } from './ops/linear.js';
export { linearCrossEntropy } from './ops/linearCrossEntropy.js';
export { loraLinear } from './ops/loraLinear.js';
export { rmsNorm } from './ops/rmsNorm.js';
export { rotaryEmbedding, rotaryTables } from './ops/rotaryEmbedding.js';
export { swiglu } from './ops/swiglu.js';

// Models.
export { CausalLM, type ForwardOptions, type LoadOptions, type ModelOptions, type TrainMode } from './model/causalLM.js';
export { loadModelConfig, type ModelConfig } from './model/config.js';
export type { LoraConfig } from './model/lora.js';
export { generate, type GenerateOptions, type Generation, type StopReason, type TokenEvent } from './model/generate.js';
export { encodePair, score, type Score, type ScoreItem, type ScoreOptions } from './model/score.js';

// Text and data.
export { Tokenizer } from './tokenizer/tokenizer.js';
export { StreamDecoder } from './tokenizer/streamDecoder.js';
export {
  getTemplate,
  registerTemplate,
  Template,
  templateNames,
  type Message,
  type TemplateDefinition,
} from './templates/index.js';
export { collate, shiftLabels, type PackedBatch, type TokenRow } from './data/batch.js';

// Training.
export { parseRecipe, recipeKeys, type Recipe, type RecipeInput, type RecipeValues } from './config/recipe.js';
export { train, type TrainOptions } from './train/train.js';
export { planTraining, type TrainingPlan } from './train/plan.js';
export type { LogRow, OnEvent, StepEvent, TrainEvent, TrainResult } from './train/events.js';

// Merging.
export { combineAdapters, resizeAdapter, scaleAdapter, type AdapterReport } from './adapter/combine.js';
export { convertAdapter, type ConvertReport } from './adapter/convert.js';
export { extractAdapter, type ExtractOptions, type ExtractReport } from './adapter/extract.js';
export { diffModels, type DiffReport } from './merge/diff.js';
export { MERGE_METHODS, mergeModels, planMergeModels, type MergeModelsOptions } from './merge/methods/index.js';
export { merge, planMerge, runMerge, type MergeOptions, type MergePlan, type MergeResult } from './merge/merge.js';

// Files.
export { openSafetensors, type SafetensorsFile } from './formats/safetensors.js';
export { writeSafetensors } from './formats/safetensorsWriter.js';
export { readAdapter, writeAdapter, type AdapterConfig } from './formats/adapter.js';
export { inspectPath } from './formats/inspect.js';
export { readJsonl, writeJsonl } from './formats/jsonl.js';
