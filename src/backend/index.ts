/** Choosing the TF.js backend that everything runs on. */
import { createRequire } from 'node:module';
import path from 'node:path';
import { checkKernels } from '../config/env.js';
import { nearest, NiftError } from '../errors.js';
import { addon } from './addon.js';
import { checkKernelOutputs } from './check.js';
import { NATIVE, registerNativeBackend } from './register.js';
import { tf } from './tf.js';

export { NativeBackend } from './native.js';
export type { MemoryStats } from './native.js';
export { makeWeight, storageOf } from './weights.js';

/** What `--backend` accepts, besides any backend that the program registered with TF.js itself. */
export const BACKENDS: Readonly<Record<string, string>> = {
  native: 'built in: CPU kernels of the addon, or composed TF.js ops where the addon is not built',
  cpu: 'the JavaScript backend of TensorFlow.js',
  wasm: 'WebAssembly; needs: npm install @tensorflow/tfjs-backend-wasm',
  tensorflow: 'libtensorflow; needs: npm install @tensorflow/tfjs-node-gpu (or @tensorflow/tfjs-node)',
};
export const BACKEND_NAMES: readonly string[] = Object.keys(BACKENDS);

export interface BackendOptions {
  /** Threads of the addon or of the wasm backend; default: all cores. */
  threads?: number | undefined;
  /**
   * Search every kernel's outputs for NaN and infinity and throw NIFT_NON_FINITE naming the op; throw, too, when a kernel
   * leaves more buffers behind than it returns. Slow. Default: NIFT_CHECK=1.
   */
  check?: boolean | undefined;
}

type Listener = (name: string) => void;
const listeners: Listener[] = [];
let active: string | undefined;

/** Calls back with the name whenever a backend has been chosen, and soon when one already was. */
export function onBackendReady(listener: Listener): void {
  listeners.push(listener);
  const name = active;
  if (name !== undefined) queueMicrotask(() => listener(name));
}

/**
 * Makes a backend current. Tensors of the former one move over when they are used.
 * @throws NIFT_BACKEND_UNKNOWN when there is none of this name or it cannot start here.
 */
export async function useBackend(name: string = NATIVE, options: BackendOptions = {}): Promise<void> {
  registerNativeBackend();
  await load(name, options.threads);
  if (options.threads !== undefined && name === NATIVE) setNumThreads(options.threads);
  const started = await tf.setBackend(name).catch(() => false);
  if (!started) throw unavailable(name, 'it did not start');
  await tf.ready();
  active = name;
  for (const listener of listeners) listener(name);
  if (options.check ?? checkKernels()) checkKernelOutputs(name);
}

/** Name of the current backend. */
export function currentBackend(): string {
  return tf.getBackend();
}

/** Threads of the addon's kernels; no effect without the addon. */
export function setNumThreads(count: number): void {
  addon()?.setNumThreads(count);
}

async function load(name: string, threads: number | undefined): Promise<void> {
  if (name === 'wasm') await loadWasm(threads);
  if (name === 'tensorflow') await loadFirst(['@tensorflow/tfjs-node-gpu', '@tensorflow/tfjs-node'], name);
  if (tf.findBackendFactory(name) === null) throw unknown(name);
}

async function loadWasm(threads: number | undefined): Promise<void> {
  const packageName = '@tensorflow/tfjs-backend-wasm';
  if (tf.findBackendFactory('wasm') !== null) return;
  const wasm = (await loadFirst([packageName], 'wasm')) as {
    setWasmPaths(folder: string): void;
    setThreadsCount(count: number): void;
  };
  const folder = path.dirname(createRequire(import.meta.url).resolve(`${packageName}/package.json`));
  wasm.setWasmPaths(path.join(folder, 'dist') + path.sep);
  if (threads !== undefined) wasm.setThreadsCount(threads);
}

/** Imports the first of the packages that is there. */
async function loadFirst(packages: readonly string[], backend: string): Promise<unknown> {
  let cause: unknown;
  for (const name of packages) {
    try {
      const module = (await import(name)) as { default?: unknown };
      return 'setWasmPaths' in module ? module : (module.default ?? module);
    } catch (error) {
      cause = error;
    }
  }
  const reason = cause instanceof Error ? (cause.message.split('\n')[0] ?? '') : String(cause);
  throw unavailable(backend, reason, packages[0], cause);
}

function unknown(name: string): NiftError {
  const close = nearest(name, BACKEND_NAMES);
  const hint = close === undefined ? `Use one of: ${BACKEND_NAMES.join(', ')}.` : `Did you mean "${close}"?`;
  return new NiftError('NIFT_BACKEND_UNKNOWN', `unknown backend "${name}"`, { hint, details: { backends: [...BACKEND_NAMES] } });
}

function unavailable(name: string, reason: string, install?: string, cause?: unknown): NiftError {
  const hint = install === undefined ? 'Run: nift doctor' : `Run: npm install ${install} (or use --backend native).`;
  return new NiftError('NIFT_BACKEND_UNKNOWN', `backend "${name}" cannot be used here: ${reason}`, { hint, cause });
}
