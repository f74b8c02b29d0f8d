/** Small runs for the trainer's tests. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll } from 'vitest';
import { parseRecipe, type Recipe } from '../../src/config/recipe.js';
import type { TrainEvent, TrainResult } from '../../src/train/events.js';
import { train, type TrainOptions } from '../../src/train/train.js';

export interface Example {
  input_ids: number[];
  labels: number[];
}

const folders: string[] = [];

/** A folder that is removed after the test file. */
export function scratch(): string {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'nift-train-'));
  folders.push(folder);
  return folder;
}

afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

/** Writes a pretokenized dataset and returns its dataset_dir; the dataset's name is `data`. */
export function writeDataset(folder: string, examples: readonly Example[]): string {
  mkdirSync(folder, { recursive: true });
  writeFileSync(path.join(folder, 'data.jsonl'), examples.map((example) => `${JSON.stringify(example)}\n`).join(''));
  writeFileSync(
    path.join(folder, 'dataset_info.json'),
    JSON.stringify({ data: { file_name: 'data.jsonl', formatting: 'pretokenized' } }),
  );
  return folder;
}

/** Random rows over a small vocabulary; the first third of each is prompt. */
export function randomExamples(count: number, vocabulary: number, lengths: readonly number[] = [5, 9, 14, 3]): Example[] {
  let state = 12345;
  const next = (limit: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return (state >>> 8) % limit;
  };
  return Array.from({ length: count }, (_, i) => {
    const input_ids = Array.from({ length: lengths[i % lengths.length]! }, () => 3 + next(vocabulary - 3));
    return { input_ids, labels: input_ids.map((id, t) => (t < input_ids.length / 3 ? -100 : id)) };
  });
}

export const recipe = (values: Record<string, unknown>): Recipe => parseRecipe({ overrides: values, env: {} });

export interface Recorded {
  result: TrainResult;
  events: TrainEvent[];
}

/** Trains and keeps the events. `stopAfter` aborts once that many steps of this call are done. */
export async function run(
  values: Record<string, unknown>,
  options: { stopAfter?: number } & Pick<TrainOptions, 'signal'> = {},
): Promise<Recorded> {
  const events: TrainEvent[] = [];
  const controller = new AbortController();
  let steps = 0;
  const onEvent = (event: TrainEvent): void => {
    events.push(event);
    if (event.type === 'step' && ++steps === options.stopAfter) controller.abort();
  };
  const result = await train(recipe(values), { onEvent, signal: options.signal ?? controller.signal });
  return { result, events };
}

export const messages = (events: readonly TrainEvent[], type: 'warning' | 'notice'): string[] =>
  events.flatMap((event) => (event.type === type ? [event.message] : []));

export const readJson = (...parts: string[]): unknown => JSON.parse(readFileSync(path.join(...parts), 'utf8'));
