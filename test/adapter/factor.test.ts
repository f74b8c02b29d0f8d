/** Linear algebra against its definitions: products come back, factors are orthonormal, truncation is the best there is. */
import { afterEach, describe, expect, it, vi } from 'vitest';
import { jacobiSvd, keptEnergy, productSvd, qr, truncatedSvd, type Columns, type Svd } from '../../src/adapter/factor.js';
import * as addonModule from '../../src/backend/addon.js';
import { Random } from '../../src/random.js';
import { expectClose } from '../expectClose.js';

afterEach(() => vi.restoreAllMocks());

const columns = (rows: number, count: number, seed: number): Columns => {
  const random = new Random(seed);
  return Array.from({ length: count }, () => Float64Array.from({ length: rows }, () => random.normal()));
};
const copy = (x: Columns): Columns => x.map((column) => column.slice());

/** x diag(values) y^T, row-major. */
function product(x: Columns, values: readonly number[], y: Columns): Float64Array {
  const [rows, count] = [x[0]!.length, y[0]!.length];
  const out = new Float64Array(rows * count);
  values.forEach((value, k) => {
    for (let i = 0; i < rows; i++) for (let j = 0; j < count; j++) out[i * count + j]! += x[k]![i]! * value * y[k]![j]!;
  });
  return out;
}

function expectOrthonormal(x: Columns, rank = x.length): void {
  for (let i = 0; i < rank; i++)
    for (let j = 0; j <= i; j++) {
      let sum = 0;
      for (let k = 0; k < x[i]!.length; k++) sum += x[i]![k]! * x[j]![k]!;
      expect(Math.abs(sum - (i === j ? 1 : 0))).toBeLessThan(1e-6);
    }
}

const ones = (count: number): number[] => Array.from({ length: count }, () => 1);

describe('qr', () => {
  it.each([
    [9, 4],
    [5, 5],
    [1, 1],
    [3, 6],
  ])('%i x %i comes back', (rows, count) => {
    const x = columns(rows, count, 1);
    const q = copy(x);
    const r = qr(q);
    expectOrthonormal(q, Math.min(rows, count));
    x.forEach((column, j) => {
      const back = new Float64Array(rows);
      r[j]!.forEach((value, k) => q[k]!.forEach((own, i) => (back[i]! += value * own)));
      expectClose(back, column, { abs: 1e-13 });
    });
  });

  it('gives a zero column for one that depends on others, and for zero', () => {
    const [a, b] = columns(6, 2, 2) as [Float64Array, Float64Array];
    const q = [a, a.map((value) => -3 * value), new Float64Array(6), b];
    const before = copy(q);
    const r = qr(q);
    expect([q[1]!.every((value) => value === 0), q[2]!.every((value) => value === 0)]).toEqual([true, true]);
    expectClose(product(q, ones(4), identityRows(r)), product(before, ones(4), unit(4)), { abs: 1e-13 });
  });
});

const unit = (count: number): Columns =>
  Array.from({ length: count }, (_, j) => Float64Array.from({ length: count }, (_, i) => (i === j ? 1 : 0)));
/** R's rows as columns, so that product(q, 1, .) is Q R. */
const identityRows = (r: Columns): Columns => r.map((_, i) => Float64Array.from(r, (column) => column[i]!));

describe('jacobiSvd', () => {
  it.each([1, 2, 7, 24])('%i columns', (count) => {
    const x = columns(count, count, count);
    const { u, values, v, energy } = jacobiSvd(copy(x));
    expectOrthonormal(u);
    expectOrthonormal(v);
    expect(values).toEqual([...values].sort((a, b) => b - a));
    expectClose(product(u, values, v), product(x, ones(count), unit(count)), { abs: 1e-12 });
    expect(energy).toBeCloseTo(
      x.reduce((sum, column) => sum + column.reduce((s, value) => s + value * value, 0), 0),
      9,
    );
  });

  it('is right about singular values that are known', () => {
    // diag(3, 2, 0) between two rotations.
    const q = columns(3, 3, 8);
    const p = columns(3, 3, 9);
    qr(q);
    qr(p);
    const dense = product(q, [3, 2, 0], p);
    const x = Array.from({ length: 3 }, (_, j) => Float64Array.from({ length: 3 }, (_, i) => dense[i * 3 + j]!));
    expectClose(jacobiSvd(x).values, [3, 2, 0], { abs: 1e-12 });
  });
});

/** A spectrum between orthonormal factors: the best approximation of rank k is known. */
function known(rows: number, count: number, values: readonly number[]): { u: Columns; v: Columns; dense: Float64Array } {
  const u = columns(rows, values.length, 21);
  const v = columns(count, values.length, 22);
  qr(u);
  qr(v);
  return { u, v, dense: product(u, values, v) };
}

const rebuilt = (svd: Svd): Float64Array => product(svd.u, svd.values, svd.v);

describe('productSvd', () => {
  it.each([
    [20, 13, 5, 5],
    [20, 13, 5, 2],
    [4, 30, 6, 6],
    [3, 2, 4, 4],
  ])('[%i, %i] of rank %i cut to %i', (rows, count, r, rank) => {
    const b = columns(rows, r, 3);
    const a = columns(count, r, 4);
    const whole = product(b, ones(r), a);
    const svd = productSvd(copy(b), copy(a), rank);
    const cut = jacobiSvd(
      Array.from({ length: count }, (_, j) => Float64Array.from({ length: rows }, (_, i) => whole[i * count + j]!)),
    );
    const expected = Array.from({ length: rank }, (_, i) => cut.values[i] ?? 0);
    expectClose(svd.values, expected, { abs: 1e-11 });
    expectClose(rebuilt(svd), product(cut.u.slice(0, rank), cut.values.slice(0, rank), cut.v), { abs: 1e-11 });
  });
});

describe('truncatedSvd', () => {
  const spectrum = Array.from({ length: 30 }, (_, i) => 10 * 0.8 ** i);

  it.each([true, false])('finds the largest triplets of a decaying spectrum, addon %s', (native) => {
    const spy = vi.spyOn(addonModule, 'addon');
    if (!native) spy.mockReturnValue(null);
    for (const [rows, count] of [
      [70, 45],
      [45, 70],
    ] as const) {
      const { dense } = known(rows, count, spectrum);
      const svd = truncatedSvd({ data: Float32Array.from(dense), rows, columns: count }, 6, 1);
      // Products in float32: measured 2e-6 on values of 10.
      expectClose(svd.values, spectrum.slice(0, 6), { abs: 1e-5 });
      expectOrthonormal(svd.u);
      expectOrthonormal(svd.v);
      expect(spy).toHaveBeenCalled();
      const best = spectrum.slice(6).reduce((sum, value) => sum + value * value, 0);
      const error = rebuilt(svd).reduce((sum, value, i) => sum + (value - dense[i]!) ** 2, 0);
      expect(error / best).toBeLessThan(1 + 1e-5);
      expect(1 - keptEnergy(svd)).toBeCloseTo(best / spectrum.reduce((sum, value) => sum + value * value, 0), 6);
    }
  });

  it('is near the best approximation of noise, which decays as slowly as can be', () => {
    const random = new Random(5);
    const data = Float32Array.from({ length: 80 * 60 }, () => random.normal());
    const exact = jacobiSvd(Array.from({ length: 60 }, (_, j) => Float64Array.from({ length: 80 }, (_, i) => data[i * 60 + j]!)));
    const svd = truncatedSvd({ data, rows: 80, columns: 60 }, 8, 1);
    const best = exact.values.slice(0, 8).reduce((sum, value) => sum + value * value, 0) / exact.energy;
    expect(keptEnergy(svd)).toBeLessThanOrEqual(best + 1e-6);
    // Measured 0.2 % below.
    expect(keptEnergy(svd)).toBeGreaterThan(best * 0.99);
  });

  it('keeps everything when the rank suffices, and handles zero, tiny and full cases', () => {
    const { dense } = known(40, 33, [5, 3, 1e-3]);
    const exact = truncatedSvd({ data: Float32Array.from(dense), rows: 40, columns: 33 }, 4, 1);
    expect(keptEnergy(exact)).toBeGreaterThan(1 - 1e-6);
    expectClose(rebuilt(exact), dense, { abs: 2e-6 });
    const zero = truncatedSvd({ data: new Float32Array(12), rows: 4, columns: 3 }, 2, 1);
    expect([zero.energy, keptEnergy(zero), ...zero.values]).toEqual([0, 1, 0, 0]);
    expectClose(rebuilt(truncatedSvd({ data: Float32Array.of(3, 4), rows: 1, columns: 2 }, 5, 1)), [3, 4], { abs: 1e-6 });
  });

  it('gives the same bits each time', () => {
    const data = Float32Array.from({ length: 600 }, (_, i) => Math.sin(i * i));
    const once = truncatedSvd({ data, rows: 20, columns: 30 }, 3, 4);
    expect(truncatedSvd({ data, rows: 20, columns: 30 }, 3, 4)).toEqual(once);
  });
});
