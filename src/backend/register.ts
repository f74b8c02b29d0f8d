/** Registers backend `native`: every stock `cpu` kernel under our name, then our own kernels in place of the hot ones. */
import { addon } from './addon.js';
import { NativeBackend } from './native.js';
import { tf } from './tf.js';

export const NATIVE = 'native';

let registered = false;

/** Idempotent. The backend outranks the stock ones, so it is also what TF.js picks when nobody chooses. */
export function registerNativeBackend(): void {
  if (registered) return;
  registered = true;
  tf.registerBackend(NATIVE, () => new NativeBackend(), 10);
  for (const config of tf.getKernelsForBackend('cpu'))
    tf.registerKernel({ ...config, backendName: NATIVE, kernelFunc: asStock(config.kernelFunc) });
  if (addon()) return;
}

function asStock(kernel: tf.KernelFunc): tf.KernelFunc {
  return (params) => (params.backend as NativeBackend).runStock(() => kernel(params));
}
