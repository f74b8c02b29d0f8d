/** Small adapters on disk, and what they add to each module, in float64. */
import path from 'node:path';
import { newAdapterConfig, writeAdapter, type AdapterConfig } from '../../src/formats/adapter.js';
import type { TensorToWrite } from '../../src/formats/safetensorsWriter.js';
import { openMergeAdapter } from '../../src/merge/adapterFile.js';
import { normalArray } from '../../src/random.js';

export interface AdapterSpec {
  /** Module -> [out, in]. */
  modules: Record<string, [number, number]>;
  r: number;
  alpha: number;
  seed: number;
  ranks?: Record<string, number>;
  config?: Record<string, unknown>;
  extra?: TensorToWrite[];
}

export const MODULES: Record<string, [number, number]> = {
  'model.layers.0.self_attn.q_proj': [12, 8],
  'model.layers.0.mlp.down_proj': [8, 20],
  'model.layers.1.self_attn.q_proj': [12, 8],
  'model.layers.1.mlp.down_proj': [8, 20],
};

export function makeAdapter(root: string, name: string, spec: AdapterSpec): string {
  const folder = path.join(root, name);
  const tensors = Object.entries(spec.modules).flatMap(([module, [outSize, inSize]], i): TensorToWrite[] => {
    const r = spec.ranks?.[module] ?? spec.r;
    return [
      {
        name: `base_model.model.${module}.lora_A.weight`,
        dtype: 'F32',
        shape: [r, inSize],
        data: normalArray(r * inSize, 1, spec.seed, 2 * i),
      },
      {
        name: `base_model.model.${module}.lora_B.weight`,
        dtype: 'F32',
        shape: [outSize, r],
        data: normalArray(outSize * r, 1, spec.seed, 2 * i + 1),
      },
    ];
  });
  const config = {
    ...newAdapterConfig({
      r: spec.r,
      lora_alpha: spec.alpha,
      target_modules: [...new Set(Object.keys(spec.modules).map((module) => module.split('.').at(-1)!))],
    }),
    rank_pattern: Object.fromEntries(Object.entries(spec.ranks ?? {}).map(([module, r]) => [module.replace(/^model\./, ''), r])),
    ...spec.config,
  } as AdapterConfig;
  writeAdapter(folder, config, [...tensors, ...(spec.extra ?? [])]);
  return folder;
}

/** s B A of every module, [out, in] row-major, read through the config as merging reads it. */
export function changesOf(folder: string): Map<string, Float64Array> {
  const adapter = openMergeAdapter(folder, 1);
  const changes = new Map<string, Float64Array>();
  for (const part of adapter.parts) {
    const [a, b] = [adapter.tensors.readFloat32(part.a), adapter.tensors.readFloat32(part.b)];
    const [rows, columns] = [adapter.tensors.info(part.b).shape[0]!, adapter.tensors.info(part.a).shape[1]!];
    const sum = new Float64Array(rows * columns);
    for (let i = 0; i < rows; i++)
      for (let k = 0; k < part.r; k++)
        for (let j = 0; j < columns; j++) sum[i * columns + j]! += part.scaling * b[i * part.r + k]! * a[k * columns + j]!;
    changes.set(part.module, sum);
  }
  adapter.tensors.close();
  return changes;
}
