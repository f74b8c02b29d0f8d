/** Registers backend `native`: every stock `cpu` kernel under our name, and the addon's kernels in place of the hot ones. */
import { addon, type Addon } from './addon.js';
import { elementwiseKernels } from './kernels/elementwise.js';
import { fillKernels } from './kernels/fill.js';
import type { Call, Kernel } from './kernels/kernel.js';
import { layoutKernels } from './kernels/layout.js';
import { matmulKernels } from './kernels/matmul.js';
import { reduceKernels } from './kernels/reduce.js';
import { NativeBackend } from './native.js';
import { tf } from './tf.js';

export const NATIVE = 'native';

const REPLACED: Readonly<Record<string, Kernel>> = {
  ...elementwiseKernels,
  ...reduceKernels,
  ...layoutKernels,
  ...fillKernels,
  ...matmulKernels,
};

let registered = false;

/** Idempotent. The backend outranks the stock ones, so it is also what TF.js picks when nobody chooses. */
export function registerNativeBackend(): void {
  if (registered) return;
  registered = true;
  tf.registerBackend(NATIVE, () => new NativeBackend(), 10);
  const native = addon();
  for (const config of tf.getKernelsForBackend('cpu')) {
    const stock = asStock(config.kernelFunc);
    const own = native ? REPLACED[config.kernelName] : undefined;
    const kernelFunc = own && native ? withFallback(own, stock, native) : stock;
    tf.registerKernel({ ...config, backendName: NATIVE, kernelFunc });
  }
}

function asStock(kernel: tf.KernelFunc): tf.KernelFunc {
  return (params) => (params.backend as NativeBackend).runStock(() => kernel(params));
}

function withFallback(own: Kernel, stock: tf.KernelFunc, native: Addon): tf.KernelFunc {
  const none = {};
  return (params) => {
    const { inputs, backend, attrs = none } = params;
    return own({ inputs, backend, attrs, native } as Call) ?? stock(params);
  };
}
