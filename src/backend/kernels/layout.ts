/** Kernels that only move elements of float32 and int32 tensors: Transpose, Slice, SplitV, Unpack, Concat, Pack, GatherV2. */
import { DTYPE_CODE } from '../dtype.js';
import { tf } from '../tf.js';
import { alias, input, type Call, type Kernel, MAX_RANK, sizeOf, type TensorInfo, words } from './kernel.js';

/** x with its axes in the order `perm`; undefined for what the addon does not take. */
export function transposed(call: Call, x: TensorInfo, perm: readonly number[]): TensorInfo | undefined {
  const outShape = perm.map((d) => x.shape[d] as number);
  if (sizeOf(x.shape) === 0) return undefined;
  const { shape, order } = mergeAxes(x.shape, perm);
  if (order.length <= 1) return alias(call, x, outShape);
  if (order.length > MAX_RANK) return undefined;
  const values = words(call, x);
  if (!values) return undefined;
  const { info, data } = call.backend.output(outShape, x.dtype as 'float32' | 'int32');
  const sizes = order.map((d) => shape[d] as number);
  copy(call, values, shape, order, new Array<number>(shape.length).fill(0), sizes, data);
  return info;
}

/** Drops axes of size 1 and merges those that stay neighbours. */
function mergeAxes(shape: readonly number[], perm: readonly number[]): { shape: number[]; order: number[] } {
  const kept = perm.filter((d) => shape[d] !== 1);
  const ranked = [...kept].sort((a, b) => a - b);
  // Runs of output axes that are neighbours, in order, in the input.
  const runs: { first: number; size: number }[] = [];
  let previous = -2;
  for (const axis of kept) {
    const position = ranked.indexOf(axis);
    const run = runs.at(-1);
    if (run && position === previous + 1) run.size *= shape[axis] as number;
    else runs.push({ first: position, size: shape[axis] as number });
    previous = position;
  }
  const inputRuns = [...runs].sort((a, b) => a.first - b.first);
  return { shape: inputRuns.map((run) => run.size), order: runs.map((run) => inputRuns.indexOf(run)) };
}

type Words = Float32Array | Int32Array;

function copy(
  { native }: Call,
  values: Words,
  shape: readonly number[],
  order: readonly number[],
  begin: readonly number[],
  sizes: readonly number[],
  out: Words,
): void {
  const ints = (list: readonly number[]): Int32Array => Int32Array.from(list);
  native.stridedCopy(values, ints(shape), ints(order), ints(begin), ints(sizes), out);
}

const transpose: Kernel = (call) => transposed(call, input(call, 'x'), call.attrs['perm'] as number[]);

/** A box cut out of x. `shown`: shape of the result, when it is not `size`. */
function sliced(
  call: Call,
  x: TensorInfo,
  values: Words,
  begin: readonly number[],
  size: readonly number[],
  shown: readonly number[] = size,
): TensorInfo | undefined {
  const box = mergeBox(x.shape, begin, size);
  if (box.shape.length > MAX_RANK) return undefined;
  const { info, data } = call.backend.output(shown, x.dtype as 'float32' | 'int32');
  copy(call, values, box.shape, [...box.shape.keys()], box.begin, box.size, data);
  return info;
}

/** Merges each axis with those inside it that are taken whole. */
function mergeBox(shape: readonly number[], begin: readonly number[], size: readonly number[]) {
  const merged = { shape: [1], begin: [0], size: [1] };
  for (let d = shape.length - 1; d >= 0; d--) {
    const inner = merged.shape[0] as number;
    const whole = merged.size[0] === inner;
    const axis = [shape[d], begin[d], size[d]] as [number, number, number];
    if (whole) {
      merged.shape[0] = axis[0] * inner;
      merged.begin[0] = axis[1] * inner;
      merged.size[0] = axis[2] * inner;
    } else {
      merged.shape.unshift(axis[0]);
      merged.begin.unshift(axis[1]);
      merged.size.unshift(axis[2]);
    }
  }
  return merged;
}

const slice: Kernel = (call) => {
  const x = input(call, 'x');
  const { begin: from, size: count } = call.attrs as { begin: number | number[]; size: number | number[] };
  const [begin, size] = tf.slice_util.parseSliceParams(x, from, count) as [number[], number[]];
  tf.slice_util.assertParamsValid(x, begin, size);
  const values = sizeOf(size) === 0 ? undefined : words(call, x);
  return values && sliced(call, x, values, begin, size);
};

/** Slices of the given sizes along an axis, one after the other. */
function cutAlong(call: Call, x: TensorInfo, axis: number, sizes: readonly number[], drop: boolean): TensorInfo[] | undefined {
  if (sizeOf(x.shape) === 0 || sizes.includes(0) || x.shape.length > MAX_RANK) return undefined;
  const values = words(call, x);
  if (!values) return undefined;
  const begin = x.shape.map(() => 0);
  const shown = drop ? x.shape.filter((_, d) => d !== axis) : undefined;
  return sizes.map((count) => {
    const size = x.shape.map((whole, d) => (d === axis ? count : whole));
    const piece = sliced(call, x, values, begin, size, shown) as TensorInfo;
    begin[axis] = (begin[axis] as number) + count;
    return piece;
  });
}

const splitV: Kernel = (call) => {
  const x = input(call, 'x');
  const [axis] = tf.util.parseAxisParam(call.attrs['axis'] as number, x.shape) as [number];
  const wanted = call.attrs['numOrSizeSplits'] as number | number[];
  return cutAlong(call, x, axis, tf.backend_util.prepareSplitSize(x, wanted, axis), false);
};

const unpack: Kernel = (call) => {
  const value = input(call, 'value');
  const [axis] = tf.util.parseAxisParam(call.attrs['axis'] as number, value.shape) as [number];
  return cutAlong(call, value, axis, new Array<number>(value.shape[axis] as number).fill(1), true);
};

/** Joins inputs that agree in all sizes before `axis` and, but for that one, after it. */
function joined(call: Call, inputs: TensorInfo[], axis: number, outShape: number[]): TensorInfo | undefined {
  const dtype = inputs[0]?.dtype;
  if ((dtype !== 'float32' && dtype !== 'int32') || inputs.some((info) => info.dtype !== dtype)) return undefined;
  if (sizeOf(outShape) === 0) return undefined;
  const rows = sizeOf(outShape.slice(0, axis));
  const stride = sizeOf(outShape.slice(axis));
  const { info, data } = call.backend.output(outShape, dtype);
  let offset = 0;
  for (const next of inputs) {
    const width = sizeOf(next.shape) / rows;
    if (width > 0) call.native.copyRows(words(call, next) as Words, rows, width, data, offset, stride);
    offset += width;
  }
  return info;
}

const concat: Kernel = (call) => {
  const inputs = Object.values(call.inputs);
  const shapes = inputs.map((info) => info.shape);
  const [axis] = tf.util.parseAxisParam(call.attrs['axis'] as number, shapes[0] as number[]) as [number];
  tf.backend_util.assertParamsConsistent(shapes, axis);
  return joined(call, inputs, axis, tf.backend_util.computeOutShape(shapes, axis));
};

const pack: Kernel = (call) => {
  const inputs = Object.values(call.inputs);
  const shape = (inputs[0] as TensorInfo).shape;
  if (inputs.some((info) => String(info.shape) !== String(shape))) return undefined;
  const axis = call.attrs['axis'] as number;
  if (axis < 0) return undefined;
  return joined(call, inputs, axis, [...shape.slice(0, axis), inputs.length, ...shape.slice(axis)]);
};

const gatherV2: Kernel = (call) => {
  const x = input(call, 'x');
  const indices = input(call, 'indices');
  const batchDims = (call.attrs['batchDims'] as number | undefined) ?? 0;
  if (batchDims !== 0 || indices.dtype !== 'int32' || sizeOf(x.shape) * sizeOf(indices.shape) === 0) return undefined;
  if (x.dtype !== 'float32' && x.dtype !== 'int32') return undefined;
  const [axis] = tf.util.parseAxisParam(call.attrs['axis'] as number, x.shape) as [number];
  const { backend } = call;
  const before = x.shape.slice(0, axis);
  const after = x.shape.slice(axis + 1);
  const table = x.dtype === 'float32' ? backend.stored(x) : ({ data: backend.ints(x), dtype: 'float32' } as const);
  const { info, data } = backend.output([...before, ...indices.shape, ...after], x.dtype);
  const outside = call.native.gatherRows(
    table.data,
    DTYPE_CODE[table.dtype],
    sizeOf(before),
    x.shape[axis] as number,
    sizeOf(after),
    backend.ints(indices),
    data,
  );
  if (outside < 0) return info;
  // The stock kernel words the error.
  backend.disposeIntermediateTensorInfo(info);
  return undefined;
};

export const layoutKernels: Readonly<Record<string, Kernel>> = {
  Transpose: transpose,
  Slice: slice,
  SplitV: splitV,
  Unpack: unpack,
  Concat: concat,
  Pack: pack,
  GatherV2: gatherV2,
};
