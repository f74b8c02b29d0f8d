/** Registration of one kernel for backend `native`, with the casts that TF.js's loose kernel types need in one place. */
import type { NativeBackend } from '../backend/native.js';
import { tf } from '../backend/tf.js';

export interface NativeKernelArgs<Input extends string, Attrs> {
  inputs: Record<Input, tf.TensorInfo>;
  backend: NativeBackend;
  attrs: Attrs;
}

export function registerNativeKernel<Input extends string, Attrs = undefined>(
  kernelName: string,
  run: (args: NativeKernelArgs<Input, Attrs>) => tf.TensorInfo | tf.TensorInfo[],
): void {
  tf.registerKernel({
    kernelName,
    backendName: 'native',
    kernelFunc: ({ inputs, backend, attrs }) =>
      run({
        inputs: inputs as unknown as Record<Input, tf.TensorInfo>,
        backend: backend as NativeBackend,
        attrs: attrs as unknown as Attrs,
      }),
  });
}
