/**
 * Adapters of other tools as PEFT folders.
 *
 *   mlx-lm        adapters.safetensors: lora_a [in, r], lora_b [r, out], y += scale (x lora_a) lora_b
 *                 PEFT: A = lora_a^T, B = lora_b^T, alpha = scale r
 *   older PEFT    fewer keys in adapter_config.json, ".default" in tensor names
 *
 * mlx-lm multiplied `scale` with alpha / rank as long as its config had `alpha`; later versions have `scale` alone.
 * Source: mlx-lm, tuner/lora.py and tuner/dora.py.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { NiftError } from '../errors.js';
import { ADAPTER_CONFIG_FILE, newAdapterConfig, readAdapterJson, type AdapterConfig } from '../formats/adapter.js';
import { readJsonObject, type JsonObject } from '../formats/jsonText.js';
import { openSafetensors, SAFETENSORS_DTYPES, type SafetensorsFile, type TensorEntry } from '../formats/safetensors.js';
import type { TensorToWrite } from '../formats/safetensorsWriter.js';
import { openMergeAdapter } from '../merge/adapterFile.js';
import { checkOutputFolder } from '../merge/outputFolder.js';
import { requirePlainLora, writeAdapterFolder } from './pairs.js';
import { describeTargets } from './targets.js';

export const MLX_WEIGHTS_FILE = 'adapters.safetensors';

export interface ConvertOptions {
  source: string;
  out: string;
  /** Base checkpoint to name in the config, in the place of what the source says. */
  base?: string;
  dryRun?: boolean;
  overwrite?: boolean;
}

export interface ConvertReport {
  out: string;
  from: 'mlx-lm' | 'peft';
  modules: number;
  rank: number;
  /** alpha / r. */
  scaling: number;
  notes: string[];
}

/** @throws NIFT_ADAPTER_CONFIG, NIFT_ADAPTER_MISMATCH, NIFT_FILE_NOT_FOUND, NIFT_OUTPUT_DIR */
export function convertAdapter(options: ConvertOptions): ConvertReport {
  if (!options.dryRun) checkOutputFolder(options.out, [options.source], options.overwrite ?? false);
  return existsSync(path.join(options.source, MLX_WEIGHTS_FILE)) ? convertMlx(options) : convertPeft(options);
}

const mlxSchema = z.looseObject({
  fine_tune_type: z.string().default('lora'),
  model: z.string().nullish(),
  lora_parameters: z.looseObject({
    rank: z.int().positive(),
    scale: z.number().optional(),
    alpha: z.number().optional(),
    dropout: z.number().min(0).max(1).default(0),
  }),
});

function convertMlx(options: ConvertOptions): ConvertReport {
  const where = path.join(options.source, ADAPTER_CONFIG_FILE);
  const parsed = mlxSchema.safeParse(readJsonObject(where));
  if (!parsed.success) throw new NiftError('NIFT_ADAPTER_CONFIG', `${where}: ${z.prettifyError(parsed.error)}`);
  const { fine_tune_type: type, lora_parameters: lora, model } = parsed.data;
  if (type === 'full')
    throw new NiftError('NIFT_ADAPTER_CONFIG', `${where}: fine_tune_type is "full": these are whole weights, not an adapter`, {
      hint: 'Use mlx_lm.fuse to make a checkpoint of them.',
    });
  const notes: string[] = [];
  const scaling = mlxScaling(lora, notes, where);
  const file = openSafetensors(path.join(options.source, MLX_WEIGHTS_FILE));
  try {
    const { tensors, modules, dora } = mlxTensors(file, lora.rank, options.source);
    const base = options.base ?? model ?? null;
    const config = {
      ...newAdapterConfig({
        r: lora.rank,
        lora_alpha: scaling * lora.rank,
        target_modules: [],
        lora_dropout: lora.dropout,
        base_model_name_or_path: base,
      }),
      ...describeTargets(modules, false),
      use_dora: dora,
    } as AdapterConfig;
    write(options, config, tensors, { source: options.source, from: 'mlx-lm', scale: scaling });
    return { out: options.out, from: 'mlx-lm', modules: modules.length, rank: lora.rank, scaling, notes };
  } finally {
    file.close();
  }
}

function mlxScaling(
  lora: { rank: number; scale?: number | undefined; alpha?: number | undefined },
  notes: string[],
  where: string,
): number {
  const { rank, alpha, scale } = lora;
  if (alpha === undefined) {
    if (scale !== undefined) return scale;
    throw new NiftError('NIFT_ADAPTER_CONFIG', `${where}: lora_parameters has neither "scale" nor "alpha"`);
  }
  const scaling = ((scale ?? 1) * alpha) / rank;
  notes.push(
    `the config has alpha ${alpha}, as early mlx-lm: scaling is scale x alpha / rank = ${scaling}. Later versions ignore alpha`,
  );
  return scaling;
}

const MLX_NAME = /^(.+)\.(lora_a|lora_b|m)$/;

function mlxTensors(
  file: SafetensorsFile,
  rank: number,
  source: string,
): { tensors: TensorToWrite[]; modules: string[]; dora: boolean } {
  const parts = new Map<string, Map<string, string>>();
  const problems: string[] = [];
  for (const name of file.names()) {
    const [, module, kind] = MLX_NAME.exec(name) ?? [];
    if (module === undefined || kind === undefined) problems.push(`${name} is no part of LoRA`);
    else parts.set(module, (parts.get(module) ?? new Map<string, string>()).set(kind, name));
  }
  const tensors: TensorToWrite[] = [];
  for (const [module, found] of parts) {
    const [a, b, m] = [found.get('lora_a'), found.get('lora_b'), found.get('m')];
    if (a === undefined || b === undefined) problems.push(`${module} lacks ${a === undefined ? 'lora_a' : 'lora_b'}`);
    else {
      const [shapeA, shapeB] = [file.info(a).shape, file.info(b).shape];
      if (shapeA.length !== 2 || shapeB.length !== 2 || shapeA[1] !== rank || shapeB[0] !== rank)
        problems.push(
          `${module} has lora_a [${shapeA.join(', ')}] and lora_b [${shapeB.join(', ')}], expected [in, ${rank}] and [${rank}, out]` +
            (shapeA.length > 2 ? ' (layers of experts cannot be converted)' : ''),
        );
      else tensors.push(...peftTensors(file, module, a, b, m));
    }
  }
  const dora = [...parts.values()].filter((found) => found.has('m')).length;
  if (dora !== 0 && dora !== parts.size) problems.push(`${dora} of ${parts.size} modules have DoRA magnitudes`);
  if (parts.size === 0) problems.push('it has no LoRA tensors');
  if (problems.length === 0) return { tensors, modules: [...parts.keys()], dora: dora > 0 };
  const more = problems.length > 5 ? `; and ${problems.length - 5} more` : '';
  throw new NiftError(
    'NIFT_ADAPTER_MISMATCH',
    `${path.join(source, MLX_WEIGHTS_FILE)}: ${problems.slice(0, 5).join('; ')}${more}`,
    {
      details: { problems },
    },
  );
}

function peftTensors(file: SafetensorsFile, module: string, a: string, b: string, m: string | undefined): TensorToWrite[] {
  const embedding = /(^|\.)(embed_tokens|wte|tok_embeddings)$/.test(module);
  const name = (letter: string): string =>
    embedding ? `base_model.model.${module}.lora_embedding_${letter}` : `base_model.model.${module}.lora_${letter}.weight`;
  return [
    transposedTensor(name('A'), file.info(a), file.bytes(a)),
    transposedTensor(name('B'), file.info(b), file.bytes(b)),
    ...(m === undefined
      ? []
      : [
          {
            name: `base_model.model.${module}.lora_magnitude_vector`,
            dtype: file.info(m).dtype,
            shape: [file.info(m).shape.reduce((x, y) => x * y, 1)],
            data: file.bytes(m),
          },
        ]),
  ];
}

/** A matrix transposed as bytes, in its own dtype. */
function transposedTensor(name: string, { dtype, shape }: TensorEntry, bytes: Uint8Array): TensorToWrite {
  const [rows, columns] = [shape[0]!, shape[1]!];
  const width = SAFETENSORS_DTYPES[dtype];
  const out = new Uint8Array(bytes.length);
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++)
      for (let k = 0; k < width; k++) out[(j * rows + i) * width + k] = bytes[(i * columns + j) * width + k]!;
  return { name, dtype, shape: [columns, rows], data: out };
}

/** A PEFT adapter of any version, with the full set of keys and today's tensor names. */
function convertPeft(options: ConvertOptions): ConvertReport {
  const json = readAdapterJson(options.source);
  const adapter = openMergeAdapter(options.source, 1);
  try {
    const dora = adapter.parts.some((part) => part.magnitude !== null);
    if (!dora) requirePlainLora(adapter, 'convert', true);
    const [first] = adapter.parts;
    const full = newAdapterConfig({ r: adapter.config.r, lora_alpha: adapter.config.lora_alpha, target_modules: [] });
    const known = json['target_modules'];
    const config = {
      ...full,
      ...json,
      ...(known === undefined || known === null
        ? describeTargets(
            adapter.parts.map((part) => part.module),
            false,
          )
        : {}),
      ...(options.base === undefined ? {} : { base_model_name_or_path: options.base }),
    } as unknown as AdapterConfig;
    const tensors = adapter.tensors.names().map((name): TensorToWrite => {
      const { dtype, shape } = adapter.tensors.info(name);
      return { name: modernName(name), dtype, shape, data: adapter.tensors.bytes(name) };
    });
    const notes = Object.keys(full).filter((key) => !(key in json));
    write(options, config, tensors, { source: options.source, from: 'peft' });
    return {
      out: options.out,
      from: 'peft',
      modules: adapter.parts.length,
      rank: adapter.config.r,
      scaling: first?.scaling ?? 1,
      notes: notes.length === 0 ? [] : [`keys that the config lacked have PEFT's defaults now: ${notes.join(', ')}`],
    };
  } finally {
    adapter.tensors.close();
  }
}

const modernName = (name: string): string =>
  (name.startsWith('base_model.model.') ? name : `base_model.model.${name}`).replace(
    /\.(lora_(?:embedding_)?[AB]|lora_magnitude_vector|modules_to_save)\.default(?=\.|$)/,
    (_, kind: string) => (kind === 'modules_to_save' ? '' : `.${kind}`),
  );

function write(options: ConvertOptions, config: AdapterConfig, tensors: TensorToWrite[], made: JsonObject): void {
  if (options.dryRun) return;
  writeAdapterFolder(options.out, config, tensors, { command: 'adapter convert', made }, options.overwrite ?? false);
}
