/**
 * Bytes that a training run will need, predicted from shapes alone.
 *
 * Floats that the backward pass keeps per token and layer (C hidden, F intermediate, Q = heads * head_dim,
 * K = kv heads * head_dim, r LoRA rank; tensors that several ops save share one buffer):
 *
 *   residual stream before and after attention, both norms' outputs                        4 C
 *   rotated q, k, and v, attention's output                                                2 Q + 2 K
 *   gate, up and their product                                                             3 F
 *   x A^T of each adapted module                                                           r per module
 *   log-sum-exp of each head, reciprocal rms                                               H + 2
 *
 * LoRA dropout takes the composed path, which keeps the dropped input and three outputs of each adapted module as well.
 * With gradient checkpointing a layer keeps its input (C), and one layer at a time keeps the rest and as many gradients.
 * Full fine-tuning reads, and at a save writes, one tensor at a time through copies that are collected late.
 * The constants at the end were fitted to measured peaks (test/train/plan.test.ts holds them within 10 %).
 */
import { BYTES_PER_ELEMENT, type StorageDtype } from '../backend/dtype.js';
import type { ModelConfig } from '../model/config.js';
import { parameterShapes } from '../model/parameters.js';

/** Bytes per class of tensor. `total` is the predicted peak of resident memory. */
export interface MemoryPlan {
  frozenWeights: number;
  /** Full fine-tuning: the mapped checkpoint and copies of single tensors on their way from and to files. */
  copies: number;
  trainable: number;
  gradients: number;
  optimizer: number;
  activations: number;
  /** Chunk of logits. */
  workspace: number;
  data: number;
  /** Buffers of other sizes that wait for reuse or collection, when micro-batches differ in size. */
  reserve: number;
  /** Node.js, TensorFlow.js, compiled code, the tokenizer. */
  runtime: number;
  total: number;
}

export interface MemoryQuestion {
  config: ModelConfig;
  /** Storage of the checkpoint's matrices and of ours. */
  fileDtype: StorageDtype;
  storage: StorageDtype;
  full: boolean;
  trainableParameters: number;
  /** Sum over adapted modules of one layer of (rank, in, out). */
  adapters: { r: number; in: number; out: number }[];
  dropout: boolean;
  checkpointing: boolean;
  /** Tokens of the largest micro-batch, and its targets. */
  batchTokens: number;
  batchTargets: number;
  accumulation: number;
  dataTokens: number;
  /** Micro-batches differ in size. */
  varied: boolean;
  /** Some rows are made from text. */
  text: boolean;
  native: boolean;
}

const FLOAT = 4;

export function planMemory(question: MemoryQuestion): MemoryPlan {
  const { config, full, trainableParameters, batchTokens } = question;
  const trainable = trainableParameters * FLOAT;
  const layer = layerFloats(question) * batchTokens * FLOAT;
  const hidden = config.hiddenSize * batchTokens * FLOAT;
  const layers = question.checkpointing ? config.numLayers * hidden + 2 * layer : config.numLayers * layer;
  // Final norm's input and output, the head's gradient; cos and sin.
  const activations = layers + 3 * hidden + batchTokens * config.headDim * FLOAT;
  const plan = {
    frozenWeights: full ? 0 : weightBytes(config, question.storage) + conversionBytes(question),
    copies: full ? weightBytes(config, question.fileDtype) + 3 * largestTensor(config) : 0,
    trainable,
    gradients: gradientBytes(question, trainable, activations),
    optimizer: 2 * trainable,
    activations,
    workspace: workspaceBytes(question),
    data: question.dataTokens * 2 * FLOAT,
    reserve: question.varied ? RESERVE + activations / 8 : 0,
    runtime: (question.native ? RUNTIME_NATIVE : RUNTIME_COMPOSED) + (question.text ? TOKENIZER : 0),
  };
  return { ...plan, total: Object.values(plan).reduce((sum, bytes) => sum + bytes, 0) };
}

/**
 * What gradients add to the peak. They take the place of activations as the backward pass goes down, so a run of full
 * fine-tuning sees at the top only that of the output matrix; a sum of earlier micro-batches is there all the time.
 */
function gradientBytes({ config, full, accumulation }: MemoryQuestion, trainable: number, activations: number): number {
  const sum = accumulation > 1 ? trainable : 0;
  if (!full) return sum + trainable;
  return sum + Math.max(config.vocabSize * config.hiddenSize * FLOAT, trainable - activations);
}

/** Floats per token that one layer keeps for its backward pass. */
function layerFloats({ config, adapters, dropout }: MemoryQuestion): number {
  const { hiddenSize: c, intermediateSize: f, numHeads, numKvHeads, headDim, qkNorm } = config;
  const q = numHeads * headDim;
  const k = numKvHeads * headDim;
  let floats = 4 * c + 2 * q + 2 * k + 3 * f + numHeads + 2;
  if (qkNorm) floats += q + k + numHeads + numKvHeads;
  for (const adapter of adapters) floats += adapter.r + (dropout ? adapter.in + 3 * adapter.out + adapter.r : 0);
  return floats;
}

/** The chunk of logits. Gradients inside a layer take the place of activations that the backward pass has given back. */
function workspaceBytes({ config, batchTokens, batchTargets, native }: MemoryQuestion): number {
  if (native) return Math.min(LOGITS_CHUNK, batchTargets * config.vocabSize * FLOAT);
  return 4 * batchTokens * config.vocabSize * FLOAT;
}

function weightBytes(config: ModelConfig, storage: StorageDtype): number {
  let bytes = 0;
  for (const shape of parameterShapes(config).values()) {
    const size = shape.reduce((product, axis) => product * axis, 1);
    bytes += size * (shape.length === 2 ? BYTES_PER_ELEMENT[storage] : FLOAT);
  }
  return bytes;
}

function largestTensor(config: ModelConfig): number {
  const sizes = [...parameterShapes(config).values()].map((shape) => shape.reduce((product, axis) => product * axis, 1));
  return Math.max(...sizes) * FLOAT;
}

/** A checkpoint whose dtype is not the one we store is read through a mapping that stays resident while it is converted. */
function conversionBytes({ config, fileDtype, storage }: MemoryQuestion): number {
  return fileDtype === storage ? 0 : weightBytes(config, fileDtype);
}

/** Rows of logits that LinearCrossEntropy holds at a time, bytes. */
const LOGITS_CHUNK = 32 * 2 ** 20;
/** Twice what src/backend/pool.ts keeps whatever the working set is. */
const RESERVE = 2 * 32 * 2 ** 20;
const TOKENIZER = 15e6;
const RUNTIME_NATIVE = 150e6;
const RUNTIME_COMPOSED = 250e6;
