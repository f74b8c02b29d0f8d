/** Small checkpoints and adapters of every kind, made from seeds. */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { floatToHalf } from '../../src/formats/half.js';
import { writeCheckpoint } from '../../src/formats/checkpoint.js';
import { writeSafetensors, type TensorToWrite } from '../../src/formats/safetensorsWriter.js';
import { parseModelConfig } from '../../src/model/config.js';
import { parameterShapes } from '../../src/model/parameters.js';
import { normalArray } from '../../src/random.js';

export const HIDDEN = 24;
export const KEY_VALUE = 12;
export const FFN = 40;
export const VOCAB = 50;

export type FileDtype = 'F32' | 'BF16' | 'F16';

export function encoded(values: Float32Array, dtype: FileDtype): Float32Array | Uint16Array {
  if (dtype === 'F32') return values;
  const bits = new Uint16Array(values.length);
  floatToHalf(values, dtype, bits);
  return bits;
}

/** A decoder of two layers. Values N(0, scale). */
export function makeModel(
  folder: string,
  options: { dtype?: FileDtype; tied?: boolean; qkvBias?: boolean; maxShardBytes?: number; scale?: number } = {},
): string {
  const { dtype = 'F32', tied = false, qkvBias = false } = options;
  const config = {
    architectures: [qkvBias ? 'Qwen2ForCausalLM' : 'LlamaForCausalLM'],
    model_type: qkvBias ? 'qwen2' : 'llama',
    hidden_size: HIDDEN,
    intermediate_size: FFN,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    vocab_size: VOCAB,
    max_position_embeddings: 64,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    hidden_act: 'silu',
    tie_word_embeddings: tied,
    torch_dtype: { F32: 'float32', BF16: 'bfloat16', F16: 'float16' }[dtype],
  };
  let stream = 0;
  const tensors = [...parameterShapes(parseModelConfig(config))].map(([name, shape]): TensorToWrite => {
    const size = shape.reduce((product, axis) => product * axis, 1);
    const values = normalArray(size, options.scale ?? 0.3, 5, stream++);
    return { name, dtype, shape, data: encoded(values, dtype) };
  });
  const { maxShardBytes } = options;
  writeCheckpoint(folder, {
    config,
    generationConfig: { eos_token_id: 2 },
    tensors,
    ...(maxShardBytes ? { maxShardBytes } : {}),
  });
  writeFileSync(path.join(folder, 'tokenizer_config.json'), '{"chat_template": "{{ messages }}"}');
  writeFileSync(path.join(folder, 'LICENSE'), 'free');
  writeFileSync(path.join(folder, 'README.md'), 'of the source');
  return folder;
}

export type AdapterTensors = Record<string, { shape: number[]; seed: number; scale?: number; values?: Float32Array }>;

export const valuesOf = ({ shape, seed, scale, values }: AdapterTensors[string]): Float32Array =>
  values ??
  normalArray(
    shape.reduce((product, axis) => product * axis, 1),
    scale ?? 0.2,
    11,
    seed,
  );

/** An adapter folder; names get PEFT's prefix. */
export function makeAdapter(folder: string, config: object, tensors: AdapterTensors): string {
  mkdirSync(folder, { recursive: true });
  const full = { peft_type: 'LORA', r: 4, lora_alpha: 8, target_modules: ['q_proj'], ...config };
  writeFileSync(path.join(folder, 'adapter_config.json'), JSON.stringify(full));
  writeSafetensors(
    path.join(folder, 'adapter_model.safetensors'),
    Object.entries(tensors).map(([name, tensor]): TensorToWrite => {
      return { name: `base_model.model.${name}`, dtype: 'F32', shape: tensor.shape, data: valuesOf(tensor) };
    }),
  );
  return folder;
}

/** (B A)[row][column] in float64; A [r, columns], B [rows, r]. */
export function product(a: Float32Array, b: Float32Array, r: number, rows: number, columns: number): Float64Array {
  const out = new Float64Array(rows * columns);
  for (let row = 0; row < rows; row++)
    for (let k = 0; k < r; k++)
      for (let column = 0; column < columns; column++) out[row * columns + column]! += b[row * r + k]! * a[k * columns + column]!;
  return out;
}
