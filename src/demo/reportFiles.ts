/** What the demo leaves on disk besides the adapter: its recipe, and a report for people (Markdown) and programs (JSON). */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { atomicFile } from '../formats/atomic.js';
import { asciiPlot } from '../report/sparkline.js';
import type { DemoAnswer, DemoResult, DemoSample } from './demo.js';
import { PHRASE_WORDS, REPEAT_LIMIT, type Measures } from './measures.js';

export const REPORT_FILE = 'report.md';

/** Copies a recipe with some keys set anew; the other lines, comments included, stay as they are. */
export function writeRecipe(from: string, to: string, keys: Record<string, unknown>): void {
  const left = new Map(Object.entries(keys).map(([key, value]) => [key, JSON.stringify(value)]));
  const lines = readFileSync(from, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => {
      const key = /^(\w+):/.exec(line)?.[1];
      const value = key === undefined ? undefined : left.get(key);
      if (key === undefined || value === undefined) return line;
      left.delete(key);
      return `${key}: ${value}`;
    });
  for (const [key, value] of left) lines.push(`${key}: ${value}`);
  atomicFile(to, `${lines.join('\n')}\n`);
}

/** The table of the three questions, in the words that the terminal shows too. */
export function measureRows(before: Measures, after: Measures): [question: string, before: string, after: string][] {
  const of = (count: number, { prompts }: Measures): string => `${count} of ${prompts}`;
  const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
  return [
    ['answers', of(before.answers, before), of(after.answers, after)],
    ['stops by itself', of(before.stops, before), of(after.stops, after)],
    ['goes in circles', of(before.repeats, before), of(after.repeats, after)],
    [`repeated ${PHRASE_WORDS}-word phrases`, percent(before.repeatedShare), percent(after.repeatedShare)],
    ['words per answer', before.words.toFixed(0), after.words.toFixed(0)],
  ];
}

/** Writes report.md and report.json into the folder. */
export function writeReport(folder: string, result: DemoResult): void {
  atomicFile(path.join(folder, 'report.json'), `${JSON.stringify({ version: 1, ...result, training: undefined }, null, 2)}\n`);
  atomicFile(path.join(folder, REPORT_FILE), reportText(folder, result));
}

function reportText(folder: string, result: DemoResult): string {
  const { before, after, loss, files, samples } = result;
  const relative = (file: string): string => path.relative(folder, file) || '.';
  const table = after === null ? [] : measureRows(before, after).map((row) => `| ${row.join(' | ')} |`);
  return [
    '# What the demo did',
    '',
    'A small language model that only knew how to write on, and never ended, was fine-tuned with LoRA on halves of texts: the',
    'first half as the question, the original second half as the answer. Nobody told it what a question is.',
    '',
    '| | before | after |',
    '|---|---|---|',
    ...table,
    '',
    `"Goes in circles": more than ${REPEAT_LIMIT * 100} % of the phrases of ${PHRASE_WORDS} words stood in the answer before.`,
    '',
    `## Loss (${loss.length} steps, ${loss[0]?.toFixed(3) ?? '-'} to ${loss.at(-1)?.toFixed(3) ?? '-'})`,
    '',
    files['plot'] === undefined ? '' : `![loss](${relative(files['plot'])})`,
    '',
    '```',
    asciiPlot(loss, { xLabel: 'step' }),
    '```',
    '',
    '## The same prompts before and after',
    '',
    ...samples.flatMap(sampleText),
    '## Files',
    '',
    ...Object.entries(files).map(([name, file]) => `- ${name}: \`${relative(file)}\``),
    '',
  ].join('\n');
}

function sampleText(sample: DemoSample, index: number): string[] {
  const quote = (text: string): string => `> ${text.split('\n').join('\n> ')}`;
  const ending = ({ stopReason, tokens }: DemoAnswer): string =>
    stopReason === 'eos' ? `stopped by itself after ${tokens} tokens` : `cut off after ${tokens} tokens`;
  return [
    `### ${index + 1}. ${sample.genre}`,
    '',
    quote(sample.prompt),
    '',
    `**Before** (${ending(sample.before)}):`,
    '',
    quote(sample.before.text),
    '',
    `**After** (${ending(sample.after)}):`,
    '',
    quote(sample.after.text),
    '',
    '**The original went on:**',
    '',
    quote(sample.original),
    '',
  ];
}
