import { describe, expect, it } from 'vitest';
import { cutRange, halve, MIN_WORDS } from '../../src/distill/halve.js';
import { Random } from '../../src/random.js';

const words = (count: number): string => Array.from({ length: count }, (_, i) => `w${i + 1}`).join(' ');

describe('halve', () => {
  it('cuts between the first and the last quarter, as in the worked example', () => {
    expect(cutRange(10)).toEqual([2, 7]);
    const seen = new Set<number>();
    for (let seed = 0; seed < 200; seed++) {
      const halves = halve(words(10), new Random(seed))!;
      seen.add(halves.cut);
      expect(halves.words).toBe(10);
      expect(halves.first).toBe(words(halves.cut));
      expect(`${halves.first} ${halves.second}`).toBe(words(10));
    }
    expect([...seen].sort()).toEqual([2, 3, 4, 5, 6, 7]);
  });

  it.each([8, 10, 11, 13, 97])('draws every cut of %i words equally often (chi-square)', (n) => {
    const [low, high] = cutRange(n);
    const kinds = high - low + 1;
    const draws = 400 * kinds;
    const counts = new Array<number>(kinds).fill(0);
    const random = new Random(20_240_801);
    for (let i = 0; i < draws; i++) counts[halve(words(n), random)!.cut - low]!++;
    const expected = draws / kinds;
    const statistic = counts.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0);
    // Wilson-Hilferty: beyond the 99.9 % quantile of chi-square with kinds - 1 degrees of freedom.
    const degrees = kinds - 1;
    const z = (Math.cbrt(statistic / degrees) - (1 - 2 / (9 * degrees))) / Math.sqrt(2 / (9 * degrees));
    expect(z).toBeLessThan(3.09);
    expect(z).toBeGreaterThan(-3.09);
  });

  it('keeps whitespace inside the parts and drops it at the seam', () => {
    const text = '  one two\n\nthree\tfour  five\u00a0six\r\nseven eight\n';
    for (let seed = 0; seed < 50; seed++) {
      const { first, second, words: count } = halve(text, new Random(seed))!;
      expect(count).toBe(8);
      expect(text.startsWith(first) && text.endsWith(second)).toBe(true);
      expect(/\s$/.test(first) || /^\s/.test(second)).toBe(false);
      expect(text.slice(first.length, text.length - second.length).trim()).toBe('');
    }
  });

  it('leaves short texts alone, without drawing', () => {
    const random = new Random(1);
    for (const text of ['', '   ', words(MIN_WORDS - 1)]) expect(halve(text, random)).toBeNull();
    expect(random.counter).toBe(0);
    const { first, second } = halve(words(MIN_WORDS), random)!;
    expect(first.split(' ').length).toBeGreaterThanOrEqual(2);
    expect(second.split(' ').length).toBeGreaterThanOrEqual(2);
    expect(random.counter).toBe(1);
  });

  it('counts characters beyond the basic plane and combining marks as parts of words', () => {
    const text = '🙂🙂 e\u0301a 漢字 b c d e f g h';
    const { first, second } = halve(text, new Random(3))!;
    expect(`${first} ${second}`).toBe(text);
  });
});
