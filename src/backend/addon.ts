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
  /** An uninitialised buffer that starts on a cache line, or on a huge page when it is that large. */
  alignedBuffer(this: void, bytes: number): ArrayBuffer;
}

/** Storage conversions, round to nearest even. native/bindings/convert.cpp */
export interface AddonConvert {
  halfToFloat(bits: Uint16Array, dtype: 1 | 2, out: Float32Array): void;
  floatToHalf(values: Float32Array, dtype: 1 | 2, out: Uint16Array): void;
}

/** ggml's block formats. native/bindings/quantize.cpp */
export interface AddonQuantize {
  /** Q8_0: 34 bytes for every 32 values. False when a value or scale is not finite. */
  quantizeQ8(values: Float32Array, out: Uint8Array): boolean;
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

/** W + w s B A for every row of W; see native/merge_adapter.h. */
export interface LowRankChange {
  /** [rank, columns] and [rows, rank]; `rank` is a multiple of 8, padded with zeros. */
  a: Float32Array;
  b: Float32Array;
  rank: number;
  scaling: number;
  weight: number;
  /** DoRA: [rows]. */
  magnitude: Float32Array | null;
}

/** Tensors from file to file. native/bindings/merge_adapter.cpp */
export interface AddonMergeAdapter {
  /**
   * Reads [rows, columns] from one descriptor at an offset, adds the changes, rounds to another dtype and writes it (to nowhere when
   * `outFd` is -1). Dtype codes: DTYPE_CODE, or -1 for bytes. Runs beside JavaScript; rejects with `errno` for failed system calls.
   * `crc32`: of the bytes written; `largest`: bits of the largest float32 magnitude before rounding, 0 for copies.
   */
  rewriteTensor(
    fd: number,
    offset: number,
    dtype: number,
    outFd: number,
    outOffset: number,
    outDtype: number,
    rows: number,
    columns: number,
    changes: readonly LowRankChange[],
  ): Promise<{ crc32: number; largest: number }>;
  /** Reserves disk space for a file where the file system can. Returns 0, or the errno of a disk that is full. */
  reserveFile(fd: number, bytes: number): number;
}

/** Dense layers; weights [out, in] in any storage. Dtype codes: DTYPE_CODE. native/bindings/linear.cpp */
export interface AddonLinear {
  /** y = x W^T + bias */
  linear(
    y: Float32Array,
    x: Float32Array,
    weightDtype: number,
    weight: Float32Array | Uint16Array,
    bias: Float32Array | null,
    n: number,
    inFeatures: number,
    outFeatures: number,
    compute: number,
  ): void;
  /** dx = dy W */
  linearGradInput(
    dx: Float32Array,
    dy: Float32Array,
    weightDtype: number,
    weight: Float32Array | Uint16Array,
    n: number,
    inFeatures: number,
    outFeatures: number,
    compute: number,
  ): void;
  /** dW = dy^T x */
  linearGradWeight(
    dw: Float32Array,
    dy: Float32Array,
    x: Float32Array,
    n: number,
    inFeatures: number,
    outFeatures: number,
    compute: number,
  ): void;
  /** y = x W^T + bias + scaling (x A^T) B^T, h = x A^T */
  loraLinear(
    y: Float32Array,
    h: Float32Array,
    x: Float32Array,
    weightDtype: number,
    weight: Float32Array | Uint16Array,
    a: Float32Array,
    b: Float32Array,
    bias: Float32Array | null,
    n: number,
    inFeatures: number,
    outFeatures: number,
    rank: number,
    scaling: number,
    compute: number,
  ): void;
  /** dx, dA and dB from dy, x and h */
  loraLinearGrad(
    dx: Float32Array,
    da: Float32Array,
    db: Float32Array,
    dy: Float32Array,
    x: Float32Array,
    h: Float32Array,
    weightDtype: number,
    weight: Float32Array | Uint16Array,
    a: Float32Array,
    b: Float32Array,
    n: number,
    inFeatures: number,
    outFeatures: number,
    rank: number,
    scaling: number,
    compute: number,
  ): void;
}

/** What this machine does at best, for benchmarks. native/bindings/peak.cpp */
export interface AddonPeak {
  /** Multiply-adds in registers, `rounds` rounds on every thread; returns the floating point operations done. */
  peakMultiplyAdd(compute: number, rounds: number): number;
  /** Reads the array once, on all threads. */
  peakRead(data: Float32Array): number;
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
  /** out = alpha op(a) op(b) + beta out for any storage types, inputs rounded to `compute`. Dtype codes: DTYPE_CODE. */
  matMul(
    out: Float32Array,
    aDtype: number,
    a: Float32Array | Uint16Array,
    bDtype: number,
    b: Float32Array | Uint16Array,
    m: number,
    n: number,
    k: number,
    transposeA: boolean,
    transposeB: boolean,
    alpha: number,
    beta: number,
    compute: number,
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

/** Stock TF.js ops on float32 arrays. native/bindings/{elementwise,reduce,softmax,transpose,gather}.cpp */
export interface AddonStockOps {
  /**
   * out = a op b with broadcasting. `shape`: dimensions of out, outermost first; `moves`: per dimension, bit 0 = a has it,
   * bit 1 = b has it (otherwise it is repeated along it). `op`: Binary in native/elementwise.h.
   */
  binaryOp(op: number, a: Float32Array, b: Float32Array, shape: Int32Array, moves: Int32Array, out: Float32Array): void;
  /** Like binaryOp; `op`: Compare in native/elementwise.h; out holds 0 and 1. */
  compareOp(op: number, a: Float32Array, b: Float32Array, shape: Int32Array, moves: Int32Array, out: Uint8Array): void;
  /** `op`: Unary in native/elementwise.h; `parameter` is what its Step gives for numbers that are not above 0. */
  unaryOp(op: number, x: Float32Array, parameter: number, out: Float32Array): void;
  /** condition ? a : b, all equally long. */
  selectOp(condition: Uint8Array, a: Float32Array, b: Float32Array, out: Float32Array): void;
  /** Reduces the middle dimension of x [outer, n, inner] and multiplies by `scale`; `op`: Reduce in native/reduce.h. */
  reduceOp(op: number, x: Float32Array, outer: number, n: number, inner: number, scale: number, out: Float32Array): void;
  softmaxRows(x: Float32Array, rows: number, columns: number, out: Float32Array): void;
  /** Dimension d of out runs over sizes[d] elements of dimension dimensions[d] of x, from begin[dimensions[d]] on. */
  stridedCopy(
    x: Float32Array | Int32Array,
    inShape: Int32Array,
    dimensions: Int32Array,
    begin: Int32Array,
    sizes: Int32Array,
    out: Float32Array | Int32Array,
  ): void;
  /** Row r of x [rows, width] goes to out[outOffset + r * outStride ...]. */
  copyRows(
    x: Float32Array | Int32Array,
    rows: number,
    width: number,
    out: Float32Array | Int32Array,
    outOffset: number,
    outStride: number,
  ): void;
  /** out[o, m, :] = table[o, indices[m], :]; returns the position of the first index out of range, or -1. */
  gatherRows(
    table: Float32Array | Int32Array | Uint16Array,
    dtype: 0 | 1 | 2,
    outer: number,
    axis: number,
    inner: number,
    indices: Int32Array,
    out: Float32Array | Int32Array,
  ): number;
}

/** native/bindings/causal_attention.cpp, cached_attention.cpp, rotary_embedding.cpp; shapes in src/ops of the same names. */
export interface AddonAttention {
  /** window 0 = none; lse [H, N] in units of log 2 is written. */
  causalAttention(
    q: Float32Array,
    k: Float32Array,
    v: Float32Array,
    cuSeqlens: Int32Array,
    out: Float32Array,
    lse: Float32Array,
    numHeads: number,
    numKvHeads: number,
    headDim: number,
    window: number,
    scale: number,
    compute: number,
  ): void;
  causalAttentionGrad(
    q: Float32Array,
    k: Float32Array,
    v: Float32Array,
    cuSeqlens: Int32Array,
    out: Float32Array,
    lse: Float32Array,
    dOut: Float32Array,
    dq: Float32Array,
    dk: Float32Array,
    dv: Float32Array,
    numHeads: number,
    numKvHeads: number,
    headDim: number,
    window: number,
    scale: number,
    compute: number,
  ): void;
  /** Appends k and v to the cache [slot, Hkv, capacity, D] after `lengths`, then attends. */
  cachedAttention(
    q: Float32Array,
    k: Float32Array,
    v: Float32Array,
    keys: Float32Array,
    values: Float32Array,
    slots: Int32Array,
    lengths: Int32Array,
    queryLengths: Int32Array,
    out: Float32Array,
    numHeads: number,
    numKvHeads: number,
    headDim: number,
    capacity: number,
    window: number,
    scale: number,
  ): void;
  rotaryEmbedding(
    x: Float32Array,
    cos: Float32Array,
    sin: Float32Array,
    out: Float32Array,
    tokens: number,
    numHeads: number,
    headDim: number,
    inverse: boolean,
  ): void;
}

/** native/bindings/linear_cross_entropy.cpp; src/ops/linearCrossEntropy.ts */
export interface AddonLinearCrossEntropy {
  /** dx: gradient of each row's nll with respect to its x, when not null. */
  linearCrossEntropy(
    x: Float32Array,
    weight: Float32Array | Uint16Array,
    weightDtype: number,
    labels: Int32Array,
    channels: number,
    vocabulary: number,
    compute: number,
    chunkSize: number,
    nll: Float32Array,
    dx: Float32Array | null,
  ): void;
  linearCrossEntropyWeightGrad(
    x: Float32Array,
    weight: Float32Array | Uint16Array,
    weightDtype: number,
    labels: Int32Array,
    channels: number,
    vocabulary: number,
    compute: number,
    chunkSize: number,
    dNll: Float32Array,
    dWeight: Float32Array,
  ): void;
}

// Each op family adds its interface here and in the `extends` list, in its own block.
export interface Addon
  extends
    AddonAttention,
    AddonLinearCrossEntropy,
    AddonRuntime,
    AddonStockOps,
    AddonConvert,
    AddonQuantize,
    AddonMappedFile,
    AddonMergeAdapter,
    AddonGemm,
    AddonPeak,
    AddonLinear,
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
