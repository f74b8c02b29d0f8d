/** The frozen or trainable weights of a model: read from a checkpoint, strictly, or drawn at random. */
import { addon } from '../backend/addon.js';
import { DTYPE_CODE, type ComputeDtype, type StorageDtype } from '../backend/dtype.js';
import { tf, type Tensor } from '../backend/tf.js';
import { makeWeight } from '../backend/weights.js';
import { NiftError } from '../errors.js';
import { requireTensors } from '../formats/matchTensors.js';
import type { TensorSource } from '../formats/safetensors.js';
import { roundValues } from '../ops/rounding.js';
import { normalArray } from '../random.js';
import type { ModelConfig } from './config.js';
import { EMBEDDING, LM_HEAD, parameterShapes } from './parameters.js';

/** What `--dtype` accepts. */
export type DtypePolicy = 'auto' | StorageDtype;

export interface ResolvedDtype {
  /** Storage of the matrices; null keeps what the file has. Vectors (norms, biases) are always float32. */
  storage: StorageDtype | null;
  /** Precision that matmul inputs are rounded to. */
  compute: ComputeDtype;
}

/**
 * `float32` keeps 16-bit files as they are and computes in float32; `bfloat16` and `float16` store and compute in that type;
 * `auto` keeps the file and computes in bfloat16 when that is what the checkpoint is, else in float32 (float16 products would
 * overflow where float32 is as fast).
 */
export function resolveDtype(policy: DtypePolicy, checkpoint: StorageDtype): ResolvedDtype {
  if (policy === 'float32') return { storage: null, compute: 'float32' };
  if (policy !== 'auto') return { storage: policy, compute: policy };
  return { storage: null, compute: checkpoint === 'bfloat16' ? 'bfloat16' : 'float32' };
}

/** Safetensors dtypes that weights may have. */
export const FLOAT_DTYPES: Readonly<Record<string, StorageDtype>> = { F32: 'float32', BF16: 'bfloat16', F16: 'float16' };
/** Buffers that old versions of transformers saved; they follow from the config. */
const HARMLESS = /(^|\.)rotary_emb\.(inv_freq|cos_cached|sin_cached)$/;

/** Storage dtype of the checkpoint: what the config says, else that of the embedding. */
export function checkpointDtype(config: ModelConfig, source: TensorSource): StorageDtype {
  if (config.dtype !== undefined) return config.dtype;
  return (source.has(EMBEDDING) ? FLOAT_DTYPES[source.info(EMBEDDING).dtype] : undefined) ?? 'float32';
}

/**
 * All tensors of the model by name, in model order.
 * @param trainable true: float32 copies as variables; false: constants that share the file's bytes where the dtype allows
 * @throws NIFT_CHECKPOINT_MISMATCH listing every missing, unexpected and mis-shaped tensor
 */
export function loadWeights(
  config: ModelConfig,
  source: TensorSource,
  options: { where: string; storage: StorageDtype | null; trainable: boolean },
): Map<string, Tensor> {
  const shapes = parameterShapes(config);
  checkTensors(config, shapes, source, options.where);
  const weights = new Map<string, Tensor>();
  for (const [name, shape] of shapes) {
    weights.set(
      name,
      options.trainable ? variable(ownFloat32(source, name), shape) : constant(source, name, shape, options.storage),
    );
  }
  return weights;
}

/**
 * Fresh weights: matrices N(0, initializer_range), norms 1, biases 0, like transformers' `_init_weights`.
 * Every tensor has its own stream of the seed.
 */
export function randomWeights(
  config: ModelConfig,
  options: { seed: number; storage: StorageDtype | null; trainable: boolean },
): Map<string, Tensor> {
  const weights = new Map<string, Tensor>();
  let stream = 0;
  for (const [name, shape] of parameterShapes(config)) {
    const size = shape.reduce((product, axis) => product * axis, 1);
    let values: Float32Array;
    if (shape.length === 2) values = normalArray(size, config.initializerRange, options.seed, stream);
    else values = new Float32Array(size).fill(name.endsWith('.bias') ? 0 : 1);
    if (name === EMBEDDING && config.padTokenId !== null && config.padTokenId >= 0) {
      values.fill(0, config.padTokenId * config.hiddenSize, (config.padTokenId + 1) * config.hiddenSize);
    }
    weights.set(
      name,
      options.trainable ? variable(values, shape) : stored(values, shape, shape.length === 2 ? options.storage : null),
    );
    stream++;
  }
  return weights;
}

/** Values of a tensor in memory of their own: F32 comes as a view of the file, everything else is converted anyway. */
export function ownFloat32(source: TensorSource, name: string): Float32Array {
  const values = source.readFloat32(name);
  return source.info(name).dtype === 'F32' ? values.slice() : values;
}

/** A trainable tensor that owns `values`. */
export function variable(values: Float32Array, shape: readonly number[]): tf.Variable {
  const initial = tf.tensor(values, [...shape], 'float32');
  const result = tf.variable(initial);
  initial.dispose();
  return result;
}

function constant(source: TensorSource, name: string, shape: readonly number[], storage: StorageDtype | null): Tensor {
  const fileDtype = FLOAT_DTYPES[source.info(name).dtype];
  if (shape.length === 2 && fileDtype !== undefined && (storage === null || storage === fileDtype)) {
    return makeWeight(source.typed(name) as Uint16Array | Float32Array, shape, fileDtype);
  }
  return stored(source.readFloat32(name), shape, shape.length === 2 ? storage : null);
}

function stored(values: Float32Array, shape: readonly number[], storage: StorageDtype | null): Tensor {
  if (storage === null || storage === 'float32') return tf.tensor(values, [...shape], 'float32');
  const native = addon();
  if (!native) return tf.tensor(roundValues(values, storage), [...shape], 'float32');
  const bits = new Uint16Array(values.length);
  native.floatToHalf(values, DTYPE_CODE[storage] as 1 | 2, bits);
  return makeWeight(bits, shape, storage);
}

/** @throws NIFT_CHECKPOINT_MISMATCH listing every tensor that the config does not account for, or that the file lacks */
export function checkTensors(config: ModelConfig, shapes: Map<string, number[]>, source: TensorSource, where: string): void {
  const tiedHead = (name: string): boolean => config.tieWordEmbeddings && name === LM_HEAD;
  const relevant = source.names().filter((name) => !HARMLESS.test(name) && !tiedHead(name));
  const untied = !config.tieWordEmbeddings && !source.has(LM_HEAD);
  const hint = untied ? 'Set "tie_word_embeddings": true in config.json if the output matrix is the embedding.' : undefined;
  requireTensors(
    shapes,
    new Map(relevant.map((name) => [name, source.info(name).shape])),
    'NIFT_CHECKPOINT_MISMATCH',
    where,
    hint,
  );
  const wrong = relevant
    .filter((name) => FLOAT_DTYPES[source.info(name).dtype] === undefined)
    .map((name) => `${name} is stored as ${source.info(name).dtype}, expected F32, BF16 or F16`);
  if (config.tieWordEmbeddings && source.has(LM_HEAD) && !sameBytes(source, LM_HEAD, EMBEDDING)) {
    wrong.push(`${LM_HEAD} differs from ${EMBEDDING} although tie_word_embeddings is true`);
  }
  if (wrong.length === 0) return;
  throw new NiftError('NIFT_CHECKPOINT_MISMATCH', `${where}: ${wrong.slice(0, 5).join('; ')}.`, { details: { wrong } });
}

function sameBytes(source: TensorSource, a: string, b: string): boolean {
  const [first, second] = [source.bytes(a), source.bytes(b)];
  return Buffer.from(first.buffer, first.byteOffset, first.byteLength).equals(second);
}
