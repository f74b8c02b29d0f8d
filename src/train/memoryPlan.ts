/**
 * Bytes that a training run will need, predicted from shapes alone.
 *
 * Floats that the backward pass keeps per token and layer (C hidden, F intermediate, Q = heads * head_dim,
 * K = kv heads * head_dim, r LoRA rank; tensors that several ops save share one buffer):
 *
 *   residual stream before and after attention, both norms' outputs, both blocks' outputs   6 C
 *   rotated q, k, and v, attention's output                                                2 Q + 2 K
 *   gate, up and their product                                                             3 F
 *   x A^T of each adapted module                                                           r per module
 *   log-sum-exp of each head, reciprocal rms                                               H + 2
 *
 * With gradient checkpointing a layer keeps its input (C), and one layer at a time keeps the rest.
 * The constants at the end were fitted to measured peaks (test/train/plan.test.ts holds them within 10 %).
 */
import { BYTES_PER_ELEMENT, type StorageDtype } from '../backend/dtype.js';
import type { ModelConfig } from '../model/config.js';
import { parameterShapes } from '../model/parameters.js';

/** Bytes per class of tensor. `total` is the predicted peak of resident memory. */
export interface MemoryPlan {
  frozenWeights: number;
  trainable: number;
  gradients: number;
  optimizer: number;
  activations: number;
  /** Chunk of logits. */
  workspace: number;
  data: number;
  /** Node.js, TensorFlow.js, compiled code, buffers that wait for reuse. */
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
  native: boolean;
}

const FLOAT = 4;

export function planMemory(question: MemoryQuestion): MemoryPlan {
  const { config, full, trainableParameters, batchTokens } = question;
  const trainable = trainableParameters * FLOAT;
  const layer = layerFloats(question) * batchTokens * FLOAT;
  const hidden = config.hiddenSize * batchTokens * FLOAT;
  const layers = question.checkpointing ? config.numLayers * hidden + layer : config.numLayers * layer;
  const plan = {
    frozenWeights: full ? 0 : weightBytes(config, question.storage) + conversionBytes(question),
    trainable,
    gradients: trainable * (question.accumulation > 1 ? 2 : 1),
    optimizer: 2 * trainable,
    // Final norm's input and output, the head's gradient; cos and sin.
    activations: layers + 3 * hidden + batchTokens * config.headDim * FLOAT,
    workspace: workspaceBytes(question),
    data: question.dataTokens * 2 * FLOAT,
    runtime: question.native ? RUNTIME_NATIVE : RUNTIME_COMPOSED,
  };
  return { ...plan, total: Object.values(plan).reduce((sum, bytes) => sum + bytes, 0) };
}

/** Floats per token that one layer keeps for its backward pass. */
function layerFloats({ config, adapters, dropout }: MemoryQuestion): number {
  const { hiddenSize: c, intermediateSize: f, numHeads, numKvHeads, headDim, qkNorm } = config;
  const q = numHeads * headDim;
  const k = numKvHeads * headDim;
  let floats = 6 * c + 2 * q + 2 * k + 3 * f + numHeads + 2;
  if (qkNorm) floats += q + k + numHeads + numKvHeads;
  for (const adapter of adapters) floats += adapter.r + (dropout ? adapter.in + 2 * adapter.out + adapter.r : 0);
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

/** A checkpoint whose dtype is not the one we store is read through a mapping that stays resident while it is converted. */
function conversionBytes({ config, fileDtype, storage }: MemoryQuestion): number {
  return fileDtype === storage ? 0 : weightBytes(config, fileDtype);
}

/** Rows of logits that LinearCrossEntropy holds at a time, bytes. */
const LOGITS_CHUNK = 32 * 2 ** 20;
const RUNTIME_NATIVE = 150e6;
const RUNTIME_COMPOSED = 250e6;
