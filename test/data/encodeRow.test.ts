/** Truncation as LLaMA-Factory 0.5.2 cuts, to the token. */
import { describe, expect, it } from 'vitest';
import { encodeRow, truncatedLengths } from '../../src/data/encodeRow.js';

const turn = (s: number, t: number, first = 0): { promptIds: number[]; responseIds: number[] } => ({
  promptIds: Array.from({ length: s }, (_, i) => first + i),
  responseIds: Array.from({ length: t }, (_, i) => first + s + i),
});
const options = { cutoffLen: 1024, reservedLabelLen: 1, trainOnPrompt: false };

describe('truncation', () => {
  it.each([
    [300, 400, 300, 400, true],
    [512, 512, 512, 512, true],
    [700, 800, 478, 546, false],
    [1500, 600, 732, 292, false],
    [400, 2000, 171, 853, false],
    [3000, 20, 1018, 6, false],
    [2047, 1, 1023, 1, true],
  ])('of %i + %i tokens keeps %i + %i', (s, t, keptS, keptT, whole) => {
    expect(truncatedLengths(s, t, 1024, 1)).toEqual([keptS, keptT]);
    const row = encodeRow([turn(s, t)], options);
    expect(row.inputIds.length).toBe(keptS + keptT);
    // Heads of both sides; labels on the response only.
    expect([...row.inputIds]).toEqual([...turn(s, t).promptIds.slice(0, keptS), ...turn(s, t).responseIds.slice(0, keptT)]);
    expect([...row.labels]).toEqual([...Array(keptS).fill(-100), ...row.inputIds.slice(keptS)]);
    expect(row.labels[row.labels.length - 1] === s + t - 1).toBe(whole);
    expect(row.truncated).toBe(keptS + keptT < s + t);
  });

  it('loses a token to double precision where the original does', () => {
    // 1500 * (27 / 1500) = 26.999999999999996
    expect(truncatedLengths(1473, 27, 1500, 1)).toEqual([1473, 26]);
    for (let t = 1; t <= 1024; t++) expect(truncatedLengths(1024 - t, t, 1024, 1)).toEqual([1024 - t, t]);
  });

  it('shares what is left with later turns and leaves out those behind the end', () => {
    const row = encodeRow([turn(6, 4), turn(8, 4, 100), turn(1, 1, 200)], { ...options, cutoffLen: 16 });
    // 6 left for the second turn: T = floor(6 * 4 / 12) = 2, S = 4; nothing for the third.
    expect([...row.inputIds]).toEqual([...Array(10).keys(), 100, 101, 102, 103, 108, 109]);
    expect([...row.labels].map((label) => label !== -100)).toEqual([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1].map(Boolean));
    expect(row.truncated).toBe(true);
  });

  it('never exceeds the cutoff, whatever is reserved', () => {
    for (const reservedLabelLen of [0, 1, 5, 50]) {
      for (let cutoffLen = 1; cutoffLen < 12; cutoffLen++) {
        const row = encodeRow([turn(7, 3), turn(2, 9, 50)], { ...options, cutoffLen, reservedLabelLen });
        expect(row.inputIds.length).toBeLessThanOrEqual(cutoffLen);
        expect(row.labels.length).toBe(row.inputIds.length);
      }
    }
  });

  it('copes with rows longer than the stack', () => {
    const row = encodeRow([turn(300_000, 200_000)], { ...options, cutoffLen: 1_000_000 });
    expect([row.inputIds.length, row.labels[300_000], row.truncated]).toEqual([500_000, 300_000, false]);
  });

  it('labels the prompt too when asked', () => {
    const row = encodeRow([turn(2, 3)], { ...options, trainOnPrompt: true });
    expect([...row.labels]).toEqual([...row.inputIds]);
  });
});
