/**
 * Which tensors a GGUF model has, and their bytes.
 *
 * llama.cpp rotates neighbours (2i, 2i + 1) in the "llama" architecture, transformers rotates halves (i, i + D/2), so the rows of each
 * head of q and k change places there: row 2i of the file is row i of the checkpoint, row 2i + 1 is row i + D/2. Qwen keeps its halves.
 *
 * Source: llama.cpp, convert_hf_to_gguf.py (LlamaModel.permute, generate_extra_tensors) and gguf-py/gguf/tensor_mapping.py.
 */
import { NiftError, quote } from '../../errors.js';
import type { GgufTensorToWrite } from '../../formats/gguf/writer.js';
import { SAFETENSORS_DTYPES, toFloat32, typedView, type SafetensorsDtype, type TensorSource } from '../../formats/safetensors.js';
import type { ModelConfig } from '../../model/config.js';
import { EMBEDDING, FINAL_NORM, LM_HEAD, parameterShapes } from '../../model/parameters.js';
import { inverseFrequencies } from '../../model/rope.js';
import { BLOCK, encode, type ExportType } from './encode.js';

const MODULES: Readonly<Record<string, string>> = {
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'self_attn.q_norm': 'attn_q_norm',
  'self_attn.k_norm': 'attn_k_norm',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
  input_layernorm: 'attn_norm',
  post_attention_layernorm: 'ffn_norm',
};
const TOP: Readonly<Record<string, string>> = {
  [EMBEDDING]: 'token_embd.weight',
  [FINAL_NORM]: 'output_norm.weight',
  [LM_HEAD]: 'output.weight',
};
/** Elements that are converted at a time: 16 MB of float32. */
const CHUNK_ELEMENTS = 1 << 22;

export type LlamaArchitecture = 'llama' | 'qwen2' | 'qwen3';

/** What llama.cpp calls the architecture. */
export function llamaArchitecture(config: ModelConfig): LlamaArchitecture {
  if (config.architecture === 'Qwen2ForCausalLM') return 'qwen2';
  return config.architecture === 'Qwen3ForCausalLM' ? 'qwen3' : 'llama';
}

/** `model.layers.3.self_attn.q_proj.weight` -> `blk.3.attn_q.weight` */
export function ggufName(name: string): string {
  const top = TOP[name];
  if (top !== undefined) return top;
  const match = /^model\.layers\.(\d+)\.(.+)\.(weight|bias)$/.exec(name);
  const module = match ? MODULES[match[2]!] : undefined;
  if (!match || module === undefined) throw new NiftError('NIFT_INTERNAL', `no GGUF name for ${quote(name)}`, { exitCode: 1 });
  return `blk.${match[1]}.${module}.${match[3]}`;
}

/** Heads whose rows are permuted in this tensor; 0 for none. */
export function permutedHeads(config: ModelConfig, name: string): number {
  if (llamaArchitecture(config) !== 'llama') return 0;
  if (/\.self_attn\.q_proj\./.test(name)) return config.numHeads;
  return /\.self_attn\.k_proj\./.test(name) ? config.numKvHeads : 0;
}

/** Row of the checkpoint that becomes `row` of the file. */
export function sourceRow(row: number, headDim: number): number {
  const within = row % headDim;
  return row - within + (within >> 1) + (within & 1) * (headDim / 2);
}

/** All tensors of a checkpoint that was checked against its config. @returns them, and the names whose rows fit no Q8_0 blocks */
export function modelTensors(
  config: ModelConfig,
  source: TensorSource,
  type: ExportType,
): { tensors: GgufTensorToWrite[]; unquantized: string[] } {
  const unquantized: string[] = [];
  const tensors: GgufTensorToWrite[] = [];
  const frequencies = ropeFactors(config);
  if (frequencies) tensors.push(plainTensor('rope_freqs.weight', [frequencies.length], frequencies));
  for (const [name, shape] of parameterShapes(config)) {
    const target = ggufName(name);
    // Vectors are few and decide much; llama.cpp has them in float32 always.
    let stored: ExportType = shape.length === 1 ? 'F32' : type;
    if (stored === 'Q8_0' && shape[shape.length - 1]! % BLOCK !== 0) {
      unquantized.push(target);
      stored = 'F16';
    }
    tensors.push(
      convertedTensor({ name, target, shape, headDim: permutedHeads(config, name) > 0 ? config.headDim : 0 }, source, stored),
    );
  }
  return { tensors, unquantized };
}

const plainTensor = (name: string, shape: readonly number[], values: Float32Array): GgufTensorToWrite => ({
  name,
  type: 'F32',
  shape,
  chunks: () => [new Uint8Array(values.buffer, values.byteOffset, values.byteLength)],
});

export interface Conversion {
  /** In the checkpoint. */
  name: string;
  /** In the file. */
  target: string;
  shape: readonly number[];
  /** Permute rows within heads of this many; 0 keeps them. */
  headDim: number;
  /** Multiplies every value. */
  factor?: number;
}

/** A tensor that is read, permuted, rounded and handed on a few rows at a time. */
export function convertedTensor(conversion: Conversion, source: TensorSource, type: ExportType): GgufTensorToWrite {
  const { target, shape } = conversion;
  return { name: target, type, shape, chunks: () => convertedChunks(conversion, source, type) };
}

function* convertedChunks(conversion: Conversion, source: TensorSource, type: ExportType): Generator<Uint8Array> {
  const { name, shape, headDim, factor = 1 } = conversion;
  const bytes = source.bytes(name);
  const { dtype } = source.info(name);
  if (dtype === type && headDim === 0 && factor === 1) {
    yield bytes;
    return;
  }
  // A vector is one row per value when its values change places, otherwise one row.
  const rows = shape.length === 1 && headDim === 0 ? 1 : shape[0]!;
  const rowBytes = bytes.length / rows;
  const columns = rowBytes / SAFETENSORS_DTYPES[dtype];
  const step = Math.max(1, Math.floor(CHUNK_ELEMENTS / columns));
  for (let row = 0; row < rows; row += step) {
    const end = Math.min(rows, row + step);
    const chunk = headDim === 0 ? bytes.subarray(row * rowBytes, end * rowBytes) : gather(bytes, rowBytes, row, end, headDim);
    const values = scaled(asFloat32(dtype, chunk), factor);
    const encoded = dtype === type && factor === 1 ? chunk : encode(values, type);
    if (encoded === null) throw notFinite(name, values, type);
    yield encoded;
  }
}

const asFloat32 = (dtype: SafetensorsDtype, bytes: Uint8Array): Float32Array => toFloat32(dtype, typedView(dtype, bytes));

const scaled = (values: Float32Array, factor: number): Float32Array =>
  factor === 1 ? values : values.map((value) => value * factor);

function gather(bytes: Uint8Array, rowBytes: number, begin: number, end: number, headDim: number): Uint8Array {
  const out = new Uint8Array((end - begin) * rowBytes);
  for (let row = begin; row < end; row++) {
    const from = sourceRow(row, headDim) * rowBytes;
    out.set(bytes.subarray(from, from + rowBytes), (row - begin) * rowBytes);
  }
  return out;
}

function notFinite(name: string, values: Float32Array, type: ExportType): NiftError {
  const broken = values.some((value) => !Number.isFinite(value));
  const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const problem = broken ? 'holds values that are infinite or no numbers' : `reaches ${largest}, which ${type} cannot hold`;
  return new NiftError('NIFT_EXPORT_VALUES', `tensor ${quote(name)} ${problem}`, {
    hint: broken ? 'The checkpoint is damaged.' : 'Export with --type bf16 or --type f32.',
  });
}

/**
 * What llama.cpp divides the plain frequencies by: the ratio of plain to scaled ones for `llama3` scaling, [headDim / 2]; null for
 * types that the metadata describes.
 */
export function ropeFactors(config: ModelConfig): Float32Array | null {
  if (config.rope.type !== 'llama3') return null;
  const plain = inverseFrequencies({ ...config.rope, type: 'default', factor: 1 }, config.headDim);
  const scaledFrequencies = inverseFrequencies(config.rope, config.headDim);
  return plain.map((frequency, i) => frequency / scaledFrequencies[i]!);
}
