/** Guards against the off-by-one that trains the first token of the next row. */
import { describe, expect, it } from 'vitest';
import { collate, countTargets, shiftLabels } from '../../src/data/batch.js';
import type { TokenRow } from '../../src/data/batch.js';
import { Random } from '../../src/random.js';

const row = (ids: number[], labels: number[]): TokenRow => ({ inputIds: Int32Array.from(ids), labels: Int32Array.from(labels) });

describe('collate', () => {
  it('joins rows without padding', () => {
    const batch = collate([row([1, 2, 3], [-100, 2, 3]), row([4], [4]), row([5, 6], [5, -100])]);
    expect([...batch.inputIds]).toEqual([1, 2, 3, 4, 5, 6]);
    expect([...batch.labels]).toEqual([-100, 2, 3, 4, 5, -100]);
    expect([...batch.cuSeqlens]).toEqual([0, 3, 4, 6]);
    expect([...shiftLabels(batch)]).toEqual([2, 3, -100, -100, -100, -100]);
    expect(countTargets(batch.labels, batch.cuSeqlens)).toBe(2);
  });

  it('refuses rows that do not fit together', () => {
    expect(() => collate([row([1, 2], [1])])).toThrow('2 ids and 1 labels');
    expect(() => collate([])).toThrow('at least one row');
  });

  it('has the same targets as its rows one by one', () => {
    const random = new Random(1);
    for (let trial = 0; trial < 50; trial++) {
      const rows = Array.from({ length: 1 + random.integer(5) }, () => {
        const ids = Array.from({ length: 1 + random.integer(7) }, () => random.integer(9));
        return row(
          ids,
          ids.map((id) => (random.uniform() < 0.4 ? -100 : id)),
        );
      });
      const batch = collate(rows);
      const single = rows.flatMap((each) => [...shiftLabels(collate([each]))]);
      expect([...shiftLabels(batch)]).toEqual(single);
      expect(countTargets(batch.labels, batch.cuSeqlens)).toBe(single.filter((label) => label !== -100).length);
    }
  });
});
