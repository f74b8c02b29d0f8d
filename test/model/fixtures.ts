/** Reading the reference data, and a tiny Qwen3-like config for tests that need no files. */
import { readFileSync } from 'node:fs';
import { collate, type PackedBatch } from '../../src/data/batch.js';
import { openSafetensors } from '../../src/formats/safetensors.js';
import { shared } from '../golden.js';

export const FORWARD_MODELS = [
  'stories260k',
  'stories260k-instruct',
  'tiny-llama2',
  'tiny-llama3',
  'tiny-llama31',
  'tiny-mistral',
  'tiny-mistral-nosw',
  'tiny-qwen2',
] as const;

/** Backends that must agree with the reference data: the addon's kernels, and the composed reference on stock ops. */
export const BACKENDS = ['native', 'cpu'] as const;

export interface GoldenTensor {
  shape: readonly number[];
  data: Float32Array;
}

export function goldenTensors(...parts: string[]): Map<string, GoldenTensor> {
  const file = openSafetensors(shared('golden', ...parts));
  const result = new Map(
    file.names().map((name) => [name, { shape: file.info(name).shape, data: file.readFloat32(name).slice() }]),
  );
  file.close();
  return result;
}

export function goldenJson<T>(...parts: string[]): T {
  return JSON.parse(readFileSync(shared('golden', ...parts), 'utf8')) as T;
}

export const model = (name: string): string => shared('models', name);

/** Padded rows of the reference data as a packed batch. */
export interface PaddedBatch {
  input_ids: number[][];
  attention_mask?: number[][];
  labels?: number[][];
}

export function pack(batch: PaddedBatch): PackedBatch {
  return collate(
    batch.input_ids.map((ids, b) => {
      const length = batch.attention_mask?.[b]?.reduce((sum, bit) => sum + bit, 0) ?? ids.length;
      const labels = batch.labels?.[b] ?? ids.map(() => -100);
      return { inputIds: Int32Array.from(ids.slice(0, length)), labels: Int32Array.from(labels.slice(0, length)) };
    }),
  );
}

/** Rows of a padded [B, T, W] array that are no padding, in packed order. */
export function packRows(values: Float32Array, shape: readonly number[], cuSeqlens: Int32Array): Float32Array {
  const [, tokens, width] = shape as [number, number, number];
  const rows = new Float32Array(cuSeqlens[cuSeqlens.length - 1]! * width);
  for (let b = 0; b + 1 < cuSeqlens.length; b++) {
    const length = cuSeqlens[b + 1]! - cuSeqlens[b]!;
    rows.set(values.subarray(b * tokens * width, (b * tokens + length) * width), cuSeqlens[b]! * width);
  }
  return rows;
}

export const sum = (values: ArrayLike<number>): number => Array.from(values).reduce((total, value) => total + value, 0);

/** A config.json with every feature that goldens do not reach: q/k norms, head_dim apart from hidden / heads. */
export function tinyQwen3(overrides: Record<string, unknown> = {}): Record<string, unknown> {
  return {
    architectures: ['Qwen3ForCausalLM'],
    model_type: 'qwen3',
    hidden_size: 24,
    intermediate_size: 40,
    num_hidden_layers: 3,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 8,
    vocab_size: 61,
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    max_position_embeddings: 128,
    initializer_range: 0.3,
    tie_word_embeddings: false,
    attention_bias: false,
    torch_dtype: 'float32',
    ...overrides,
  };
}
