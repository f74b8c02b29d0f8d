/**
 * `nift demo` as a function: the whole method in small. Fresh texts are halved, the original continuations are the answers, a
 * LoRA is trained on them, and the same prompts are answered before and after. The base model continues texts and never
 * stops; what it learns here is to answer and to end.
 */
import { copyFileSync, existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { useBackend } from '../backend/index.js';
import { parseRecipe, type Recipe } from '../config/recipe.js';
import { NiftError } from '../errors.js';
import { CausalLM } from '../model/causalLM.js';
import { generate, type StopReason } from '../model/generate.js';
import { getTemplate } from '../templates/index.js';
import { Tokenizer } from '../tokenizer/tokenizer.js';
import type { TrainEvent, TrainResult } from '../train/events.js';
import { train } from '../train/train.js';
import { measureAnswers, type Measures } from './measures.js';
import { REPORT_FILE, writeRecipe, writeReport } from './reportFiles.js';
import { DEMO_SEED } from './settings.js';
import { DATASET_NAME, halvedArticles, writeDataset, type HalvedArticle } from './texts.js';

/** The demo's own files, in the package. */
export const DEMO_ASSETS = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..', '..', 'examples', 'demo');

export interface DemoOptions {
  /** Folder for everything the demo makes. A folder with files of somebody else is refused. */
  outputDir: string;
  /** Articles to train on. Default 400. */
  articles?: number;
  /** Further articles whose first halves are answered before and after. Default 16. */
  prompts?: number;
  /** Most new tokens per prompt; an original continuation has fewer. Default 240. */
  maxNewTokens?: number;
  /** Recipe keys that replace those of examples/demo/lora.yaml. */
  overrides?: Record<string, unknown>;
  backend?: string;
  threads?: number;
  /** Default: the base model in the package. */
  baseModel?: string;
  signal?: AbortSignal;
}

export type DemoStage = 'texts' | 'before' | 'train' | 'after' | 'report';

export type DemoEvent =
  | { type: 'stage'; stage: DemoStage }
  | { type: 'texts'; file: string; rows: number; example: HalvedArticle }
  | { type: 'answered'; stage: 'before' | 'after'; finished: number; total: number }
  | { type: 'train'; event: TrainEvent };

/** One prompt, what stood there, and what the model wrote before and after. */
export interface DemoSample {
  genre: string;
  prompt: string;
  original: string;
  before: DemoAnswer;
  after: DemoAnswer;
}

export interface DemoAnswer {
  text: string;
  stopReason: StopReason;
  tokens: number;
}

export interface DemoResult {
  outputDir: string;
  /** False when the signal ended it early; then `after` and the report are missing. */
  finished: boolean;
  seconds: number;
  /** Loss of every step. */
  loss: number[];
  before: Measures;
  after: Measures | null;
  samples: DemoSample[];
  training: TrainResult | null;
  /** What is where: base, dataset, recipe, adapter, plot, report. */
  files: Record<string, string>;
}

/**
 * Runs the demo.
 * @throws NIFT_OUTPUT_DIR when the output folder holds something else, NIFT_FILE_NOT_FOUND without the base model
 */
export async function runDemo(options: DemoOptions, onEvent: (event: DemoEvent) => void = () => undefined): Promise<DemoResult> {
  const started = performance.now();
  const paths = preparePaths(options);
  const backend = options.backend ?? 'native';
  await useBackend(backend, { threads: options.threads });

  onEvent({ type: 'stage', stage: 'texts' });
  const count = options.articles ?? 400;
  const rows = halvedArticles(DEMO_SEED, count);
  const questions = halvedArticles(DEMO_SEED, options.prompts ?? 16, count);
  const file = writeDataset(paths.data, rows);
  onEvent({ type: 'texts', file, rows: rows.length, example: rows[0]! });

  onEvent({ type: 'stage', stage: 'before' });
  const answered = (stage: 'before' | 'after') => (finished: number) =>
    onEvent({ type: 'answered', stage, finished, total: questions.length });
  const before = await answer({ base: paths.base, adapter: undefined }, questions, options, answered('before'));

  onEvent({ type: 'stage', stage: 'train' });
  const training = await trainUnlessAborted(makeRecipe(paths, { ...options, backend }), options.signal, onEvent);
  const loss = (training?.logHistory ?? []).flatMap((row) => ('loss' in row && row.loss !== null ? [row.loss] : []));

  let after: DemoAnswer[] | null = null;
  if (training !== null && training.status !== 'stopped' && options.signal?.aborted !== true) {
    onEvent({ type: 'stage', stage: 'after' });
    after = await answer({ base: paths.base, adapter: paths.adapter }, questions, options, answered('after'));
  }
  if (options.signal?.aborted === true) after = null;
  const result: DemoResult = {
    outputDir: options.outputDir,
    finished: after !== null,
    seconds: (performance.now() - started) / 1000,
    loss,
    before: measureAnswers(before),
    after: after === null ? null : measureAnswers(after),
    samples: makeSamples(questions, before, after),
    training,
    files: filesOf(paths, file),
  };
  if (!result.finished) return result;
  onEvent({ type: 'stage', stage: 'report' });
  writeReport(options.outputDir, result);
  return result;
}

function makeSamples(
  questions: readonly HalvedArticle[],
  before: readonly DemoAnswer[],
  after: readonly DemoAnswer[] | null,
): DemoSample[] {
  return questions.map((question, i) => ({
    genre: question.genre,
    prompt: question.prompt,
    original: question.continuation,
    before: before[i]!,
    after: after?.[i] ?? { text: '', stopReason: 'abort', tokens: 0 },
  }));
}

/** Null when the signal came before the first step. */
async function trainUnlessAborted(
  recipe: Recipe,
  signal: AbortSignal | undefined,
  onEvent: (event: DemoEvent) => void,
): Promise<TrainResult | null> {
  try {
    if (signal?.aborted === true) return null;
    return await train(recipe, { onEvent: (event) => onEvent({ type: 'train', event }), ...(signal ? { signal } : {}) });
  } catch (error) {
    if (signal?.aborted === true && error instanceof Error && error.name === 'AbortError') return null;
    throw error;
  }
}

interface Paths {
  base: string;
  data: string;
  adapter: string;
  recipe: string;
}

/** Clears what an earlier demo left in the folder; refuses a folder of somebody else. */
function preparePaths({ outputDir, baseModel }: DemoOptions): Paths {
  const base = baseModel ?? path.join(DEMO_ASSETS, 'base');
  if (!existsSync(path.join(base, 'config.json')))
    throw new NiftError('NIFT_FILE_NOT_FOUND', `${base}: the demo's base model is not there`, {
      hint: 'Install the package anew, or make it: see examples/demo/README.md.',
    });
  const paths = {
    base,
    data: path.join(outputDir, 'data'),
    adapter: path.join(outputDir, 'adapter'),
    recipe: path.join(outputDir, 'recipe.yaml'),
  };
  const found = existsSync(outputDir) ? readdirSync(outputDir) : [];
  const ours = new Set(['data', 'adapter', 'recipe.yaml', REPORT_FILE, 'report.json', 'training_loss.png', 'training_loss.svg']);
  const strange = found.find((name) => !ours.has(name));
  if (strange !== undefined)
    throw new NiftError('NIFT_OUTPUT_DIR', `${outputDir} holds "${strange}", which no demo made`, {
      hint: 'Choose another folder with --output-dir.',
    });
  for (const name of found) rmSync(path.join(outputDir, name), { recursive: true, force: true });
  mkdirSync(outputDir, { recursive: true });
  return paths;
}

/** examples/demo/lora.yaml with this run's folders; also written down, so that `nift train` can repeat it. */
function makeRecipe(paths: Paths, options: DemoOptions): Recipe {
  const folders = { model_name_or_path: paths.base, dataset_dir: paths.data, dataset: DATASET_NAME, output_dir: paths.adapter };
  writeRecipe(path.join(DEMO_ASSETS, 'lora.yaml'), paths.recipe, { ...folders, ...options.overrides });
  const flags: Record<string, unknown> = {};
  if (options.backend !== undefined) flags['backend'] = options.backend;
  if (options.threads !== undefined) flags['threads'] = options.threads;
  return parseRecipe({ path: paths.recipe, flags, env: {} });
}

/** Greedy answers, encoded as in training. */
async function answer(
  source: { base: string; adapter: string | undefined },
  questions: readonly HalvedArticle[],
  options: DemoOptions,
  onProgress: (finished: number) => void,
): Promise<DemoAnswer[]> {
  const tokenizer = Tokenizer.load(source.base);
  const template = getTemplate('vanilla');
  const model = await CausalLM.load(source.base, source.adapter === undefined ? {} : { adapter: source.adapter });
  try {
    const prompts = questions.map(({ prompt }) =>
      Int32Array.from(template.encodePrompt(tokenizer, [{ role: 'user', content: prompt }])),
    );
    let finished = 0;
    const generations = await generate(
      model,
      prompts,
      {
        maxNewTokens: options.maxNewTokens ?? 240,
        temperature: 0,
        batchSize: prompts.length,
        eosTokenIds: template.stopIds(tokenizer),
        decode: (ids) => tokenizer.decode(ids),
        ...(options.signal ? { signal: options.signal } : {}),
      },
      ({ stopReason }) => {
        if (stopReason !== undefined) onProgress(++finished);
      },
    );
    return generations.map(({ text, stopReason, outputIds }) => ({
      text: (text ?? '').trim(),
      stopReason,
      tokens: outputIds.length,
    }));
  } finally {
    model.dispose();
  }
}

/** The loss plots move up beside the report. */
function filesOf(paths: Paths, dataset: string): Record<string, string> {
  const files: Record<string, string> = { base: paths.base, dataset, recipe: paths.recipe, adapter: paths.adapter };
  for (const name of ['training_loss.png', 'training_loss.svg']) {
    const plot = path.join(paths.adapter, name);
    const target = path.join(path.dirname(paths.adapter), name);
    if (!existsSync(plot)) continue;
    copyFileSync(plot, target);
    files[name.endsWith('png') ? 'plot' : 'plotSvg'] = target;
  }
  files['report'] = path.join(path.dirname(paths.adapter), REPORT_FILE);
  return files;
}
