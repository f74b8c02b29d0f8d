import { describe, expect, it } from 'vitest';
import { deriveSeed, hash32, normalArray, Random, uniformArray } from '../src/random.js';

describe('random numbers', () => {
  it('never change: runs of another version must be repeatable', () => {
    const random = new Random(42);
    expect([random.uniform(), random.uniform(), random.uniform()]).toMatchInlineSnapshot(`
      [
        0.019595412942182144,
        0.388023910338375,
        0.11367589102655729,
      ]
    `);
    expect([...new Random(42).permutation(8)]).toMatchInlineSnapshot(`
      [
        1,
        4,
        5,
        3,
        6,
        7,
        2,
        0,
      ]
    `);
    expect([hash32(1, 2, 3), deriveSeed(42, 'shuffle')]).toMatchInlineSnapshot(`
      [
        1591422099,
        3660533968,
      ]
    `);
  });

  it('continue from a counter, and streams and seeds differ', () => {
    const first = new Random(7, 3);
    const values = Array.from({ length: 10 }, () => first.uniform());
    expect(new Random(7, 3, 6).uniform()).toBe(values[6]);
    expect(new Random(7, 4).uniform()).not.toBe(values[0]);
    expect(new Random(8, 3).uniform()).not.toBe(values[0]);
    expect(new Random(7 + 2 ** 32, 3).uniform()).not.toBe(values[0]);
  });

  it('are uniform and uncorrelated between neighbouring seeds, streams and counters', () => {
    const size = 40000;
    for (const make of [(i: number) => new Random(1, 0, i), (i: number) => new Random(1, i), (i: number) => new Random(i)]) {
      const values = Array.from({ length: size }, (_, i) => make(i).uniform());
      const mean = values.reduce((a, b) => a + b, 0) / size;
      const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / size;
      const lag = values.slice(1).reduce((a, b, i) => a + (b - mean) * (values[i]! - mean), 0) / size / variance;
      // Standard errors: 0.0014, 0.0004, 0.005.
      expect(Math.abs(mean - 0.5)).toBeLessThan(0.006);
      expect(Math.abs(variance - 1 / 12)).toBeLessThan(0.002);
      expect(Math.abs(lag)).toBeLessThan(0.02);
    }
  });

  it('shuffle fairly: each value as often at each place', () => {
    const counts = Array.from({ length: 5 }, () => new Array<number>(5).fill(0));
    for (let epoch = 0; epoch < 10000; epoch++)
      new Random(3, epoch).permutation(5).forEach((value, place) => counts[place]![value]!++);
    for (const row of counts) for (const count of row) expect(Math.abs(count - 2000)).toBeLessThan(200);
  });

  it('fill arrays with the asked distribution', () => {
    const normal = normalArray(50000, 0.02, 1);
    const rms = Math.sqrt(normal.reduce((a, b) => a + b * b, 0) / normal.length);
    expect(Math.abs(rms - 0.02)).toBeLessThan(0.0004);
    const uniform = uniformArray(50000, 0.125, 1, 2);
    expect(Math.max(...uniform)).toBeLessThanOrEqual(0.125);
    expect(Math.min(...uniform)).toBeLessThan(-0.1249);
    expect(uniformArray(5, 1, 9)).toEqual(uniformArray(5, 1, 9));
  });
});
