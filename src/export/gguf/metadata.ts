/**
 * Hyper-parameters under llama.cpp's keys, and what it cannot run.
 * Source: llama.cpp, convert_hf_to_gguf.py (TextModel, LlamaModel, Qwen2Model, Qwen3Model) and gguf-py/gguf/constants.py.
 */
import path from 'node:path';
import { NiftError } from '../../errors.js';
import { f32, text, u32, type GgufValue } from '../../formats/gguf/types.js';
import type { ModelConfig } from '../../model/config.js';
import type { ExportType } from './encode.js';
import { llamaArchitecture } from './tensors.js';

/** llama.cpp's `general.file_type`. */
const FILE_TYPES: Readonly<Record<ExportType, number>> = { F32: 0, F16: 1, Q8_0: 7, BF16: 32 };
/** Version of ggml's block formats. */
const QUANTIZATION_VERSION = 2;

/** `general.*`, common to models and adapters. */
export function generalMetadata(
  config: ModelConfig,
  folder: string,
  kind: 'model' | 'adapter',
  type: ExportType,
): [string, GgufValue][] {
  return [
    ['general.architecture', text(llamaArchitecture(config))],
    ['general.type', text(kind)],
    ['general.name', text(path.basename(path.resolve(folder)))],
    ['general.file_type', u32(FILE_TYPES[type])],
    ['general.quantization_version', u32(QUANTIZATION_VERSION)],
  ];
}

/** `<architecture>.*` */
export function modelMetadata(config: ModelConfig): [string, GgufValue][] {
  const explicitHeadDim = typeof config.raw['head_dim'] === 'number' || config.headDim * config.numHeads !== config.hiddenSize;
  const entries: [string, GgufValue][] = [
    ['block_count', u32(config.numLayers)],
    ['context_length', u32(config.maxPositionEmbeddings)],
    ['embedding_length', u32(config.hiddenSize)],
    ['feed_forward_length', u32(config.intermediateSize)],
    ['attention.head_count', u32(config.numHeads)],
    ['attention.head_count_kv', u32(config.numKvHeads)],
    ['rope.freq_base', f32(config.rope.theta)],
    ['attention.layer_norm_rms_epsilon', f32(config.rmsNormEps)],
    ...(explicitHeadDim
      ? ([
          ['attention.key_length', u32(config.headDim)],
          ['attention.value_length', u32(config.headDim)],
        ] as [string, GgufValue][])
      : []),
    ['vocab_size', u32(config.vocabSize)],
    ['rope.dimension_count', u32(config.headDim)],
  ];
  if (config.rope.type === 'linear') {
    entries.push(['rope.scaling.type', text('linear')], ['rope.scaling.factor', f32(config.rope.factor)]);
  }
  const prefix = llamaArchitecture(config);
  return entries.map(([key, value]) => [`${prefix}.${key}`, value]);
}

/**
 * What llama.cpp computes otherwise, one sentence each.
 * @throws NIFT_EXPORT_UNSUPPORTED for what it would not load
 */
export function limitations(config: ModelConfig, where: string): string[] {
  if (config.architecture === 'Qwen3ForCausalLM' && (config.qkvBias || config.outputBias))
    throw new NiftError('NIFT_EXPORT_UNSUPPORTED', `${where}: llama.cpp's qwen3 has no biases, this checkpoint has`, {
      hint: 'There is no GGUF for this checkpoint.',
    });
  const notices: string[] = [];
  const windows = config.slidingWindows.filter((window) => window !== null);
  if (windows.length > 0 && windows.some((window) => window < config.maxPositionEmbeddings))
    notices.push(
      `llama.cpp ignores the sliding window: texts longer than ${Math.min(...windows)} tokens are continued differently there`,
    );
  if (config.rope.type === 'dynamic')
    notices.push(`llama.cpp has no dynamic rope scaling: the context ends at ${config.maxPositionEmbeddings} tokens there`);
  return notices;
}
