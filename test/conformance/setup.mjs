// Runs before the first spec is declared: names the backend that all of them run on.
import * as tf from '@tensorflow/tfjs-core';
import { setTestEnvs } from '@tensorflow/tfjs-core/dist/jasmine_util';
import { addon } from '../../src/backend/addon.ts';
import { registerNativeBackend } from '../../src/backend/register.ts';

const { NIFT_CONFORMANCE_BACKEND: backend, NIFT_CONFORMANCE_NAME: name } = process.env;

registerNativeBackend();
// child.mjs reports it: the summary says whether native kernels or composed ops were tested.
globalThis.niftIsa = addon()?.runtimeInfo().isa ?? 'no addon';
if (name !== backend) standIn(backend, name);
setTestEnvs([{ name: 'node', backendName: name, flags: {}, isDataSync: true }]);

// Puts a backend in the place of another: a few specs are declared for the name `cpu` only.
function standIn(actor, role) {
  const factory = tf.findBackendFactory(actor);
  tf.removeBackend(role);
  tf.registerBackend(role, factory);
  for (const { kernelName } of tf.getKernelsForBackend(role)) tf.unregisterKernel(kernelName, role);
  for (const config of tf.getKernelsForBackend(actor)) tf.registerKernel({ ...config, backendName: role });
}
