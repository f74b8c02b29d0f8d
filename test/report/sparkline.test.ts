import { describe, expect, it } from 'vitest';
import { asciiPlot, formatValue, resample, sparkline } from '../../src/report/sparkline.js';

describe('sparkline', () => {
  it('runs from the lowest to the highest block', () => {
    expect(sparkline([1, 2, 3, 4, 5, 6, 7, 8])).toBe('▁▂▃▄▅▆▇█');
    expect(sparkline([8, 1], 10)).toBe('█▁');
    expect(sparkline([2, 2, 2])).toBe('▄▄▄');
    expect(sparkline([1, null, NaN, Infinity, 3])).toBe('▁   █');
    expect(sparkline([])).toBe('');
    expect(sparkline([null, NaN])).toBe('');
    expect(sparkline([-1e308, 1e308])).toBe('▁█');
  });

  it('averages stretches, all of the values once', () => {
    const values = Array.from({ length: 1000 }, (_, i) => i);
    for (const width of [1, 3, 7, 40, 999, 1000, 2000]) {
      const columns = resample(values, width);
      expect(columns.length).toBe(Math.min(width, 1000));
      expect(sparkline(values, width).length).toBe(columns.length);
      expect(Math.min(...columns)).toBe(columns[0]);
    }
    expect(resample([1, 3, 5, 7], 2)).toEqual([2, 6]);
  });
});

describe('asciiPlot', () => {
  it('draws a falling curve with its axes', () => {
    expect(asciiPlot([4, 4, 3, 2, 1, 1], { width: 30, height: 4, xLabel: 'step' })).toBe(
      ['4 ┤──╮', '  │  ╰╮', '  │   ╰╮', '1 ┤    ╰─', '  └──────', '   1 step 6'].join('\n'),
    );
  });

  it('survives gaps, flat curves and nothing', () => {
    expect(asciiPlot([3, NaN, 1], { width: 20, height: 2 }).split('\n').slice(0, 2)).toEqual(['3 ┤─', '1 ┤  ─']);
    expect(asciiPlot([2, 2], { width: 20, height: 3 })).toContain('2 ┤──');
    expect(asciiPlot([])).toBe('');
    for (const line of asciiPlot(
      Array.from({ length: 500 }, (_, i) => Math.sin(i / 20) * 1e6),
      { width: 60 },
    ).split('\n'))
      expect(line.length).toBeLessThanOrEqual(60);
  });
});

describe('formatValue', () => {
  it.each([
    [0, '0'],
    [1, '1'],
    [2.00391, '2.004'],
    [1234.5, '1235'],
    [99999, '99999'],
    [0.00123456, '0.001235'],
    [1e-5, '1e-5'],
    [0.0002, '2e-4'],
    [-3.5, '-3.5'],
    [1e5, '1e5'],
    [123456789, '1.23e8'],
    [100, '100'],
  ])('%d is %s', (value, text) => expect(formatValue(value)).toBe(text));
});
