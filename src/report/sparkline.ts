/** Curves for a terminal, from characters that every monospaced font has. Null and non-finite values leave a gap. */
const BLOCKS = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'] as const;

export type Values = readonly (number | null | undefined)[];

/** Means of `width` equal stretches of the values; the values themselves when there are no more than `width`. NaN where nothing is finite. */
export function resample(values: Values, width: number): number[] {
  const columns = Math.min(width, values.length);
  return Array.from({ length: columns }, (_, column) => {
    const start = Math.floor((column * values.length) / columns);
    const end = Math.floor(((column + 1) * values.length) / columns);
    const finite = values.slice(start, end).filter((value): value is number => Number.isFinite(value));
    return finite.length === 0 ? NaN : finite.reduce((sum, value) => sum + value, 0) / finite.length;
  });
}

function range(values: readonly number[]): { low: number; high: number } | null {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return low <= high ? { low, high } : null;
}

/** Position of `value` among `levels` steps between low and high; the middle when the curve is flat. */
function levelOf(value: number, { low, high }: { low: number; high: number }, levels: number): number {
  if (high === low) return Math.floor((levels - 1) / 2);
  // Halved, so that a range of 1e308 does not overflow.
  const share = (value / 2 - low / 2) / (high / 2 - low / 2);
  return Math.min(levels - 1, Math.max(0, Math.round(share * (levels - 1))));
}

/** One line of at most `width` characters: lowest value ▁, highest █. Empty for no finite values. */
export function sparkline(values: Values, width = 40): string {
  const columns = resample(values, Math.max(1, Math.floor(width)));
  const bounds = range(columns);
  if (!bounds) return '';
  return columns.map((value) => (Number.isFinite(value) ? BLOCKS[levelOf(value, bounds, BLOCKS.length)]! : ' ')).join('');
}

/** The longest that formatValue makes: -1.23e-5. */
const LABEL_WIDTH = 8;

export interface AsciiPlotOptions {
  /** Characters, labels included. Default 72. */
  width?: number;
  /** Lines of the curve, without the axis below. Default 12. */
  height?: number;
  /** Number of the first and last value, for the axis below. Default 1 and the count. */
  from?: number;
  to?: number;
  xLabel?: string;
}

/**
 * A curve with its axes:
 *
 *      4.12 ┤╮
 *           │╰─╮
 *      2.08 ┤  ╰───
 *           └──────
 *            1    20
 */
export function asciiPlot(values: Values, options: AsciiPlotOptions = {}): string {
  const height = Math.max(2, Math.floor(options.height ?? 12));
  const columns = resample(values, Math.max(8, Math.floor(options.width ?? 72) - LABEL_WIDTH - 2));
  const bounds = range(columns);
  if (!bounds) return '';
  const labels = rowLabels(bounds, height);
  const labelWidth = Math.max(...labels.map((label) => label?.length ?? 0));
  const lines = drawCurve(columns, bounds, height).map((row, i) => {
    const label = labels[i] ?? '';
    return `${label.padStart(labelWidth)} ${label === '' ? '│' : '┤'}${row}`.trimEnd();
  });
  const from = String(options.from ?? 1);
  const to = String(options.to ?? values.length);
  const end = options.xLabel === undefined ? to : `${options.xLabel} ${to}`;
  const indent = ' '.repeat(labelWidth + 2);
  const axis = `${' '.repeat(labelWidth + 1)}└${'─'.repeat(columns.length)}`;
  return [...lines, axis, `${indent}${from}${end.padStart(Math.max(columns.length - from.length, end.length + 1))}`].join('\n');
}

/** Values of the first, middle and last row; of the curve's only row when it is flat. */
function rowLabels(bounds: { low: number; high: number }, height: number): (string | undefined)[] {
  const labels = new Array<string | undefined>(height).fill(undefined);
  if (bounds.high === bounds.low) {
    labels[height - 1 - levelOf(bounds.low, bounds, height)] = formatValue(bounds.low);
    return labels;
  }
  for (const i of height >= 5 ? [0, Math.floor(height / 2), height - 1] : [0, height - 1])
    labels[i] = formatValue(bounds.high - ((bounds.high / 2 - bounds.low / 2) * 2 * i) / (height - 1));
  return labels;
}

/** Rows of box-drawing characters, top first: each column steps from the previous level to its own. */
function drawCurve(columns: readonly number[], bounds: { low: number; high: number }, height: number): string[] {
  const grid = Array.from({ length: height }, () => new Array<string>(columns.length).fill(' '));
  let previous: number | undefined;
  columns.forEach((value, x) => {
    if (!Number.isFinite(value)) {
      previous = undefined;
      return;
    }
    const row = height - 1 - levelOf(value, bounds, height);
    if (previous === undefined || previous === row) grid[row]![x] = '─';
    else {
      const down = row > previous;
      grid[previous]![x] = down ? '╮' : '╯';
      grid[row]![x] = down ? '╰' : '╭';
      for (let y = Math.min(row, previous) + 1; y < Math.max(row, previous); y++) grid[y]![x] = '│';
    }
    previous = row;
  });
  return grid.map((row) => row.join(''));
}

/** Four significant digits, short. */
export function formatValue(value: number): string {
  const size = Math.abs(value);
  if (value === 0) return '0';
  if (size >= 1e5 || size < 1e-3)
    return value
      .toExponential(2)
      .replace(/\.?0+e/, 'e')
      .replace('e+', 'e');
  return value
    .toFixed(Math.max(0, 3 - Math.floor(Math.log10(size))))
    .replace(/(\.\d*?)0+$/, '$1')
    .replace(/\.$/, '');
}
