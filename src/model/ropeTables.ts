/** Cosines and sines for the tokens of a packed batch or of a decoding step. */
import { tf, type Tensor2D } from '../backend/tf.js';
import { rotaryTables } from '../ops/rotaryEmbedding.js';
import type { ModelConfig } from './config.js';
import { inverseFrequencies } from './rope.js';

/** New tokens of one sequence: positions `past` ... `past + count - 1`. */
export interface Segment {
  past: number;
  count: number;
}

/** Remembers the frequencies, which only dynamic scaling changes from sequence to sequence. */
export class RopeTables {
  private readonly fixed: Float32Array;

  constructor(private readonly config: ModelConfig) {
    this.fixed = inverseFrequencies(config.rope, config.headDim);
  }

  /** Tables [N, D/2] for the tokens of `segments`, in order. The caller disposes them. */
  tables(segments: readonly Segment[]): { cos: Tensor2D; sin: Tensor2D } {
    const stretched = segments.some((segment) => this.isStretched(segment));
    if (!stretched) return rotaryTables(positions(segments), this.fixed, 1);
    // Each sequence has the frequencies of its own length, so a batch gives what its sequences give alone.
    return tf.tidy(() => {
      const parts = segments.map((segment) => rotaryTables(positions([segment]), this.frequencies(segment), 1));
      const join = (name: 'cos' | 'sin'): Tensor2D =>
        tf.concat(
          parts.map((part) => part[name]),
          0,
        );
      return { cos: join('cos'), sin: join('sin') };
    });
  }

  private isStretched({ past, count }: Segment): boolean {
    return this.config.rope.type === 'dynamic' && past + count > this.config.rope.originalContext;
  }

  private frequencies(segment: Segment): Float32Array {
    if (!this.isStretched(segment)) return this.fixed;
    return inverseFrequencies(this.config.rope, this.config.headDim, segment.past + segment.count);
  }
}

function positions(segments: readonly Segment[]): Int32Array {
  const result = new Int32Array(segments.reduce((sum, segment) => sum + segment.count, 0));
  let at = 0;
  for (const { past, count } of segments) for (let i = 0; i < count; i++) result[at++] = past + i;
  return result;
}
