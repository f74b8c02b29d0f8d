/**
 * An adapter folder read for merging. More kinds than the trainer takes: DoRA, embeddings, trained biases and whole modules, Conv1D
 * layouts. What is neither is refused by name, because leaving it out would give a wrong model.
 */
import path from 'node:path';
import { z } from 'zod';
import { NiftError } from '../errors.js';
import { ADAPTER_CONFIG_FILE, adapterScaling, openAdapterWeights, readAdapterJson } from '../formats/adapter.js';
import type { SafetensorsFile } from '../formats/safetensors.js';

const pattern = z.record(z.string(), z.number().positive()).nullish();
const empty = (what: string): z.ZodType => z.custom((value) => isEmpty(value), `${what} cannot be merged`).optional();

function isEmpty(value: unknown): boolean {
  if (value === undefined || value === null || value === false) return true;
  return typeof value === 'object' && Object.keys(value).length === 0;
}

/** Initialisations that take something away from the base: the file alone does not say what to add back. */
const CHANGES_BASE = /^(pissa|olora|corda|loftq|lora_ga)/;

const schema = z.looseObject({
  peft_type: z.literal('LORA', 'only LoRA adapters can be merged').default('LORA'),
  base_model_name_or_path: z.string().nullish(),
  r: z.int().positive(),
  lora_alpha: z.number(),
  use_rslora: z.boolean().nullish(),
  use_dora: z.boolean().nullish(),
  fan_in_fan_out: z.boolean().nullish(),
  bias: z.enum(['none', 'all', 'lora_only']).nullish(),
  rank_pattern: pattern,
  alpha_pattern: pattern,
  modules_to_save: z.array(z.string()).nullish(),
  init_lora_weights: z
    .custom(
      (value) => typeof value !== 'string' || !CHANGES_BASE.test(value),
      'this initialisation changes the base; save it as plain LoRA first (PEFT: path_initial_model_for_weight_conversion)',
    )
    .optional(),
  use_qalora: empty('QA-LoRA'),
  layer_replication: empty('layer replication'),
  trainable_token_indices: empty('trained token embeddings'),
  target_parameters: empty('LoRA on bare parameters'),
  alora_invocation_tokens: empty('activated LoRA'),
  megatron_config: empty('Megatron layers'),
  use_bdlora: empty('block-diagonal LoRA'),
  kasa_config: empty('KaSA'),
  velora_config: empty('VeLoRA'),
  monteclora_config: empty('MonteCLoRA'),
  arrow_config: empty('Arrow'),
});
type MergeConfig = z.infer<typeof schema>;

/** One adapted matrix: A [r, in], B [out, r] by the names of their tensors. */
export interface LowRankPart {
  module: string;
  a: string;
  b: string;
  /** DoRA's magnitudes [out]. */
  magnitude: string | null;
  /** The bias of B [out]. */
  bias: string | null;
  r: number;
  scaling: number;
  /** The stored matrix is the transpose of what B A gives (embeddings, Conv1D). */
  transposed: boolean;
}

export interface MergeAdapter {
  folder: string;
  /** Factor of everything that the adapter changes. */
  weight: number;
  config: MergeConfig;
  tensors: SafetensorsFile;
  parts: LowRankPart[];
  /** Module's parameter ("lm_head.weight") -> tensor of the adapter that takes its place. */
  replaced: Map<string, string>;
}

/** Opens and checks an adapter. The caller closes `tensors`. @throws NIFT_ADAPTER_CONFIG, NIFT_ADAPTER_MISMATCH, NIFT_FILE_* */
export function openMergeAdapter(folder: string, weight: number): MergeAdapter {
  const where = path.join(folder, ADAPTER_CONFIG_FILE);
  const parsed = schema.safeParse(readAdapterJson(folder));
  if (!parsed.success) {
    const problems = parsed.error.issues.map((issue) => `${issue.path.join('.') || 'the file'}: ${issue.message}`);
    throw new NiftError('NIFT_ADAPTER_CONFIG', `${where}: ${problems.join('; ')}`, { details: { problems } });
  }
  const tensors = openAdapterWeights(folder);
  try {
    return { folder, weight, config: parsed.data, tensors, ...sortTensors(folder, parsed.data, tensors) };
  } catch (error) {
    tensors.close();
    throw error;
  }
}

const LORA = /^(.+)\.lora_(embedding_)?([AB])(?:\.default)?(?:\.(weight|bias))?$/;
const MAGNITUDE = /^(.+)\.lora_magnitude_vector(?:\.default)?(?:\.weight)?$/;
const WHOLE = /^(.+?)(?:\.modules_to_save(?:\.default)?|\.original_module|\.base_layer)?\.(weight|bias)$/;

interface Found {
  a?: string;
  b?: string;
  embedding: boolean;
  magnitude?: string;
  bias?: string;
}

/** Every tensor of the file has a meaning, or the adapter is refused. */
function sortTensors(folder: string, config: MergeConfig, tensors: SafetensorsFile): Pick<MergeAdapter, 'parts' | 'replaced'> {
  const modules = new Map<string, Found>();
  const replaced = new Map<string, string>();
  const problems: string[] = [];
  const entry = (module: string): Found => {
    const known = modules.get(module) ?? { embedding: false };
    modules.set(module, known);
    return known;
  };
  for (const name of tensors.names()) {
    const own = name.replace(/^base_model\.model\./, '');
    if (!['F32', 'F16', 'BF16'].includes(tensors.info(name).dtype)) {
      problems.push(`${name} is stored as ${tensors.info(name).dtype}`);
      continue;
    }
    const lora = LORA.exec(own);
    const magnitude = MAGNITUDE.exec(own);
    const whole = WHOLE.exec(own);
    if (lora) {
      const found = entry(lora[1]!);
      if (lora[4] === 'bias') found.bias = name;
      else found[lora[3] === 'A' ? 'a' : 'b'] = name;
      found.embedding ||= lora[2] !== undefined;
    } else if (magnitude) entry(magnitude[1]!).magnitude = name;
    else if (whole && !own.includes('.lora_')) {
      if (!own.includes('.original_module.')) replaced.set(`${whole[1]!}.${whole[2]!}`, name);
    } else problems.push(`${name} means nothing here`);
  }
  const parts = [...modules].flatMap(([module, found]) => lowRankPart(module, found, config, tensors, problems));
  for (const saved of config.modules_to_save ?? [])
    if (![...replaced.keys()].some((key) => `.${key}`.includes(`.${saved}.`)))
      problems.push(`modules_to_save names ${saved}, but no tensor is its`);
  if (parts.length + replaced.size === 0) problems.push('no tensor changes anything');
  if (problems.length === 0) return { parts, replaced };
  const shown = problems.slice(0, 5).join('; ');
  throw new NiftError(
    'NIFT_ADAPTER_MISMATCH',
    `${folder}: ${shown}${problems.length > 5 ? `; and ${problems.length - 5} more` : ''}`,
    {
      details: { problems },
    },
  );
}

function lowRankPart(
  module: string,
  found: Found,
  config: MergeConfig,
  tensors: SafetensorsFile,
  problems: string[],
): LowRankPart[] {
  const { a, b } = found;
  if (a === undefined || b === undefined) {
    problems.push(`${module} has lora_${a === undefined ? 'B' : 'A'} without lora_${a === undefined ? 'A' : 'B'}`);
    return [];
  }
  const [shapeA, shapeB] = [tensors.info(a).shape, tensors.info(b).shape];
  const { r, scaling } = adapterScaling(config, module);
  if (shapeA.length !== 2 || shapeB.length !== 2 || shapeA[0] !== r || shapeB[1] !== r) {
    problems.push(`${module} has A [${shapeA.join(', ')}] and B [${shapeB.join(', ')}], expected rank ${r} by the config`);
    return [];
  }
  const transposed = found.embedding || config.fan_in_fan_out === true;
  if (config.use_dora === true && found.magnitude === undefined)
    problems.push(`${module} has no lora_magnitude_vector, but use_dora is set`);
  if (found.magnitude !== undefined && transposed) problems.push(`${module}: DoRA on embeddings and Conv1D cannot be merged`);
  return [{ module, a, b, magnitude: found.magnitude ?? null, bias: found.bias ?? null, r, scaling, transposed }];
}
