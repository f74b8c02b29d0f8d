/**
 * The native addon, typed once. A test compares the keys below with those of the built module.
 * Without a built addon everything still works on composed TF.js ops; `addonFailure()` says why it is absent.
 */
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import path from 'node:path';

/** Threads, instruction sets and build facts. native/bindings/runtime.cpp */
export interface AddonRuntime {
  /** `isa`: the one in use; `isas`: those compiled in that this CPU has, slowest first. */
  runtimeInfo(): { isa: string; isas: string[]; features: string[]; compiler: string; threads: number };
  /** 1 ... number of cores. */
  setNumThreads(count: number): void;
  /** Forces a slower instruction set (tests compare them all). Throws when this CPU lacks it. */
  setIsa(name: string): void;
}

/** Storage conversions, round to nearest even. native/bindings/convert.cpp */
export interface AddonConvert {
  halfToFloat(bits: Uint16Array, dtype: 1 | 2, out: Float32Array): void;
  floatToHalf(values: Float32Array, dtype: 1 | 2, out: Uint16Array): void;
}

/** File mappings shared by reference count; `handle` is opaque. native/bindings/mapped_file.cpp */
export interface AddonMappedFile {
  /** Maps the first `size` bytes of an open descriptor, which may be closed afterwards. Throws where the platform refuses. */
  mapFile(fd: number, size: number): object;
  /** A view of the mapped bytes, without copy. It keeps the mapping alive. */
  mapView(handle: object, offset: number, length: number): ArrayBuffer;
  /** Gives up the handle's own share; views live on. Idempotent. */
  unmapFile(handle: object): void;
}

/** Matrix products. native/bindings/gemm.cpp */
export interface AddonGemm {
  /**
   * out[i] = op(a[i]) op(b[i]) for each of `batch` row-major matrices: op(a) [m, k], op(b) [k, n], out [m, n] contiguous.
   * `strideA`/`strideB`: elements from one matrix to the next, 0 = the same one for all. Float32 throughout.
   */
  batchMatMul(
    out: Float32Array,
    a: Float32Array,
    b: Float32Array,
    batch: number,
    m: number,
    n: number,
    k: number,
    strideA: number,
    strideB: number,
    transposeA: boolean,
    transposeB: boolean,
  ): void;
}

/** RMSNorm over the rows of x [rows, columns] and its gradients. native/bindings/rms_norm.cpp */
export interface AddonRmsNorm {
  rmsNorm(x: Float32Array, weight: Float32Array, rows: number, columns: number, eps: number, out: Float32Array): void;
  rmsNormGradX(
    dy: Float32Array,
    x: Float32Array,
    weight: Float32Array,
    rows: number,
    columns: number,
    eps: number,
    out: Float32Array,
  ): void;
  rmsNormGradWeight(dy: Float32Array, x: Float32Array, rows: number, columns: number, eps: number, out: Float32Array): void;
}

/** silu(gate) * up over equally long arrays, and both gradients. native/bindings/swiglu.cpp */
export interface AddonSwiglu {
  swiglu(gate: Float32Array, up: Float32Array, out: Float32Array): void;
  swigluGrad(dy: Float32Array, gate: Float32Array, up: Float32Array, dGate: Float32Array, dUp: Float32Array): void;
}

/** Table lookup and its scatter-add. `embedding` returns the position of the first id outside the table, or -1. */
export interface AddonEmbedding {
  embedding(
    ids: Int32Array,
    table: Float32Array | Uint16Array,
    dtype: 0 | 1 | 2,
    vocab: number,
    columns: number,
    out: Float32Array,
  ): number;
  embeddingGrad(ids: Int32Array, dy: Float32Array, vocab: number, columns: number, out: Float32Array): void;
}

/** Counter-based dropout and the optimizer. native/bindings/{dropout,adamw}.cpp */
export interface AddonTraining {
  dropout(x: Float32Array, key0: number, key1: number, threshold: number, scale: number, out: Float32Array): void;
  /** `hyper`: lr, beta1, beta2, eps, weightDecay, step, maxGradNorm, gradScale. Changes params, m and v in place. */
  adamw(
    params: Float32Array[],
    grads: Float32Array[],
    m: Float32Array[],
    v: Float32Array[],
    hyper: Float64Array,
  ): { gradNorm: number; finite: boolean };
}

/** The vector mathematics of native/simd_math.h, elementwise; `name` is exp or sigmoid. */
export interface AddonSimdMath {
  simdMath(name: string, x: Float32Array, out: Float32Array): void;
}

// Each op family adds its interface here and in the `extends` list, in its own block.
export interface Addon
  extends
    AddonRuntime,
    AddonConvert,
    AddonMappedFile,
    AddonGemm,
    AddonRmsNorm,
    AddonSwiglu,
    AddonEmbedding,
    AddonTraining,
    AddonSimdMath {}

const require = createRequire(import.meta.url);
const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..', '..');

let cached: Addon | null | undefined;
let failure: string | undefined;

/** The addon, or null when it is not built, does not load, or `NIFT_NO_ADDON=1`. */
export function addon(): Addon | null {
  if (cached !== undefined) return cached;
  cached = null;
  if (process.env['NIFT_NO_ADDON'] === '1') {
    failure = 'switched off by NIFT_NO_ADDON=1';
    return cached;
  }
  const file = path.join(root, 'build', process.env['NIFT_ADDON_BUILD'] === 'debug' ? 'Debug' : 'Release', 'nift.node');
  try {
    cached = require(file) as Addon;
  } catch (error) {
    failure = error instanceof Error ? (error.message.split('\n')[0] ?? 'unknown') : String(error);
  }
  return cached;
}

/** Why `addon()` is null. */
export function addonFailure(): string | undefined {
  addon();
  return failure;
}
