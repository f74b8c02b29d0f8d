/**
 * A PEFT LoRA adapter to a GGUF file for `llama-cli --lora` and Ollama's ADAPTER.
 *
 * llama.cpp computes W x + (alpha / rank) B (A x) with one alpha for the whole file, so what differs between modules (alpha_pattern,
 * rsLoRA with rank_pattern) goes into B. Rows of B of q and k are permuted like those of the weights they change.
 *
 * Source: llama.cpp, convert_lora_to_gguf.py, src/llama-adapter.cpp.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { NiftError } from '../../errors.js';
import { readAdapter } from '../../formats/adapter.js';
import { atomicFile } from '../../formats/atomic.js';
import { readConfig } from '../../formats/checkpoint.js';
import { f32, text } from '../../formats/gguf/types.js';
import { writeGguf, type GgufTensorToWrite } from '../../formats/gguf/writer.js';
import { requireTensors } from '../../formats/matchTensors.js';
import type { TensorSource } from '../../formats/safetensors.js';
import { parseModelConfig, type ModelConfig } from '../../model/config.js';
import { fromAdapterConfig, loraNameA, loraNameB, loraTargets, type LoraTarget } from '../../model/lora.js';
import { FLOAT_DTYPES } from '../../model/weights.js';
import { Tokenizer } from '../../tokenizer/tokenizer.js';
import { chatTemplates, ollamaTemplate } from './chatTemplate.js';
import type { ExportType } from './encode.js';
import { generalMetadata } from './metadata.js';
import type { ExportReport } from './model.js';
import { modelfileText } from './modelfile.js';
import { convertedTensor, ggufName, llamaArchitecture, permutedHeads } from './tensors.js';

export interface AdapterExportOptions {
  adapter: string;
  /** The base: its config.json is read, its weights are not. */
  model: string;
  out: string;
  type: Extract<ExportType, 'F32' | 'F16'> | 'auto';
  modelfile?: string;
}

/** @throws NIFT_ADAPTER_*, NIFT_EXPORT_VALUES, NIFT_MODEL_*, NIFT_FILE_*, NIFT_DISK_FULL */
export function exportAdapter(options: AdapterExportOptions): ExportReport {
  const config = parseModelConfig(readConfig(options.model), options.model);
  const adapter = readAdapter(options.adapter);
  try {
    const targets = loraTargets(config, fromAdapterConfig(adapter.config, options.adapter));
    checkAdapter(targets, adapter.tensors, options.adapter);
    const type = options.type === 'auto' ? 'F32' : options.type;
    const alpha = targets[0]!.scaling * targets[0]!.r;
    const tensors = targets.flatMap((target) => pairOf(target, config, alpha, adapter.tensors, type));
    const metadata = new Map([
      ...generalMetadata(config, options.adapter, 'adapter', type),
      ['adapter.type', text('lora')],
      ['adapter.lora.alpha', f32(alpha)],
    ] as const);
    const bytes = writeGguf(options.out, metadata, tensors);
    if (options.modelfile !== undefined) writeModelfile(options, options.modelfile);
    return {
      file: options.out,
      bytes,
      kind: 'adapter',
      architecture: llamaArchitecture(config),
      type,
      tensors: tensors.length,
      ...(options.modelfile === undefined ? {} : { modelfile: options.modelfile }),
      notices: [],
    };
  } finally {
    adapter.close();
  }
}

function checkAdapter(targets: readonly LoraTarget[], source: TensorSource, where: string): void {
  const shapes = new Map<string, number[]>();
  for (const target of targets) {
    shapes.set(loraNameA(target), [target.r, target.in]);
    shapes.set(loraNameB(target), [target.out, target.r]);
  }
  const found = new Map(source.names().map((name) => [name, source.info(name).shape]));
  requireTensors(shapes, found, 'NIFT_ADAPTER_MISMATCH', where, 'Is this the adapter of another model?');
  const wrong = source.names().find((name) => FLOAT_DTYPES[source.info(name).dtype] === undefined);
  if (wrong !== undefined)
    throw new NiftError(
      'NIFT_ADAPTER_MISMATCH',
      `${where}: ${wrong} is stored as ${source.info(wrong).dtype}, expected F32, BF16 or F16`,
    );
}

function pairOf(
  target: LoraTarget,
  config: ModelConfig,
  alpha: number,
  source: TensorSource,
  type: ExportType,
): GgufTensorToWrite[] {
  const weight = `${target.name}.weight`;
  const name = ggufName(weight);
  const headDim = permutedHeads(config, weight) > 0 ? config.headDim : 0;
  const factor = (target.scaling * target.r) / alpha;
  return [
    convertedTensor(
      { name: loraNameA(target), target: `${name}.lora_a`, shape: [target.r, target.in], headDim: 0 },
      source,
      type,
    ),
    convertedTensor(
      { name: loraNameB(target), target: `${name}.lora_b`, shape: [target.out, target.r], headDim, factor },
      source,
      type,
    ),
  ];
}

/** Ollama converts the base from its folder; a GGUF of the base may be named in its place. */
function writeModelfile({ model, adapter, out }: AdapterExportOptions, file: string): void {
  // Whoever trained a chat format saved it with the adapter.
  const own = [adapter, model].map(chatTemplates).find((templates) => templates.size > 0);
  const folder = [adapter, model].find((candidate) => existsSync(path.join(candidate, 'tokenizer.json')));
  const tokenizer = folder === undefined ? null : Tokenizer.load(folder);
  const stops = tokenizer?.eosIds.flatMap((id) => tokenizer.tokenOf(id) ?? []) ?? [];
  atomicFile(file, modelfileText({ file, from: model, adapter: out, template: ollamaTemplate(own?.get('default')), stops }));
}
