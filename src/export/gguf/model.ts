/** A checkpoint folder to one GGUF file that llama.cpp and Ollama run. */
import { atomicFile } from '../../formats/atomic.js';
import { openCheckpoint } from '../../formats/checkpoint.js';
import { writeGguf } from '../../formats/gguf/writer.js';
import type { TensorSource } from '../../formats/safetensors.js';
import { parseModelConfig } from '../../model/config.js';
import { EMBEDDING, parameterShapes } from '../../model/parameters.js';
import { checkTensors } from '../../model/weights.js';
import { chatTemplateMetadata, chatTemplates, ollamaTemplate } from './chatTemplate.js';
import type { ExportType } from './encode.js';
import { generalMetadata, limitations, modelMetadata } from './metadata.js';
import { modelfileText } from './modelfile.js';
import { llamaArchitecture, modelTensors } from './tensors.js';
import { tokenizerMetadata } from './tokenizer.js';

export interface ModelExportOptions {
  /** Checkpoint folder. */
  model: string;
  /** File to write. */
  out: string;
  /** `auto`: bf16 for a bf16 checkpoint, f16 for any other. */
  type: ExportType | 'auto';
  /** Name of the splitting rule of byte-level BPE, when llama.cpp's cannot be told from tokenizer.json. */
  pre?: string;
  /** Ollama's Modelfile to write beside it. */
  modelfile?: string;
}

export interface ExportReport {
  file: string;
  bytes: number;
  kind: 'model' | 'adapter';
  architecture: string;
  type: ExportType;
  tensors: number;
  modelfile?: string;
  /** What the user should know: one sentence each. */
  notices: string[];
}

/**
 * Writes the file, whole or not at all; one chunk of one tensor is in memory at a time.
 * @throws NIFT_EXPORT_*, NIFT_TOKENIZER, NIFT_MODEL_*, NIFT_CHECKPOINT_MISMATCH, NIFT_FILE_*, NIFT_DISK_FULL
 */
export function exportModel(options: ModelExportOptions): ExportReport {
  const checkpoint = openCheckpoint(options.model);
  try {
    const config = parseModelConfig(checkpoint.config, options.model);
    checkTensors(config, parameterShapes(config), checkpoint.tensors, options.model);
    const notices = limitations(config, options.model);
    const { vocabSize } = config;
    const vocabulary = tokenizerMetadata(options.model, {
      vocabSize,
      ...(options.pre === undefined ? {} : { pre: options.pre }),
    });
    const templates = chatTemplates(options.model);
    const type = options.type === 'auto' ? ownType(checkpoint.tensors) : options.type;
    const { tensors, unquantized } = modelTensors(config, checkpoint.tensors, type);
    if (unquantized.length > 0) {
      const names = unquantized.slice(0, 3).join(', ') + (unquantized.length > 3 ? ', ...' : '');
      notices.push(`${unquantized.length} tensors have rows that are no multiple of 32 and stay in f16: ${names}`);
    }
    const metadata = new Map([
      ...generalMetadata(config, options.model, 'model', type),
      ...modelMetadata(config),
      ...vocabulary.metadata,
      ...chatTemplateMetadata(templates),
    ]);
    const bytes = writeGguf(options.out, metadata, tensors);
    if (options.modelfile !== undefined) {
      const stops = vocabulary.tokenizer.eosIds.flatMap((id) => vocabulary.tokenizer.tokenOf(id) ?? []);
      const template = ollamaTemplate(templates.get('default'));
      atomicFile(options.modelfile, modelfileText({ file: options.modelfile, from: options.out, template, stops }));
    }
    return {
      file: options.out,
      bytes,
      kind: 'model',
      architecture: llamaArchitecture(config),
      type,
      tensors: tensors.length,
      ...(options.modelfile === undefined ? {} : { modelfile: options.modelfile }),
      notices: [...notices, ...vocabulary.notices],
    };
  } finally {
    checkpoint.close();
  }
}

/** What the weights are, not what the config says. */
const ownType = (source: TensorSource): ExportType => (source.info(EMBEDDING).dtype === 'BF16' ? 'BF16' : 'F16');
