/** Checkpoints and data of the benchmark shapes: real file formats, random values. */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import type { StorageDtype } from '../src/backend/dtype.js';
import { writeCheckpoint } from '../src/formats/checkpoint.js';
import type { TensorToWrite } from '../src/formats/safetensorsWriter.js';
import { parseModelConfig } from '../src/model/config.js';
import { parameterShapes } from '../src/model/parameters.js';
import { normalArray } from '../src/random.js';

export interface Shape {
  hidden: number;
  intermediate: number;
  layers: number;
  heads: number;
  kvHeads: number;
  vocab: number;
  /** Rows and tokens of a training batch. */
  batch: number;
  length: number;
}

export const SHAPES: Record<string, Shape> = {
  XS: { hidden: 128, intermediate: 352, layers: 4, heads: 4, kvHeads: 4, vocab: 4096, batch: 4, length: 256 },
  S: { hidden: 288, intermediate: 768, layers: 6, heads: 6, kvHeads: 6, vocab: 32000, batch: 4, length: 512 },
  M: { hidden: 768, intermediate: 2048, layers: 12, heads: 12, kvHeads: 12, vocab: 32000, batch: 4, length: 512 },
  L: { hidden: 2048, intermediate: 5632, layers: 22, heads: 32, kvHeads: 4, vocab: 32000, batch: 1, length: 512 },
};

export function shapeConfig(shape: Shape, dtype: StorageDtype): Record<string, unknown> {
  return {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    hidden_size: shape.hidden,
    intermediate_size: shape.intermediate,
    num_hidden_layers: shape.layers,
    num_attention_heads: shape.heads,
    num_key_value_heads: shape.kvHeads,
    vocab_size: shape.vocab,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-5,
    rope_theta: 10000,
    hidden_act: 'silu',
    tie_word_embeddings: false,
    torch_dtype: dtype,
  };
}

/** Makes the checkpoint folder unless it is there. 16-bit files are bfloat16. Values repeat every 2^18 elements, which no kernel can tell. */
export function makeCheckpoint(folder: string, shape: Shape, dtype: StorageDtype): string {
  if (existsSync(folder)) return folder;
  const config = shapeConfig(shape, dtype === 'float32' ? dtype : 'bfloat16');
  const noise = normalArray(1 << 18, 0.02, 1);
  const bits = Uint16Array.from(new Uint32Array(noise.buffer), (word) => word >>> 16);
  const tensors = [...parameterShapes(parseModelConfig(config))].map(([name, shapeOf]): TensorToWrite => {
    const size = shapeOf.reduce((product, axis) => product * axis, 1);
    return {
      name,
      dtype: dtype === 'float32' ? 'F32' : 'BF16',
      shape: shapeOf,
      data: () => {
        if (shapeOf.length === 1)
          return dtype === 'float32' ? new Float32Array(size).fill(1) : new Uint16Array(size).fill(0x3f80);
        const source = dtype === 'float32' ? noise : bits;
        const out = dtype === 'float32' ? new Float32Array(size) : new Uint16Array(size);
        for (let at = 0; at < size; at += source.length) out.set(source.subarray(0, Math.min(source.length, size - at)), at);
        return out;
      },
    };
  });
  writeCheckpoint(folder, { config, generationConfig: null, tensors });
  return folder;
}

/** Rows of random tokens, every one of them supervised. Returns dataset_dir; the dataset is called `random`. */
export function makeRandomRows(folder: string, rows: number, length: number, vocab: number): string {
  mkdirSync(folder, { recursive: true });
  let state = 1;
  const token = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return 3 + ((state >>> 8) % (vocab - 3));
  };
  const lines = Array.from({ length: rows }, () => {
    const ids = Array.from({ length }, token);
    return `${JSON.stringify({ input_ids: ids, labels: ids })}\n`;
  });
  writeFileSync(path.join(folder, 'random.jsonl'), lines.join(''));
  writeFileSync(
    path.join(folder, 'dataset_info.json'),
    JSON.stringify({ random: { file_name: 'random.jsonl', formatting: 'pretokenized' } }),
  );
  return folder;
}
