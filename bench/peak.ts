/**
 * The machine's ceilings, which every other figure is a share of: multiply-adds in registers (float32, bf16) and memory
 * reads, on all threads.
 *
 *   npm run bench -- peak      prints one JSON line
 */
import { fileURLToPath } from 'node:url';
import { addon, type Addon } from '../src/backend/addon.js';

export interface Peak {
  isa: string;
  threads: number;
  /** GFLOP/s */
  float32: number;
  /** GFLOP/s; equals float32 where the instruction set has no bf16 */
  bfloat16: number;
  /** GB/s of reads from memory */
  read: number;
}

/** Median of `runs` calls of f, in seconds, after one to warm up. */
export function medianSeconds(f: () => void, runs: number): number {
  f();
  const seconds: number[] = [];
  for (let i = 0; i < runs; i++) {
    const start = process.hrtime.bigint();
    f();
    seconds.push(Number(process.hrtime.bigint() - start) * 1e-9);
  }
  seconds.sort((a, b) => a - b);
  return seconds[Math.floor(seconds.length / 2)] ?? NaN;
}

function gflops(native: Addon, compute: number): number {
  const rounds = 200_000;
  const flops = native.peakMultiplyAdd(compute, rounds);
  return flops / medianSeconds(() => native.peakMultiplyAdd(compute, rounds), 9) / 1e9;
}

export function measurePeak(native: Addon): Peak {
  const { isa, threads } = native.runtimeInfo();
  const data = new Float32Array(1 << 26);
  data.fill(1);
  const read = data.byteLength / medianSeconds(() => native.peakRead(data), 5) / 1e9;
  return { isa, threads, float32: gflops(native, 0), bfloat16: gflops(native, 1), read };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const native = addon();
  if (!native) throw new Error('the native addon is not built: npm run build:addon');
  console.log(JSON.stringify(measurePeak(native)));
}
