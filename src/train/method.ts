/** What is trained: a fresh LoRA adapter, a given one, or every weight; and the files that it becomes. */
import { copyFileSync, existsSync } from 'node:fs';
import path from 'node:path';
import type { RecipeValues } from '../config/recipe.js';
import { readAdapterConfig } from '../formats/adapter.js';
import { copyTokenizer, GENERATION_CONFIG_FILE } from '../formats/checkpoint.js';
import { CausalLM } from '../model/causalLM.js';
import type { ModelConfig } from '../model/config.js';
import { fromAdapterConfig, type LoraConfig } from '../model/lora.js';

/** The adapter that the recipe asks for. */
export function loraConfig(values: RecipeValues): LoraConfig {
  return {
    r: values.lora_rank,
    alpha: values.lora_alpha,
    dropout: values.lora_dropout,
    rsLora: values.use_rslora,
    targetModules: values.lora_target,
  };
}

/** Shape of the adapter that training starts from; null when a fresh one is made. It keeps its own rank, alpha and dropout. */
export function startingAdapter(values: RecipeValues): LoraConfig | null {
  const folder = values.adapter_name_or_path;
  if (folder === null || values.finetuning_type === 'full') return null;
  return fromAdapterConfig(readAdapterConfig(folder), folder);
}

/** The model with its trainable parts, on the current backend. */
export async function loadModel(values: RecipeValues, config: ModelConfig): Promise<CausalLM> {
  const common = {
    dtype: values.dtype,
    train: values.finetuning_type,
    seed: values.seed,
    gradientCheckpointing: values.gradient_checkpointing,
  };
  if (values.train_from_scratch) return CausalLM.fromConfig(config, common);
  const adapter = values.adapter_name_or_path;
  if (values.finetuning_type === 'full') return CausalLM.load(values.model_name_or_path, common);
  return CausalLM.load(values.model_name_or_path, {
    ...common,
    ...(adapter === null ? { lora: loraConfig(values) } : { adapter }),
  });
}

/** Writes the adapter, or the whole checkpoint with its tokenizer, into an existing folder. @returns the file names */
export function saveModel(model: CausalLM, values: RecipeValues, folder: string): string[] {
  if (values.finetuning_type === 'lora') return model.saveAdapter(folder);
  const files = model.saveCheckpoint(folder);
  if (model.source !== undefined) return files;
  // Random weights come from no folder, but their tokenizer does.
  files.push(...copyTokenizer(values.model_name_or_path, folder));
  const generation = path.join(values.model_name_or_path, GENERATION_CONFIG_FILE);
  if (existsSync(generation)) {
    copyFileSync(generation, path.join(folder, GENERATION_CONFIG_FILE));
    files.push(GENERATION_CONFIG_FILE);
  }
  return files;
}
