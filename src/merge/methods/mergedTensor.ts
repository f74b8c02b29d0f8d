/** One tensor of the output: as many passes over the models' blocks as the method needs, the last of which writes. */
import { deriveSeed, Random } from '../../random.js';
import type { SafetensorsDtype } from '../../formats/safetensors.js';
import { checkFinite, encode, largestBits, STORAGE_OF, type StoredTensor } from '../mergeTensor.js';
import type { TensorSink } from '../tensorSink.js';
import { BLOCK_ELEMENTS, BlockReader, elementsOf, forBlocks } from './blocks.js';
import { addTaskVectors, Angle, drop, subtract, sumOf, weightedSum } from './formulas.js';
import type { Method } from './options.js';
import { Trim } from './trim.js';

/** Where the values of one tensor come from. */
export interface TensorSources {
  /** null when the method has no base. */
  base: StoredTensor | null;
  models: readonly StoredTensor[];
}

/** Gives the merged block [first, first + count) in `out`. Blocks are asked for once each, in order. */
type MergeBlock = (out: Float32Array, first: number, count: number) => void;

/** Writes the merged tensor as `dtype`. @throws NIFT_MERGE_OVERFLOW, NIFT_FILE_IO, NIFT_DISK_FULL */
export async function writeMergedTensor(
  method: Method,
  sources: TensorSources,
  dtype: SafetensorsDtype,
  sink: TensorSink,
  blockElements = BLOCK_ELEMENTS,
): Promise<void> {
  const first = sources.base ?? sources.models[0]!;
  const elements = elementsOf(first);
  const mergeBlock = prepare(method, sources, blockElements);
  const out = new Float32Array(Math.min(blockElements, elements));
  let largest = 0;
  for (let at = 0; at < elements; at += blockElements) {
    const block = out.subarray(0, Math.min(blockElements, elements - at));
    mergeBlock(block, at, block.length);
    largest = Math.max(largest, largestBits(block));
    await sink.write(encode(block, dtype));
  }
  checkFinite(first, STORAGE_OF[dtype]!, largest);
}

function prepare(method: Method, sources: TensorSources, blockElements: number): MergeBlock {
  const base = sources.base === null ? null : new BlockReader(sources.base, blockElements);
  const models = sources.models.map((tensor) => new BlockReader(tensor, blockElements));
  if (method.name === 'slerp') return prepareSlerp(method, [...(base ? [base] : []), ...models], sources, blockElements);
  if (!method.taskVectors) {
    const divisor = method.normalize ? sumOf(method.weights) : 1;
    return (out, first, count) =>
      weightedSum(
        out,
        models.map((model) => model.read(first, count)),
        method.weights,
        divisor,
      );
  }
  return prepareTaskVectors(method, base!, models, sources, blockElements);
}

function prepareSlerp(method: Method, [a, b]: BlockReader[], sources: TensorSources, blockElements: number): MergeBlock {
  const angle = new Angle();
  forBlocks(
    elementsOf(sources.models[0]!),
    (first, count) => angle.add(a!.read(first, count), b!.read(first, count)),
    blockElements,
  );
  const factors = angle.factors(method.t);
  return (out, first, count) => weightedSum(out, [a!.read(first, count), b!.read(first, count)], factors, 1);
}

function prepareTaskVectors(
  method: Method,
  base: BlockReader,
  models: readonly BlockReader[],
  sources: TensorSources,
  blockElements: number,
): MergeBlock {
  const deltaOf = (model: BlockReader, own: Float32Array, first: number, count: number): Float32Array => {
    const delta = model.read(first, count);
    subtract(delta, own);
    return delta;
  };
  const elements = elementsOf(sources.models[0]!);
  const trims =
    method.sparsity === 'trim' && method.density < 1 ? models.map(() => new Trim(kept(method.density, elements))) : null;
  for (const pass of trims ? (['countHigh', 'countLow'] as const) : [])
    forBlocks(
      elements,
      (first, count) => {
        const own = base.read(first, count);
        models.forEach((model, k) => trims![k]![pass](deltaOf(model, own, first, count)));
      },
      blockElements,
    );
  // One stream per tensor and model: a tensor's result does not depend on what else is merged.
  const seed = deriveSeed(method.seed, sources.models[0]!.name);
  const randoms = models.map((_, k) => new Random(seed, k));
  return (out, first, count) => {
    const own = base.read(first, count);
    const deltas = models.map((model, k) => {
      const delta = deltaOf(model, own, first, count);
      trims?.[k]!.apply(delta);
      if (method.sparsity === 'drop' && method.density < 1) drop(delta, method.density, randoms[k]!);
      return delta;
    });
    addTaskVectors(out, own, deltas, method);
  };
}

/** Elements of a task vector that trimming keeps. Differs from mergekit, which stops when a tensor is so small that none would be. */
const kept = (density: number, elements: number): number => Math.max(1, Math.floor(density * elements));
