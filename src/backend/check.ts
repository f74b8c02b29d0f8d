/** The switch NIFT_CHECK: stops at the first kernel that makes a NaN or an infinity or forgets a buffer, and names it. */
import { NiftError } from '../errors.js';
import { tf } from './tf.js';

const checked = new WeakSet<tf.KernelConfig>();

/** Wraps all kernels registered for this backend so far. Idempotent. */
export function checkKernelOutputs(backendName: string): void {
  // TF.js' own switch for counting data ids around every kernel.
  tf.env().set('IS_TEST', true);
  for (const config of tf.getKernelsForBackend(backendName)) {
    if (checked.has(config)) continue;
    checked.add(config);
    const kernel = config.kernelFunc;
    config.kernelFunc = (params) => {
      const out = kernel(params);
      for (const info of Array.isArray(out) ? out : [out]) checkFinite(config.kernelName, info, params);
      return out;
    };
  }
}

function checkFinite(op: string, info: tf.TensorInfo, { inputs, backend }: Parameters<tf.KernelFunc>[0]): void {
  if (info.dtype !== 'float32') return;
  const values = (backend as tf.KernelBackend).readSync(info.dataId) as Float32Array;
  let at = 0;
  // Infinity minus infinity is NaN, like NaN minus NaN.
  while (at < values.length && (values[at] as number) - (values[at] as number) === 0) at++;
  if (at === values.length) return;
  const shapes = Object.entries(inputs).map(([name, input]) => `${name} [${String(input?.shape)}]`);
  throw new NiftError('NIFT_NON_FINITE', `${op} made ${String(values[at])} at element ${at} of [${String(info.shape)}]`, {
    hint: 'The inputs of this op hold very large or non-finite values; NIFT_CHECK=1 found the first op where it shows.',
    details: { op, element: at, shape: info.shape, inputs: shapes },
    exitCode: 1,
  });
}
