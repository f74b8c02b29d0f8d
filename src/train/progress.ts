/** Speed, time left and memory of a run, and the watch over leaks. */
import { tf } from '../backend/tf.js';
import type { MemoryStats } from '../backend/native.js';
import type { StepMemory } from './events.js';

/** Steps of this process; the first one warms caches up and is left out of the speed. */
export class Speedometer {
  private seconds = 0;
  private tokens = 0;
  private supervised = 0;
  private steps = 0;

  step(seconds: number, tokens: number, supervisedTokens: number): void {
    this.steps++;
    if (this.steps === 2) this.seconds = this.tokens = this.supervised = 0;
    this.seconds += seconds;
    this.tokens += tokens;
    this.supervised += supervisedTokens;
  }

  get tokensPerSecond(): number {
    return this.seconds > 0 ? this.tokens / this.seconds : 0;
  }
  get supervisedTokensPerSecond(): number {
    return this.seconds > 0 ? this.supervised / this.seconds : 0;
  }
  get secondsPerStep(): number {
    return this.seconds / Math.max(1, this.steps - (this.steps > 1 ? 1 : 0));
  }
}

export function measureMemory(): StepMemory {
  const { numTensors, numBytes } = tf.memory();
  const backend = tf.backend() as unknown as { memoryStats?: () => MemoryStats };
  return {
    tensors: numTensors,
    tensorBytes: numBytes,
    peakTensorBytes: backend.memoryStats?.().peakBytes ?? null,
    residentBytes: process.memoryUsage.rss(),
    peakResidentBytes: process.resourceUsage().maxRSS * 1024,
  };
}

/** Tells once when tensors are left behind by every one of several steps in a row. */
export class LeakWatch {
  private last: number | null = null;
  private grown = 0;
  private readonly steps = 3;
  private told = false;

  /** @returns how many tensors a step leaves behind, when that has been so for a while; else null */
  check(tensors: number): number | null {
    const growth = this.last === null ? 0 : tensors - this.last;
    this.last = tensors;
    this.grown = growth > 0 ? this.grown + 1 : 0;
    if (this.told || this.grown < this.steps) return null;
    this.told = true;
    return growth;
  }
}
