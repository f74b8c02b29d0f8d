import { describe, expect, it } from 'vitest';
import { measureAnswer, measureAnswers, repeatedShare } from '../../src/demo/measures.js';

describe('the measures of section 6.3', () => {
  it('count repeated phrases', () => {
    expect(repeatedShare('')).toBe(0);
    expect(repeatedShare('one two three')).toBe(0);
    expect(repeatedShare('one two three four five six')).toBe(0);
    // Phrases: abcd bcda cdab dabc abcd: one of five stood there before.
    expect(repeatedShare('a b c d a b c d')).toBeCloseTo(1 / 5);
    expect(repeatedShare('A b, c d. a B c D!')).toBeCloseTo(1 / 5);
    expect(repeatedShare('la '.repeat(50))).toBeCloseTo(46 / 47);
  });

  it('say whether a text answers, stops and repeats', () => {
    const good = measureAnswer({ text: ' and then the boat came home.', stopReason: 'eos' });
    expect(good).toEqual({ answers: true, stops: true, repeats: false, repeatedShare: 0, words: 6 });
    expect(measureAnswer({ text: ' \n', stopReason: 'eos' })).toMatchObject({ answers: false, stops: true, words: 0 });
    expect(measureAnswer({ text: '...', stopReason: 'length' })).toMatchObject({ answers: false, stops: false });
    const loop = measureAnswer({ text: 'it is what it is '.repeat(20), stopReason: 'length' });
    expect(loop).toMatchObject({ answers: true, stops: false, repeats: true });
    expect(measureAnswer({ text: 'a', stopReason: 'stop' }).stops).toBe(false);
  });

  it('sum up, and take no answers at all', () => {
    const all = measureAnswers([
      { text: 'one two', stopReason: 'eos' },
      { text: '', stopReason: 'eos' },
      { text: 'x y z w '.repeat(30), stopReason: 'length' },
    ]);
    expect(all).toMatchObject({ prompts: 3, answers: 2, stops: 2, repeats: 1 });
    expect(all.words).toBeCloseTo((2 + 0 + 120) / 3);
    expect(measureAnswers([])).toEqual({ prompts: 0, answers: 0, stops: 0, repeats: 0, repeatedShare: 0, words: 0 });
  });
});
