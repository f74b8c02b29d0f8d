/** Elementwise float32 kernels: arithmetic and comparisons with broadcasting, functions, AddN, Select. */
import { input, isFloat, type Call, type Kernel, MAX_RANK, sizeOf, type TensorInfo } from './kernel.js';

/** `enum class Binary` of native/elementwise.h. */
const BINARY = { Add: 0, Sub: 1, Multiply: 2, RealDiv: 3, Maximum: 4, Minimum: 5, SquaredDifference: 6 };
/** `enum class Compare`. */
const COMPARE = { Equal: 0, NotEqual: 1, Less: 2, LessEqual: 3, Greater: 4, GreaterEqual: 5 };
/** `enum class Unary`. */
const UNARY = {
  Neg: 0,
  Abs: 1,
  Square: 2,
  Sqrt: 3,
  Rsqrt: 4,
  Reciprocal: 5,
  Exp: 6,
  Log: 7,
  Relu: 8,
  Sigmoid: 9,
  Tanh: 10,
  Step: 11,
};

/** Which operand moves along a dimension of the result; the other repeats. */
const MOVES_A = 1;
const MOVES_B = 2;

export interface Broadcast {
  /** Shape of the result. */
  out: number[];
  /** The same, neighbours merged that both operands treat alike. */
  shape: Int32Array;
  moves: Int32Array;
}

/** Undefined when the shapes do not broadcast, are empty, or need more dimensions than the addon takes. */
export function broadcast(a: readonly number[], b: readonly number[]): Broadcast | undefined {
  const rank = Math.max(a.length, b.length);
  const out = new Array<number>(rank);
  const shape: number[] = [];
  const moves: number[] = [];
  for (let d = 0; d < rank; d++) {
    const sizeA = a[d - rank + a.length] ?? 1;
    const sizeB = b[d - rank + b.length] ?? 1;
    const size = sizeA === 1 ? sizeB : sizeA;
    if (size === 0 || (sizeB !== size && sizeB !== 1)) return undefined;
    out[d] = size;
    if (size === 1) continue;
    const move = (sizeA === size ? MOVES_A : 0) | (sizeB === size ? MOVES_B : 0);
    const last = shape.length - 1;
    if (moves[last] === move) shape[last] = (shape[last] as number) * size;
    else {
      shape.push(size);
      moves.push(move);
    }
  }
  if (shape.length === 0) {
    shape.push(1);
    moves.push(MOVES_A | MOVES_B);
  }
  if (shape.length > MAX_RANK) return undefined;
  return { out, shape: Int32Array.from(shape), moves: Int32Array.from(moves) };
}

function binaryKernel(op: number): Kernel {
  return (call) => {
    const a = input(call, 'a');
    const b = input(call, 'b');
    if (a.dtype !== 'float32' || b.dtype !== 'float32') return undefined;
    const shape = broadcast(a.shape, b.shape);
    if (!shape) return undefined;
    const { info, data } = call.backend.output(shape.out);
    call.native.binaryOp(op, call.backend.floats(a), call.backend.floats(b), shape.shape, shape.moves, data);
    return info;
  };
}

function compareKernel(op: number): Kernel {
  return (call) => {
    const a = input(call, 'a');
    const b = input(call, 'b');
    if (a.dtype !== 'float32' || b.dtype !== 'float32') return undefined;
    const shape = broadcast(a.shape, b.shape);
    if (!shape) return undefined;
    const { info, data } = call.backend.output(shape.out, 'bool');
    call.native.compareOp(op, call.backend.floats(a), call.backend.floats(b), shape.shape, shape.moves, data);
    return info;
  };
}

function unaryKernel(op: number): Kernel {
  return (call) => {
    const x = input(call, 'x');
    if (!isFloat(x)) return undefined;
    const { info, data } = call.backend.output(x.shape);
    call.native.unaryOp(op, call.backend.floats(x), (call.attrs['alpha'] as number | undefined) ?? 0, data);
    return info;
  };
}

/** y += b in place, b repeated as needed; false when that is not possible. */
export function addInPlace(call: Call, y: Float32Array, shape: readonly number[], b: TensorInfo): boolean {
  const plan = broadcast(shape, b.shape);
  if (!plan || b.dtype !== 'float32' || sizeOf(plan.out) !== y.length) return false;
  call.native.binaryOp(BINARY.Add, y, call.backend.floats(b), plan.shape, plan.moves, y);
  return true;
}

/** Activations of fused kernels that can be applied in place. */
const IN_PLACE: Readonly<Record<string, number>> = { relu: UNARY.Relu, sigmoid: UNARY.Sigmoid };

export function hasInPlaceActivation(name: string | undefined): boolean {
  return name === undefined || name === null || name === 'linear' || name in IN_PLACE;
}

export function activateInPlace(call: Call, y: Float32Array, name: string | undefined): void {
  const op = name === undefined ? undefined : IN_PLACE[name];
  if (op !== undefined) call.native.unaryOp(op, y, 1, y);
}

/** Sums in the order of the inputs. */
const addN: Kernel = (call) => {
  const inputs = Object.values(call.inputs);
  const [first, second, ...rest] = inputs;
  if (!first || !second || !inputs.every(isFloat)) return undefined;
  const plan = broadcast(first.shape, first.shape);
  if (!plan) return undefined;
  const { info, data } = call.backend.output(first.shape);
  call.native.binaryOp(BINARY.Add, call.backend.floats(first), call.backend.floats(second), plan.shape, plan.moves, data);
  for (const next of rest) call.native.binaryOp(BINARY.Add, data, call.backend.floats(next), plan.shape, plan.moves, data);
  return info;
};

const select: Kernel = (call) => {
  const condition = input(call, 'condition');
  const t = input(call, 't');
  const e = input(call, 'e');
  const bytes = call.backend.bools(condition);
  if (!bytes || !isFloat(t) || !isFloat(e) || bytes.length !== sizeOf(t.shape) || sizeOf(e.shape) !== bytes.length)
    return undefined;
  const { info, data } = call.backend.output(t.shape);
  call.native.selectOp(bytes, call.backend.floats(t), call.backend.floats(e), data);
  return info;
};

const each = (ops: Record<string, number>, make: (op: number) => Kernel): Record<string, Kernel> =>
  Object.fromEntries(Object.entries(ops).map(([name, op]) => [name, make(op)]));

export const elementwiseKernels: Readonly<Record<string, Kernel>> = {
  ...each(BINARY, binaryKernel),
  ...each(COMPARE, compareKernel),
  ...each(UNARY, unaryKernel),
  AddN: addN,
  Select: select,
};
