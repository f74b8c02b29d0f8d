/**
 * The goldens through the built command line, as somebody meets nift who has a recipe, a folder and a terminal:
 * `nift train`, `nift generate` and `nift score` in processes of their own. The slow tier runs every case.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { stringify } from 'yaml';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { checkFinalAdapter } from './finalAdapter.js';
import { nift } from '../cli/run.js';
import { expectClose } from '../expectClose.js';
import { hasShared, shared } from '../golden.js';

interface TrainCase {
  model: string;
  lora: { r: number; lora_alpha: number; lora_dropout: number; use_rslora: boolean; target_modules: string[] } | null;
  lr: number;
  warmup_ratio: number;
  max_grad_norm: number;
  grad_accum_loss: 'micro_mean' | 'token_norm';
  num_steps: number;
  num_epochs: number | null;
  per_device_batch_size: number;
  gradient_accumulation_steps: number;
  examples: { input_ids: number[]; labels: number[] }[];
  steps: { loss: number; lr: number; grad_norm: number }[];
}

interface GenerateCase {
  prompt?: string;
  input_ids: number[];
  output_ids: number[];
  stopped_by: string;
  output_text?: string;
}

interface ScoreCase {
  context?: string;
  continuation?: string;
  add_bos?: boolean;
  context_ids: number[];
  continuation_ids: number[];
  logprob: number;
  is_greedy: boolean;
}

const slow = process.env['NIFT_SLOW'] === '1';
const json = <T>(file: string): T => JSON.parse(readFileSync(file, 'utf8')) as T;
const jsonl = <T>(file: string): T[] =>
  readFileSync(file, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as T);
const writeJsonl = (file: string, rows: object[]): void =>
  writeFileSync(file, rows.map((row) => `${JSON.stringify(row)}\n`).join(''));

let work: string;
let count = 0;
/** A new folder; cases lie side by side in it. */
const scratch = (): string => {
  const folder = path.join(work, String(count++));
  mkdirSync(folder);
  return folder;
};
beforeAll(() => void (work = mkdtempSync(path.join(tmpdir(), 'nift-cli-'))));
afterAll(() => rmSync(work, { recursive: true, force: true }));

const trainFolder = shared('golden', 'train');
const trainNames = hasShared ? readdirSync(trainFolder) : [];

/** The recipe that a reader of the case would write; every path is relative to `folder`, from where the command is run. */
function recipeOf(name: string, golden: TrainCase, folder: string): Record<string, unknown> {
  const relative = (...parts: string[]): string => path.relative(folder, shared(...parts));
  const { lora } = golden;
  return {
    model_name_or_path: relative('models', golden.model),
    ...(lora === null
      ? { finetuning_type: 'full' }
      : {
          adapter_name_or_path: relative('golden', 'train', name, 'init_adapter'),
          lora_rank: lora.r,
          lora_alpha: lora.lora_alpha,
          lora_dropout: lora.lora_dropout,
          lora_target: lora.target_modules.join(','),
          use_rslora: lora.use_rslora,
        }),
    dataset_dir: 'data',
    dataset: 'examples',
    disable_shuffling: true,
    output_dir: path.join('out', 'new'),
    per_device_train_batch_size: golden.per_device_batch_size,
    gradient_accumulation_steps: golden.gradient_accumulation_steps,
    gradient_accumulation_mode: golden.grad_accum_loss === 'micro_mean' ? 'micro_mean' : 'token',
    learning_rate: golden.lr,
    lr_scheduler_type: 'cosine',
    warmup_ratio: golden.warmup_ratio,
    max_grad_norm: golden.max_grad_norm,
    ...(golden.num_epochs === null ? { max_steps: golden.num_steps } : { num_train_epochs: golden.num_epochs }),
    logging_steps: 1,
    dtype: 'float32',
  };
}

async function checkTraining(name: string, backend: string): Promise<void> {
  const golden = json<TrainCase>(path.join(trainFolder, name, 'case.json'));
  const folder = scratch();
  mkdirSync(path.join(folder, 'data'));
  writeJsonl(path.join(folder, 'data', 'rows.jsonl'), golden.examples);
  const info = { examples: { file_name: 'rows.jsonl', formatting: 'pretokenized' } };
  writeFileSync(path.join(folder, 'data', 'dataset_info.json'), JSON.stringify(info));
  writeFileSync(path.join(folder, 'recipe.yaml'), stringify(recipeOf(name, golden, folder)));
  const run = await nift(['train', 'recipe.yaml', '--json', ...(backend === 'native' ? [] : [`backend=${backend}`])], {
    cwd: folder,
  });
  expect(run.code, run.stderr).toBe(0);
  expect(JSON.parse(run.stdout)).toMatchObject({ status: 'finished', step: golden.num_steps });
  const output = path.join(folder, 'out', 'new');
  type Row = { step: number; loss?: number; learning_rate: number; grad_norm: number };
  const { log_history: history } = json<{ log_history: Row[] }>(path.join(output, 'trainer_state.json'));
  const rows = history.filter((row) => row.loss !== undefined);
  expect(rows.map((row) => row.step)).toEqual(golden.steps.map((_, i) => i + 1));
  golden.steps.forEach((step, i) => {
    const label = `step ${i + 1}`;
    expectClose([rows[i]!.loss!], [step.loss], { abs: i < 5 ? 2e-4 : 1e-3, label: `loss of ${label}` });
    expectClose([rows[i]!.grad_norm], [step.grad_norm], { relToMax: 1e-3, label: `grad_norm of ${label}` });
    expectClose([rows[i]!.learning_rate], [step.lr], { abs: 1e-9, label: `learning_rate of ${label}` });
  });
  if (golden.lora) checkFinalAdapter(name, output);
}

const QUICK_TRAINING = [
  'stories260k-accum1-batch4-warmup0',
  'stories260k-fullft',
  'stories260k-ragged-legacy-micromean',
  'stories260k-ragged-modern-tokennorm',
  'stories260k-rslora-qv-accum4',
  'tiny-llama3-accum2-tokennorm-warmup0p1',
];

describe.skipIf(!hasShared)('nift train', () => {
  it.each(trainNames.filter((name) => slow || QUICK_TRAINING.includes(name)))('%s on native', (name) =>
    checkTraining(name, 'native'),
  );

  it.each(slow ? ['stories260k-ragged-legacy-micromean', 'tiny-llama3-accum2-tokennorm-warmup0'] : [])(
    '%s on the composed reference',
    (name) => checkTraining(name, 'cpu'),
    600_000,
  );
});

const GENERATE_FILES = hasShared
  ? readdirSync(shared('golden', 'generate')).filter((name) => !name.endsWith('-loglikelihood.json'))
  : [];
const QUICK_GENERATION = ['stories260k-adapter.json', 'stories260k-from-bos-300.json', 'tiny-mistral.json'];

/** Once by ids and, where the golden has them, once by prompts. */
async function checkGeneration(name: string, backend: string, limit: number): Promise<void> {
  const golden = json<{ model: string; adapter: string | null; max_new_tokens: number; cases: GenerateCase[] }>(
    shared('golden', 'generate', name),
  );
  const folder = scratch();
  const tokens = Math.min(limit, golden.max_new_tokens);
  const common = ['generate', '--model', shared('models', golden.model), '--max-new-tokens', String(tokens)];
  // No --dtype: the default must be exact, 16-bit checkpoints included.
  common.push('--temperature', '0', '--backend', backend);
  if (golden.adapter !== null) common.push('--adapter', shared('golden', golden.adapter));
  const sources: ((row: GenerateCase) => object)[] = [({ input_ids }) => ({ input_ids, note: 'kept' })];
  if (golden.cases[0]?.prompt !== undefined) sources.push(({ prompt }) => ({ prompt }));
  for (const [i, source] of sources.entries()) {
    writeJsonl(path.join(folder, `in${i}.jsonl`), golden.cases.map(source));
    const run = await nift([...common, '--input', `in${i}.jsonl`, '--output', `out${i}.jsonl`], { cwd: folder });
    expect(run.code, run.stderr).toBe(0);
    const rows = jsonl<{ output_ids: number[]; text?: string; note?: string }>(path.join(folder, `out${i}.jsonl`));
    expect(rows.map((row) => row.output_ids)).toEqual(golden.cases.map((row) => row.output_ids.slice(0, tokens)));
    if (i === 0) expect(rows.every((row) => row.note === 'kept')).toBe(true);
    if (golden.model.startsWith('stories') && tokens === golden.max_new_tokens)
      expect(rows.map((row) => row.text)).toEqual(golden.cases.map((row) => row.output_text));
  }
}

describe.skipIf(!hasShared)('nift generate', () => {
  it.each(GENERATE_FILES.filter((name) => slow || QUICK_GENERATION.includes(name)))('%s on native', (name) =>
    checkGeneration(name, 'native', Infinity),
  );

  it.each(slow ? ['stories260k-adapter.json', 'tiny-llama31.json'] : [])(
    '%s on the composed reference',
    (name) => checkGeneration(name, 'cpu', 24),
    600_000,
  );
});

describe.skipIf(!hasShared)('nift score', () => {
  it.each(['stories260k', 'tiny-llama3'])('%s by text and by ids', async (name) => {
    const { cases } = json<{ cases: ScoreCase[] }>(shared('golden', 'generate', `${name}-loglikelihood.json`));
    const byText = cases.filter((row) => row.context !== undefined);
    const rows = [
      ...cases.map(({ context_ids, continuation_ids }) => ({ context_ids, continuation_ids })),
      ...byText.map(({ context, continuation, add_bos }) => ({
        context,
        continuation,
        ...(add_bos === false ? { add_bos } : {}),
      })),
    ];
    const folder = scratch();
    writeJsonl(path.join(folder, 'pairs.jsonl'), rows);
    const flags = ['--input', 'pairs.jsonl', '--output', 'scores.jsonl'];
    const run = await nift(['score', '--model', shared('models', name), ...flags], { cwd: folder });
    expect(run.code, run.stderr).toBe(0);
    const scores = jsonl<{ logprob: number; is_greedy: boolean; num_tokens: number }>(path.join(folder, 'scores.jsonl'));
    const expected = [...cases, ...byText];
    expectClose(
      scores.map((row) => row.logprob),
      expected.map((row) => row.logprob),
      { abs: 5e-3 },
    );
    expect(scores.map((row) => row.is_greedy)).toEqual(expected.map((row) => row.is_greedy));
    expect(scores.map((row) => row.num_tokens)).toEqual(expected.map((row) => row.continuation_ids.length));
  });
});
