/** Sum, Mean, Max, Min, Prod over any axes, and Softmax, of float32 tensors. Sums are kept in float64. */
import { tf } from '../tf.js';
import { input, isFloat, type Call, type Kernel, sizeOf, type TensorInfo } from './kernel.js';
import { transposed } from './layout.js';

/** `enum class Reduce` of native/reduce.h. */
const REDUCE = { Sum: 0, Max: 1, Min: 2, Prod: 3 };

/** Sizes of [kept, reduced, kept] when the reduced axes are neighbours, not counting axes of size 1. */
function middle(shape: readonly number[], reduced: readonly boolean[]): [number, number, number] | undefined {
  const sizes: [number, number, number] = [1, 1, 1];
  let part = 0;
  for (const [d, size] of shape.entries()) {
    if (size === 1) continue;
    if (reduced[d]) {
      if (part === 2) return undefined;
      part = 1;
    } else if (part === 1) part = 2;
    sizes[part as 0 | 1 | 2] *= size;
  }
  return sizes;
}

function reduceKernel(op: number, axisName: 'axis' | 'reductionIndices', mean = false): Kernel {
  return (call) => {
    const x = input(call, 'x');
    if (!isFloat(x)) return undefined;
    const axes = tf.util.parseAxisParam(call.attrs[axisName] as number | number[], x.shape);
    const reduced = x.shape.map((_, d) => axes.includes(d));
    const outShape = x.shape.filter((_, d) => !reduced[d]);
    const shown = call.attrs['keepDims'] ? x.shape.map((size, d) => (reduced[d] ? 1 : size)) : outShape;
    const { info, data } = call.backend.output(shown);
    const sizes = middle(x.shape, reduced);
    if (sizes) reduceInto(call, op, call.backend.floats(x), sizes, mean, data);
    else {
      // Kept axes first, reduced ones last.
      const order = [...x.shape.keys()];
      const perm = [...order.filter((d) => !reduced[d]), ...order.filter((d) => reduced[d])];
      const moved = transposed(call, x, perm) as TensorInfo;
      const rows = sizeOf(outShape);
      reduceInto(call, op, call.backend.floats(moved), [rows, sizeOf(x.shape) / rows, 1], mean, data);
      call.backend.disposeIntermediateTensorInfo(moved);
    }
    return info;
  };
}

function reduceInto(
  { native }: Call,
  op: number,
  x: Float32Array,
  [outer, n, inner]: [number, number, number],
  mean: boolean,
  out: Float32Array,
): void {
  native.reduceOp(op, x, outer, n, inner, mean ? 1 / n : 1, out);
}

const softmax: Kernel = (call) => {
  const logits = input(call, 'logits');
  const rank = logits.shape.length;
  const dim = call.attrs['dim'] as number;
  if (!isFloat(logits) || rank === 0 || (dim !== -1 && dim !== rank - 1)) return undefined;
  const columns = logits.shape[rank - 1] as number;
  const { info, data } = call.backend.output(logits.shape);
  call.native.softmaxRows(call.backend.floats(logits), data.length / columns, columns, data);
  return info;
};

export const reduceKernels: Readonly<Record<string, Kernel>> = {
  Sum: reduceKernel(REDUCE.Sum, 'axis'),
  Mean: reduceKernel(REDUCE.Sum, 'axis', true),
  Max: reduceKernel(REDUCE.Max, 'reductionIndices'),
  Min: reduceKernel(REDUCE.Min, 'axis'),
  Prod: reduceKernel(REDUCE.Prod, 'axis'),
  Softmax: softmax,
};
