/**
 * The formulas of merge methods, on one block of equally long float32 arrays.
 *
 *   linear            sum_i w_i m_i  (/ sum_i w_i)
 *   task vectors      b + l sum_i a_i w_i d_i  (/ sum_i a_i w_i),   d_i = m_i - b, made sparse by `trim` or `drop`
 *                     a_i = 1, or with the sign election of TIES: 1 where w_i d_i has the sign of sum_j w_j d_j, else 0
 *   slerp             sin((1-t) O)/sin O b + sin(t O)/sin O m,      O the angle between the whole tensors b and m
 *
 * b base, m_i models, w_i their weights, l lambda; (/ ...) when normalised, a divisor of 0 counts as 1.
 * Numerics: d_i is rounded to float32 (as magnitudes are compared on it), sums are double, the result is rounded to float32 once.
 * Source: Wortsman et al. (arXiv:2203.05482); Ilharco et al. (arXiv:2212.04089); Yadav et al., TIES (arXiv:2306.01708); Yu et al., DARE
 * (arXiv:2311.03099); mergekit's merge_methods for which divisor and which sign of 0 (+).
 */
import type { Random } from '../../random.js';

/** out = sum_i w_i m_i / divisor */
export function weightedSum(
  out: Float32Array,
  models: readonly Float32Array[],
  weights: readonly number[],
  divisor: number,
): void {
  const sum = new Float64Array(out.length);
  models.forEach((model, k) => {
    const weight = weights[k]!;
    for (let i = 0; i < sum.length; i++) sum[i]! += weight * model[i]!;
  });
  for (let i = 0; i < out.length; i++) out[i] = sum[i]! / divisor;
}

/** In place: m becomes m - b. */
export function subtract(model: Float32Array, base: Float32Array): void {
  for (let i = 0; i < model.length; i++) model[i] = model[i]! - base[i]!;
}

/** DARE: each element survives with probability `density`, one uniform per element in order, and is divided by it. */
export function drop(delta: Float32Array, density: number, random: Random): void {
  for (let i = 0; i < delta.length; i++) delta[i] = random.uniform() < density ? delta[i]! / density : 0;
}

export interface Combination {
  weights: readonly number[];
  /** Elect a sign per element, as TIES does. */
  elect: boolean;
  normalize: boolean;
  lambda: number;
}

/** out = b + the combined task vectors. One plain loop per model, which the engine compiles best. */
export function addTaskVectors(
  out: Float32Array,
  base: Float32Array,
  deltas: readonly Float32Array[],
  { weights, elect, normalize, lambda }: Combination,
): void {
  const sum = new Float64Array(out.length);
  deltas.forEach((delta, k) => {
    const weight = weights[k]!;
    for (let i = 0; i < sum.length; i++) sum[i]! += weight * delta[i]!;
  });
  if (elect) return addAgreeing(out, base, deltas, sum, { weights, normalize, lambda });
  const total = sumOf(weights);
  const factor = normalize && Math.abs(total) >= 1e-8 ? lambda / total : lambda;
  for (let i = 0; i < out.length; i++) out[i] = base[i]! + factor * sum[i]!;
}

/** TIES' disjoint merge: only what has the sign of `sum`, divided by its own weights. A sum of 0 elects +, as in mergekit. */
function addAgreeing(
  out: Float32Array,
  base: Float32Array,
  deltas: readonly Float32Array[],
  sum: Float64Array,
  { weights, normalize, lambda }: Omit<Combination, 'elect'>,
): void {
  const mixed = new Float64Array(out.length);
  const share = new Float64Array(out.length);
  deltas.forEach((delta, k) => {
    const weight = weights[k]!;
    for (let i = 0; i < mixed.length; i++) {
      const value = weight * delta[i]!;
      if (sum[i]! >= 0 ? value > 0 : value < 0) {
        mixed[i]! += value;
        share[i]! += weight;
      }
    }
  });
  for (let i = 0; i < out.length; i++) {
    const divisor = normalize && share[i] !== 0 ? share[i]! : 1;
    // NaN never agrees, but is in the sum.
    out[i] = Number.isNaN(sum[i]) ? NaN : base[i]! + (lambda * mixed[i]!) / divisor;
  }
}

export const sumOf = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);

/** What slerp needs to know of two whole tensors, summed block by block. */
export class Angle {
  private dot = 0;
  private squareA = 0;
  private squareB = 0;

  add(a: Float32Array, b: Float32Array): void {
    for (let i = 0; i < a.length; i++) {
      this.dot += a[i]! * b[i]!;
      this.squareA += a[i]! * a[i]!;
      this.squareB += b[i]! * b[i]!;
    }
  }

  /** Factors of a and b at `t`. Tensors that are (nearly) colinear, |cos| > 0.9995, are interpolated linearly, as mergekit does. */
  factors(t: number): [number, number] {
    const cosine = this.dot / (unlessTiny(Math.sqrt(this.squareA)) * unlessTiny(Math.sqrt(this.squareB)));
    if (Math.abs(cosine) > 0.9995) return [1 - t, t];
    const angle = Math.acos(cosine);
    return [Math.sin((1 - t) * angle) / Math.sin(angle), Math.sin(t * angle) / Math.sin(angle)];
  }
}

/** A vector that is all but zero is not normalised. */
const unlessTiny = (norm: number): number => (norm > 1e-8 ? norm : 1);
