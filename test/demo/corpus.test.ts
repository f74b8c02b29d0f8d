import { describe, expect, it } from 'vitest';
import { article, articles, GENRE_NAMES } from '../../src/demo/corpus.js';
import { enumerate, expand } from '../../src/demo/grammar.js';
import { BASE_SEED, DEMO_SEED } from '../../src/demo/settings.js';
import { Random } from '../../src/random.js';

describe('the demo corpus', () => {
  const some = articles(BASE_SEED, 1500);

  it('is fixed by the seed, article by article', () => {
    expect(article(BASE_SEED, 1234)).toEqual(some[1234]);
    expect(articles(BASE_SEED, 3, 10)).toEqual(some.slice(10, 13));
    expect(article(DEMO_SEED, 5)).not.toEqual(some[5]);
  });

  it('has every genre in fair shares, of 50 to 250 words', () => {
    for (const genre of GENRE_NAMES) {
      const share = some.filter((one) => one.genre === genre).length / some.length;
      expect(share, genre).toBeGreaterThan(0.6 / GENRE_NAMES.length);
    }
    for (const { text, genre } of some) {
      const words = text.split(/\s+/).length;
      expect(words, `${genre}: ${text}`).toBeGreaterThanOrEqual(50);
      expect(words, genre).toBeLessThanOrEqual(250);
    }
  });

  it("repeats no article, and none of the base model's articles in the demo", () => {
    const texts = new Set(some.map(({ text }) => text));
    expect(texts.size).toBe(some.length);
    for (const { text } of articles(DEMO_SEED, 500)) expect(texts.has(text)).toBe(false);
  });

  it('leaves no grammar marks, wrong articles or lower-case beginnings behind', () => {
    for (const { text } of some) {
      expect(text).not.toMatch(/[{}|$]|undefined|\ba [aeiou]| {2}|^\s|\s$/i);
      for (const part of text.split('\n\n')) expect(part).toMatch(/^"?[A-Z].*[.!,?"\w]$/);
    }
  });

  it('returns to its names: most names of the second half occur in the first', () => {
    let seen = 0;
    let total = 0;
    for (const { text } of some) {
      const middle = text.indexOf(' ', text.length / 2);
      const first = new Set(text.slice(0, middle).match(/[A-Z][a-z]+/g));
      for (const [name] of text.slice(middle).matchAll(/(?<=[a-z,] )[A-Z][a-z]+/g)) {
        total++;
        if (first.has(name)) seen++;
      }
    }
    expect(seen / total).toBeGreaterThan(0.6);
  });
});

describe('expand', () => {
  const random = new Random(1);
  it('fills facts, makes choices, and sets articles and capitals', () => {
    expect(expand('see {a|a} $x. "go," said a $y.', { x: 'end', y: 'owl' }, random)).toBe('See an end. "Go," said an owl.');
    expect(new Set(Array.from({ length: 50 }, () => expand('{a|b{c|d}|}x', {}, random)))).toEqual(
      new Set(['Ax', 'Bcx', 'Bdx', 'X']),
    );
    expect(expand('"run!" said $n. "who?" asked $n.', { n: 'Max' }, random)).toBe('"Run!" said Max. "Who?" asked Max.');
  });
  it('refuses facts that are missing', () => expect(() => expand('$who', {}, random)).toThrow(/no fact "who"/));
  it('lists things', () =>
    expect([enumerate([]), enumerate(['a']), enumerate(['a', 'b', 'c'])]).toEqual(['', 'a', 'a, b and c']));
});
