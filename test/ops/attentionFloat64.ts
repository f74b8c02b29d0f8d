/** Attention by plain loops in float64, forward and gradient: what the op files define, with nothing clever. */
import type { AttentionShape } from '../../src/ops/causalAttention.js';

export interface AttentionCase extends Omit<AttentionShape, 'compute'> {
  lengths: number[];
}

export interface AttentionData {
  q: Float32Array;
  k: Float32Array;
  v: Float32Array;
  dOut: Float32Array;
  tokens: number;
  cuSeqlens: Int32Array;
}

export interface AttentionResult {
  out: Float64Array;
  dq: Float64Array;
  dk: Float64Array;
  dv: Float64Array;
}

/** Reproducible values in [-1, 1). */
export function randomValues(count: number, seed: number): Float32Array {
  let state = (seed * 2654435761) >>> 0 || 1;
  return Float32Array.from({ length: count }, () => {
    state ^= state << 13;
    state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state / 2 ** 31 - 1;
  });
}

export function cumulative(lengths: readonly number[]): Int32Array {
  const result = new Int32Array(lengths.length + 1);
  lengths.forEach((length, b) => (result[b + 1] = result[b]! + length));
  return result;
}

export function attentionData(c: AttentionCase, seed = 1): AttentionData {
  const cuSeqlens = cumulative(c.lengths);
  const tokens = cuSeqlens[c.lengths.length]!;
  const sized = (heads: number, salt: number): Float32Array => randomValues(tokens * heads * c.headDim, seed + salt);
  const spread = (x: Float32Array): Float32Array => x.map((value) => 3 * value); // scores of several units
  return {
    q: spread(sized(c.numHeads, 10)),
    k: sized(c.numKvHeads, 20),
    v: sized(c.numKvHeads, 30),
    dOut: sized(c.numHeads, 40),
    tokens,
    cuSeqlens,
  };
}

export function attentionFloat64(c: AttentionCase, { q, k, v, dOut, tokens, cuSeqlens }: AttentionData): AttentionResult {
  const { numHeads, numKvHeads, headDim: D, slidingWindow } = c;
  const scale = c.scale ?? 1 / Math.sqrt(D);
  const result: AttentionResult = {
    out: new Float64Array(q.length),
    dq: new Float64Array(q.length),
    dk: new Float64Array(k.length),
    dv: new Float64Array(v.length),
  };
  for (let b = 0; b + 1 < cuSeqlens.length; b++) {
    for (let i = cuSeqlens[b]!; i < cuSeqlens[b + 1]!; i++) {
      const first = Math.max(cuSeqlens[b]!, slidingWindow === null ? 0 : i - slidingWindow + 1);
      for (let h = 0; h < numHeads; h++) {
        const at = (i * numHeads + h) * D;
        const keyAt = (j: number): number => (j * numKvHeads + Math.floor(h / (numHeads / numKvHeads))) * D;
        attendRow(at, first, i, keyAt, D, scale, { q, k, v, dOut, tokens, cuSeqlens }, result);
      }
    }
  }
  return result;
}

function attendRow(
  at: number,
  first: number,
  last: number,
  keyAt: (j: number) => number,
  D: number,
  scale: number,
  { q, k, v, dOut }: AttentionData,
  result: AttentionResult,
): void {
  const p: number[] = [];
  for (let j = first; j <= last; j++) {
    let dot = 0;
    for (let d = 0; d < D; d++) dot += q[at + d]! * k[keyAt(j) + d]!;
    p.push(dot * scale);
  }
  const highest = Math.max(...p);
  const sum = p.reduce((total, score) => total + Math.exp(score - highest), 0);
  const dp: number[] = [];
  let delta = 0;
  p.forEach((score, n) => {
    p[n] = Math.exp(score - highest) / sum;
    let dot = 0;
    for (let d = 0; d < D; d++) {
      const value = v[keyAt(first + n) + d]!;
      result.out[at + d]! += p[n] * value;
      result.dv[keyAt(first + n) + d]! += p[n] * dOut[at + d]!;
      dot += dOut[at + d]! * value;
    }
    dp.push(dot);
    delta += p[n] * dot;
  });
  p.forEach((probability, n) => {
    const dScore = probability * (dp[n]! - delta) * scale;
    for (let d = 0; d < D; d++) {
      result.dq[at + d]! += dScore * k[keyAt(first + n) + d]!;
      result.dk[keyAt(first + n) + d]! += dScore * q[at + d]!;
    }
  });
}
