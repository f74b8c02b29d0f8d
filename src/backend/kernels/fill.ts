/** Kernels that make constants, and Cast. */
import { input, type Call, type Kernel, sizeOf, type TensorInfo } from './kernel.js';

function filled({ backend }: Call, shape: number[], dtype: string, value: number): TensorInfo | undefined {
  if (dtype !== 'float32' && dtype !== 'int32' && dtype !== 'bool') return undefined;
  const { info, data } = backend.output(shape, dtype);
  data.fill(value);
  return info;
}

const fill: Kernel = (call) => {
  const { shape, value, dtype } = call.attrs as { shape: number[]; value: unknown; dtype?: string };
  return typeof value === 'number' ? filled(call, shape, dtype ?? 'float32', value) : undefined;
};

const like =
  (value: number): Kernel =>
  (call) => {
    const x = input(call, 'x');
    return filled(call, x.shape, x.dtype, value);
  };

/** float32 from int32 and bool, int32 from float32: `set` converts as the stock kernel does. */
const cast: Kernel = (call) => {
  const x = input(call, 'x');
  const { backend } = call;
  const to = call.attrs['dtype'];
  if (sizeOf(x.shape) === 0) return undefined;
  if (to === 'float32' && (x.dtype === 'int32' || x.dtype === 'bool')) {
    const { info, data } = backend.output(x.shape, 'float32');
    data.set(backend.ints(x));
    return info;
  }
  if (to === 'int32' && x.dtype === 'float32') {
    const { info, data } = backend.output(x.shape, 'int32');
    data.set(backend.floats(x));
    return info;
  }
  return undefined;
};

export const fillKernels: Readonly<Record<string, Kernel>> = { Fill: fill, ZerosLike: like(0), OnesLike: like(1), Cast: cast };
