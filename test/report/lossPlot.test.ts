/** The plot's smoothing equals LLaMA-Factory's, and the picture holds what it should. */
import { describe, expect, it } from 'vitest';
import { pointsOf, renderLossPlot, smooth } from '../../src/report/lossPlot.js';

const rows = Array.from({ length: 60 }, (_, i) => ({
  step: (i + 1) * 10,
  loss: 2 + 3 / (i + 1),
  grad_norm: i === 7 ? null : 1 + (i % 3),
}));

describe('smooth', () => {
  it('is the moving average with a weight that grows with the number of points', () => {
    const weight = 1.8 * (1 / (1 + Math.exp(-0.2)) - 0.5);
    const second = 5 * weight + 3 * (1 - weight);
    const third = second * weight + 4 * (1 - weight);
    expect(smooth([5, 3, 4, 1])).toEqual([5, second, third, third * weight + (1 - weight)]);
    expect(weight).toBeCloseTo(0.0897012, 7);
    expect(smooth([1])).toEqual([1]);
    expect(smooth([])).toEqual([]);
  });

  it('ends at weight 0.9 for long runs', () => {
    const long = smooth([1, ...new Array<number>(2000).fill(0)]);
    expect(long[1]).toBeCloseTo(0.9, 12);
  });
});

describe('pointsOf', () => {
  it('keeps finite values with a step', () => {
    expect(
      pointsOf(
        [{ step: 1, loss: 2 }, { step: 2, loss: null }, { step: 3, loss: NaN }, { loss: 1 }, { step: 4, train_loss: 1 }],
        'loss',
      ),
    ).toEqual([[1, 2]]);
  });
});

describe('renderLossPlot', () => {
  it('draws both curves, names the axes and labels the last value', () => {
    const plot = renderLossPlot([...rows, { step: 600, train_loss: 2.2 }], { subtitle: 'saves/a<b>&"c"' })!;
    expect(plot.svg).toMatch(/^<svg /);
    for (const text of ['training loss', '>step<', '>loss<', '>original<', '>smoothed<', '>600<', 'saves/a&lt;b&gt;&amp;'])
      expect(plot.svg).toContain(text);
    const averages = smooth(rows.map((row) => row.loss));
    expect(plot.svg).toContain(`>${averages[averages.length - 1]!.toFixed(3)}<`);
    expect(plot.svg.match(/stroke-opacity="0.4"|opacity="0.4"/)).not.toBeNull();
  });

  it('gives a PNG of twice the size with text in it', () => {
    const plot = renderLossPlot(rows)!;
    expect(plot.png.subarray(0, 8)).toEqual(Buffer.from('89504e470d0a1a0a', 'hex'));
    expect([plot.png.readUInt32BE(16), plot.png.readUInt32BE(20)]).toEqual([1600, 900]);
    // A machine without fonts must not lose the text: with the text removed the picture is another one.
    const blank = renderLossPlot(rows, { title: ' ' })!;
    expect(blank.png.equals(plot.png)).toBe(false);
  });

  it('gives the same bytes for the same rows', () => {
    const first = renderLossPlot(rows)!;
    const second = renderLossPlot(rows)!;
    expect(second.png.equals(first.png)).toBe(true);
  });

  it('draws other keys, one point, and nothing', () => {
    expect(renderLossPlot(rows, { key: 'grad_norm', width: 400, height: 300 })!.svg).toContain('>grad norm<');
    expect(renderLossPlot(rows.slice(0, 1))!.svg).toContain('>5<');
    expect(renderLossPlot([{ step: 1 }])).toBeNull();
  });
});
