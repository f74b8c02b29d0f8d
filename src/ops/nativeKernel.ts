/** Registration of one kernel for backend `native`, with the casts that TF.js's loose kernel types need in one place. */
import type { NativeBackend } from '../backend/native.js';
import { tf } from '../backend/tf.js';
import { NiftError } from '../errors.js';

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
    kernelFunc: ({ inputs, backend, attrs }) => {
      try {
        return run({
          inputs: inputs as unknown as Record<Input, tf.TensorInfo>,
          backend: backend as NativeBackend,
          attrs: attrs as unknown as Attrs,
        });
      } catch (error) {
        throw nativeError(kernelName, inputs, error);
      }
    },
  });
}

/** What the addon throws, with the op and its shapes; our own errors pass unchanged. */
function nativeError(kernelName: string, inputs: object, error: unknown): NiftError {
  if (error instanceof NiftError) return error;
  const shapes = Object.entries(inputs as Record<string, tf.TensorInfo | undefined>)
    .filter(([, info]) => info !== undefined)
    .map(([name, info]) => `${name} [${info!.shape.join(', ')}]`);
  const reason = error instanceof Error ? error.message : String(error);
  const memory = /out of memory|allocation failed/i.test(reason);
  return new NiftError(memory ? 'NIFT_OUT_OF_MEMORY' : 'NIFT_NATIVE', `${kernelName}(${shapes.join(', ')}): ${reason}`, {
    cause: error,
    exitCode: 1,
    ...(memory ? { hint: 'Use a smaller batch or cutoff_len, gradient_checkpointing: true, or a 16-bit dtype.' } : {}),
  });
}
