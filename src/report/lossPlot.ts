/**
 * The training curve as LLaMA-Factory's plot_loss draws it: the raw values, faint, and their exponential moving average.
 * SVG by echarts on the server; PNG from that SVG by resvg with DejaVu, because training machines have no fonts.
 */
import { createRequire } from 'node:module';
import path from 'node:path';
import { init, setPlatformAPI, use } from 'echarts/core';
import { LineChart, type LineSeriesOption } from 'echarts/charts';
import {
  GridComponent,
  LegendComponent,
  MarkPointComponent,
  TitleComponent,
  type GridComponentOption,
  type LegendComponentOption,
  type MarkPointComponentOption,
  type TitleComponentOption,
} from 'echarts/components';
import { SVGRenderer } from 'echarts/renderers';
import type { ComposeOption } from 'echarts/core';
import { Resvg } from '@resvg/resvg-js';
import { formatValue } from './sparkline.js';

use([LineChart, GridComponent, LegendComponent, MarkPointComponent, TitleComponent, SVGRenderer]);

/** Without a canvas echarts guesses the width of text for a narrower font; this is DejaVu's mean advance, per em. */
setPlatformAPI({
  measureText: (text, font) => ({
    width: text.length * Number(/([\d.]+)px/.exec(font ?? '')?.[1] ?? 12) * (/bold/.test(font ?? '') ? 0.69 : 0.62),
  }),
});

type PlotOption = ComposeOption<
  LineSeriesOption | GridComponentOption | LegendComponentOption | MarkPointComponentOption | TitleComponentOption
>;

export interface LossPlotOptions {
  /** Above the plot. Default "training KEY". */
  title?: string;
  /** A second, smaller line: the output folder, the model. */
  subtitle?: string;
  /** The field of the rows to draw. Default "loss". */
  key?: string;
  /** Pixels of the SVG; the PNG has twice as many. */
  width?: number;
  height?: number;
}

export interface LossPlot {
  svg: string;
  png: Buffer;
}

const FONT = 'DejaVu Sans';
const INK = '#1f2933';
const MUTED = '#616e7c';
const GRID = '#e4e7eb';
const CURVE = '#1f77b4';

/**
 * Exponential moving average exactly as LLaMA-Factory smooths its curves: weight 1.8 * (sigmoid(0.05 n) - 0.5) for n points, starting
 * at the first one.
 */
export function smooth(values: readonly number[]): number[] {
  const weight = 1.8 * (1 / (1 + Math.exp(-0.05 * values.length)) - 0.5);
  let last = values[0] ?? 0;
  return values.map((value) => (last = last * weight + (1 - weight) * value));
}

/** The rows that have a step and a finite number under `key`, as points. */
export function pointsOf(rows: readonly object[], key: string): [step: number, value: number][] {
  return rows.flatMap((row) => {
    const { step, [key]: value } = row as Record<string, unknown>;
    return typeof step === 'number' && typeof value === 'number' && Number.isFinite(value)
      ? [[step, value] as [number, number]]
      : [];
  });
}

/**
 * Draws `log_history` rows. Rows without the key (the summary at the end) are skipped.
 * @returns null when there is nothing to draw
 */
export function renderLossPlot(rows: readonly object[], options: LossPlotOptions = {}): LossPlot | null {
  const key = options.key ?? 'loss';
  const points = pointsOf(rows, key);
  if (points.length === 0) return null;
  const chart = init(null, null, { renderer: 'svg', ssr: true, width: options.width ?? 800, height: options.height ?? 450 });
  try {
    chart.setOption(plotOption(points, key, options));
    const svg = chart.renderToSVGString();
    return { svg, png: rasterise(svg) };
  } finally {
    chart.dispose();
  }
}

function plotOption(points: [number, number][], key: string, options: LossPlotOptions): PlotOption {
  const width = options.width ?? 800;
  const averages = smooth(points.map(([, value]) => value));
  const smoothed = points.map(([step], i): [number, number] => [step, averages[i]!]);
  const lastStep = points[points.length - 1]![0];
  const few = points.length <= 25;
  const axis = {
    nameLocation: 'middle',
    nameTextStyle: { color: INK, fontSize: 13 },
    axisLabel: { color: MUTED, fontSize: 12 },
  } as const;
  return {
    animation: false,
    backgroundColor: '#ffffff',
    textStyle: { fontFamily: FONT, color: INK },
    title: {
      text: options.title ?? `training ${key}`,
      subtext: options.subtitle ?? '',
      left: 68,
      top: 14,
      itemGap: 12,
      textStyle: { fontSize: 16, fontWeight: 'bold', color: INK, fontFamily: FONT, width: width - 300, overflow: 'truncate' },
      subtextStyle: { fontSize: 12, color: MUTED, fontFamily: FONT, width: width - 100, overflow: 'truncate' },
    },
    legend: {
      right: 28,
      top: 16,
      itemGap: 8,
      itemWidth: 22,
      icon: 'roundRect',
      itemHeight: 3,
      textStyle: { color: INK, fontSize: 12 },
    },
    grid: { left: 72, right: 72, top: options.subtitle ? 76 : 60, bottom: 56 },
    xAxis: {
      ...axis,
      type: 'value',
      name: 'step',
      nameGap: 32,
      min: points.length === 1 ? 0 : points[0]![0],
      max: points.length === 1 ? lastStep + 1 : lastStep,
      minInterval: 1,
      axisLine: { show: true, lineStyle: { color: MUTED } },
      axisTick: { show: true, lineStyle: { color: MUTED } },
      splitLine: { show: false },
    },
    yAxis: {
      ...axis,
      type: 'value',
      name: key.replaceAll('_', ' '),
      nameGap: 46,
      scale: true,
      axisLabel: { ...axis.axisLabel, formatter: (value: number) => formatValue(value) },
      axisLine: { show: true, lineStyle: { color: MUTED } },
      splitLine: { lineStyle: { color: GRID } },
    },
    series: [
      {
        name: 'original',
        type: 'line',
        data: points,
        symbol: few ? 'circle' : 'none',
        symbolSize: 4,
        lineStyle: { color: CURVE, opacity: 0.4, width: 1.5 },
        itemStyle: { color: CURVE, opacity: 0.4 },
      },
      {
        name: 'smoothed',
        type: 'line',
        data: smoothed,
        symbol: 'none',
        lineStyle: { color: CURVE, width: 2.5 },
        itemStyle: { color: CURVE },
        markPoint: lastValueMark(smoothed[smoothed.length - 1]!),
      },
    ],
  };
}

/** A dot at the end of the curve with its value beside it. */
function lastValueMark(point: [number, number]): MarkPointComponentOption {
  return {
    symbol: 'circle',
    symbolSize: 8,
    itemStyle: { color: CURVE },
    label: { position: 'right', distance: 6, color: CURVE, fontSize: 13, fontWeight: 'bold', formatter: formatValue(point[1]) },
    data: [{ name: 'last', coord: point }],
  };
}

let fonts: string[] | undefined;

/** SVG text to PNG bytes, twice as large, with the bundled fonts only: the same picture on every machine. */
export function rasterise(svg: string): Buffer {
  fonts ??= fontFiles();
  const image = new Resvg(svg, {
    fitTo: { mode: 'zoom', value: 2 },
    font: { fontFiles: fonts, loadSystemFonts: false, defaultFontFamily: FONT },
  });
  return Buffer.from(image.render().asPng());
}

function fontFiles(): string[] {
  const folder = path.join(path.dirname(createRequire(import.meta.url).resolve('dejavu-fonts-ttf/package.json')), 'ttf');
  return ['DejaVuSans.ttf', 'DejaVuSans-Bold.ttf'].map((name) => path.join(folder, name));
}
