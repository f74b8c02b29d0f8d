/** BatchMatMul and _FusedMatMul of float32 tensors. */
import { activateInPlace, addInPlace, hasInPlaceActivation } from './elementwise.js';
import { input, isFloat, type Call, type Kernel, sizeOf } from './kernel.js';
import type { Output } from '../native.js';

function multiplied(call: Call): Output<Float32Array> | undefined {
  const a = input(call, 'a');
  const b = input(call, 'b');
  const { transposeA, transposeB } = call.attrs as { transposeA: boolean; transposeB: boolean };
  if (!isFloat(a) || !isFloat(b) || a.shape.length < 2 || b.shape.length < 2) return undefined;
  const batchA = a.shape.slice(0, -2);
  const batchB = b.shape.slice(0, -2);
  const sizeA = sizeOf(batchA);
  const sizeB = sizeOf(batchB);
  // Both the same batch, or one matrix for all.
  const wider = batchA.length >= batchB.length ? batchA : batchB;
  if (String(batchA) !== String(batchB) && !(sizeA === 1 && wider === batchB) && !(sizeB === 1 && wider === batchA))
    return undefined;
  const [rowsA, columnsA] = a.shape.slice(-2) as [number, number];
  const [rowsB, columnsB] = b.shape.slice(-2) as [number, number];
  const [m, k] = transposeA ? [columnsA, rowsA] : [rowsA, columnsA];
  const [innerB, n] = transposeB ? [columnsB, rowsB] : [rowsB, columnsB];
  if (k !== innerB) return undefined;
  const out = call.backend.output([...wider, m, n]);
  call.native.batchMatMul(
    out.data,
    call.backend.floats(a),
    call.backend.floats(b),
    Math.max(sizeA, sizeB),
    m,
    n,
    k,
    sizeA === 1 ? 0 : m * k,
    sizeB === 1 ? 0 : k * n,
    Boolean(transposeA),
    Boolean(transposeB),
  );
  return out;
}

const batchMatMul: Kernel = (call) => multiplied(call)?.info;

const fusedMatMul: Kernel = (call) => {
  const activation = call.attrs['activation'] as string | undefined;
  if (!hasInPlaceActivation(activation)) return undefined;
  const out = multiplied(call);
  if (!out) return undefined;
  const { bias } = call.inputs;
  if (bias && !addInPlace(call, out.data, out.info.shape, bias)) {
    call.backend.disposeIntermediateTensorInfo(out.info);
    return undefined;
  }
  activateInPlace(call, out.data, activation);
  return out.info;
};

export const matmulKernels: Readonly<Record<string, Kernel>> = { BatchMatMul: batchMatMul, _FusedMatMul: fusedMatMul };
