/**
 * Small dense linear algebra in float64 on matrices given as lists of columns: QR, Jacobi SVD, and the two truncated SVDs built on them.
 *
 *   qr              X = Q R                      Gram-Schmidt, each column orthogonalised twice
 *   jacobiSvd       X = U S V^T                  one-sided Jacobi rotations, for k x k
 *   productSvd      B A = U S V^T                exact, by QR of both factors and the SVD of R_B R_A^T
 *   truncatedSvd    D ~ U S V^T                  randomised subspace iteration: D is only ever multiplied
 *
 * Dependent columns give zero columns in Q, so everything holds for matrices without full rank. Deterministic.
 * Source: Golub and Van Loan, Matrix Computations, 5.2 and 8.6; Halko, Martinsson, Tropp (arXiv:0909.4061), algorithm 4.4.
 */
import { addon } from '../backend/addon.js';
import { DTYPE_CODE } from '../backend/dtype.js';
import { Random } from '../random.js';

/** A matrix as its columns, all of one length. */
export type Columns = Float64Array[];

/** The largest `values.length` singular triplets, largest first. */
export interface Svd {
  /** Columns of length rows. */
  u: Columns;
  values: number[];
  /** Columns of length columns. */
  v: Columns;
  /** Sum of all squared singular values: squared Frobenius norm of the matrix. */
  energy: number;
}

/** Columns whose remainder is smaller than this share of what they were are dependent on those before. */
const DEPENDENT = 1e-13;

export function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

/** Replaces the columns of `x` by an orthonormal basis. @returns R, column by column: x before = x after times R */
export function qr(x: Columns): Columns {
  return x.map((column, j) => {
    const r = new Float64Array(x.length);
    const before = Math.sqrt(dot(column, column));
    for (let round = 0; round < 2; round++)
      for (let i = 0; i < j; i++) {
        const q = x[i]!;
        const share = dot(q, column);
        if (share === 0) continue;
        r[i]! += share;
        for (let k = 0; k < column.length; k++) column[k]! -= share * q[k]!;
      }
    const norm = Math.sqrt(dot(column, column));
    if (norm <= DEPENDENT * before) {
      column.fill(0);
      return r;
    }
    r[j] = norm;
    for (let k = 0; k < column.length; k++) column[k]! /= norm;
    return r;
  });
}

/** SVD of a small matrix whose columns number at most a few hundred. `x` is overwritten. */
export function jacobiSvd(x: Columns): Svd {
  const count = x.length;
  const v = x.map((_, j) => Float64Array.from({ length: count }, (_, i) => (i === j ? 1 : 0)));
  for (let sweep = 0; sweep < 60; sweep++) {
    let rotated = false;
    for (let p = 0; p < count - 1; p++) for (let q = p + 1; q < count; q++) rotated = rotate(x, v, p, q) || rotated;
    if (!rotated) break;
  }
  const norms = x.map((column) => Math.sqrt(dot(column, column)));
  const order = norms.map((_, i) => i).sort((a, b) => norms[b]! - norms[a]! || a - b);
  const values = order.map((i) => norms[i]!);
  const u = order.map((i) => (norms[i]! > 0 ? x[i]!.map((value) => value / norms[i]!) : x[i]!));
  return { u, values, v: order.map((i) => v[i]!), energy: values.reduce((sum, value) => sum + value * value, 0) };
}

/** Makes columns p and q orthogonal. @returns whether they were not */
function rotate(x: Columns, v: Columns, p: number, q: number): boolean {
  const [a, b] = [x[p]!, x[q]!];
  const [aa, bb, ab] = [dot(a, a), dot(b, b), dot(a, b)];
  if (Math.abs(ab) <= 1e-15 * Math.sqrt(aa * bb) || ab === 0) return false;
  const zeta = (bb - aa) / (2 * ab);
  const tangent = Math.sign(zeta || 1) / (Math.abs(zeta) + Math.sqrt(1 + zeta * zeta));
  const cosine = 1 / Math.sqrt(1 + tangent * tangent);
  for (const [left, right] of [
    [a, b],
    [v[p]!, v[q]!],
  ] as const)
    for (let i = 0; i < left.length; i++) {
      const value = left[i]!;
      left[i] = cosine * (value - tangent * right[i]!);
      right[i] = cosine * (tangent * value + right[i]!);
    }
  return true;
}

/** x times m, both as columns. */
const times = (x: Columns, m: Columns): Columns =>
  m.map((weights) => {
    const sum = new Float64Array(x[0]?.length ?? 0);
    weights.forEach((weight, j) => {
      if (weight === 0) return;
      const column = x[j]!;
      for (let i = 0; i < sum.length; i++) sum[i]! += weight * column[i]!;
    });
    return sum;
  });

const transposed = (m: Columns): Columns =>
  Array.from({ length: m[0]?.length ?? 0 }, (_, i) => Float64Array.from(m, (column) => column[i]!));

const firstOf = ({ u, values, v, energy }: Svd, rank: number): Svd => ({
  u: u.slice(0, rank),
  values: values.slice(0, rank),
  v: v.slice(0, rank),
  energy,
});

/** The SVD of b a^T, `b` and `a` as r columns each (they are overwritten), cut to `rank`: the best approximation of that rank. */
export function productSvd(b: Columns, a: Columns, rank: number): Svd {
  const rb = qr(b);
  const ra = qr(a);
  const { u, values, v, energy } = jacobiSvd(times(rb, transposed(ra)));
  return firstOf({ u: times(b, u), values, v: times(a, v), energy }, rank);
}

export interface DenseMatrix {
  /** Row-major [rows, columns]. */
  data: Float32Array;
  rows: number;
  columns: number;
}

/** Share of the matrix's energy below which another iteration is not worth its time. */
const PROGRESS = 1e-5;
const MAX_ITERATIONS = 12;

/** The `rank` largest singular triplets of a dense matrix. Products run in float32 on all cores, everything else in float64. */
export function truncatedSvd(matrix: DenseMatrix, rank: number, seed: number): Svd {
  const { rows, columns, data } = matrix;
  let energy = 0;
  for (let i = 0; i < data.length; i++) energy += data[i]! * data[i]!;
  const smaller = Math.min(rows, columns);
  const width = Math.min(smaller, rank + Math.max(10, Math.ceil(rank / 4)));
  const kept = Math.min(rank, width);
  if (energy === 0) return emptySvd(rows, columns, kept);
  const random = new Random(seed);
  let q = multiply(
    matrix,
    Array.from({ length: width }, () => Float64Array.from({ length: columns }, () => random.normal())),
    false,
  );
  qr(q);
  let captured = 0;
  let z: Columns = [];
  for (let iteration = 0; iteration < MAX_ITERATIONS; iteration++) {
    z = multiply(matrix, q, true);
    const now = z.reduce((sum, column) => sum + dot(column, column), 0);
    const gained = now - captured;
    captured = now;
    if (iteration > 0 && gained <= PROGRESS * energy) break;
    qr(z);
    q = multiply(matrix, z, false);
    qr(q);
    z = [];
  }
  if (z.length === 0) z = multiply(matrix, q, true);
  // D ~ Q (Q^T D) = Q Z^T, Z = Q_z R:  R = U S V^T gives D ~ (Q V) S (Q_z U)^T.
  const { u, values, v } = jacobiSvd(qr(z));
  return firstOf({ u: times(q, v), values, v: times(z, u), energy }, kept);
}

const emptySvd = (rows: number, columns: number, rank: number): Svd => ({
  u: Array.from({ length: rank }, () => new Float64Array(rows)),
  values: Array.from({ length: rank }, () => 0),
  v: Array.from({ length: rank }, () => new Float64Array(columns)),
  energy: 0,
});

/** D x, or D^T x. */
function multiply({ data, rows, columns }: DenseMatrix, x: Columns, transpose: boolean): Columns {
  const [from, to] = transpose ? [rows, columns] : [columns, rows];
  const packed = new Float32Array(x.length * from);
  x.forEach((column, j) => packed.set(column, j * from));
  const result = new Float32Array(x.length * to);
  const native = addon();
  const f32 = DTYPE_CODE.float32;
  if (native) native.matMul(result, f32, packed, f32, data, x.length, to, from, false, !transpose, 1, 0, f32);
  else multiplyPlainly(result, packed, data, rows, columns, x.length, transpose);
  return x.map((_, j) => Float64Array.from(result.subarray(j * to, (j + 1) * to)));
}

function multiplyPlainly(
  out: Float32Array,
  x: Float32Array,
  data: Float32Array,
  rows: number,
  columns: number,
  count: number,
  transpose: boolean,
): void {
  for (let row = 0; row < rows; row++) {
    const line = data.subarray(row * columns, (row + 1) * columns);
    for (let j = 0; j < count; j++) {
      if (transpose) {
        const factor = x[j * rows + row]!;
        const target = out.subarray(j * columns, (j + 1) * columns);
        for (let i = 0; i < columns; i++) target[i]! += factor * line[i]!;
      } else {
        const source = x.subarray(j * columns, (j + 1) * columns);
        let sum = 0;
        for (let i = 0; i < columns; i++) sum += line[i]! * source[i]!;
        out[j * rows + row] = sum;
      }
    }
  }
}

/** Share of the energy that the triplets hold, 1 for a zero matrix. */
export const keptEnergy = ({ values, energy }: Svd): number =>
  energy === 0 ? 1 : Math.min(1, values.reduce((sum, value) => sum + value * value, 0) / energy);
