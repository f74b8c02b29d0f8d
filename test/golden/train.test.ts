/** Training trajectories of transformers + PEFT: every step's loss, learning rate and gradient norm, and the final adapter. */
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { useBackend } from '../../src/backend/index.js';
import { tf } from '../../src/backend/tf.js';
import { collate, countTargets } from '../../src/data/batch.js';
import { openSafetensors } from '../../src/formats/safetensors.js';
import { CausalLM } from '../../src/model/causalLM.js';
import type { LogRow } from '../../src/train/events.js';
import { lossAndGradients } from '../../src/train/backward.js';
import { expectClose } from '../expectClose.js';
import { checkFinalAdapter } from './finalAdapter.js';
import { hasShared, shared } from '../golden.js';
import { recipe, run, scratch, writeDataset, type Example } from '../train/helpers.js';
import { windowOptions } from '../../src/train/plan.js';
import { Windows } from '../../src/train/windows.js';

interface Case {
  model: string;
  trainable: string;
  lora: { lora_dropout: number; use_rslora: boolean } | null;
  lr: number;
  warmup_ratio: number;
  max_grad_norm: number;
  grad_accum_loss: 'micro_mean' | 'token_norm';
  num_steps: number;
  num_epochs: number | null;
  per_device_batch_size: number;
  gradient_accumulation_steps: number;
  examples: Example[];
  schedule: number[][][];
  steps: { loss: number; lr: number; lr_after_scheduler_step: number; grad_norm: number }[];
  dataset_loss_before: number;
  dataset_loss_after: number;
}

const folder = shared('golden/train');
const names = hasShared ? readdirSync(folder) : [];
const load = (name: string): Case => JSON.parse(readFileSync(path.join(folder, name, 'case.json'), 'utf8')) as Case;

function values(name: string, golden: Case, backend: string): Record<string, unknown> {
  const work = scratch();
  return {
    model_name_or_path: shared('models', golden.model),
    ...(golden.lora ? { adapter_name_or_path: path.join(folder, name, 'init_adapter') } : { finetuning_type: 'full' }),
    dataset_dir: writeDataset(path.join(work, 'data'), golden.examples),
    dataset: 'data',
    output_dir: path.join(work, 'out'),
    backend,
    dtype: 'float32',
    disable_shuffling: true,
    per_device_train_batch_size: golden.per_device_batch_size,
    gradient_accumulation_steps: golden.gradient_accumulation_steps,
    gradient_accumulation_mode: golden.grad_accum_loss === 'micro_mean' ? 'micro_mean' : 'token',
    learning_rate: golden.lr,
    warmup_ratio: golden.warmup_ratio,
    max_grad_norm: golden.max_grad_norm,
    logging_steps: 1,
    ...(golden.num_epochs === null ? { max_steps: golden.num_steps } : { num_train_epochs: golden.num_epochs }),
  };
}

function checkSteps(golden: Case, rows: LogRow[]): void {
  expect(rows.map((row) => row.step)).toEqual(golden.steps.map((_, i) => i + 1));
  golden.steps.forEach((step, i) => {
    const row = rows[i]!;
    // README of the goldens, "Tolerances".
    expectClose([row.loss!], [step.loss], { abs: i < 5 ? 2e-4 : 1e-3, label: `loss of step ${i + 1}` });
    expectClose([row.grad_norm!], [step.grad_norm], { relToMax: 1e-3, label: `grad_norm of step ${i + 1}` });
    expectClose([row.learning_rate], [step.lr], { abs: 1e-9, label: `lr of step ${i + 1}` });
    expectClose([row.learning_rate_next], [step.lr_after_scheduler_step], { abs: 1e-9, label: `next lr of step ${i + 1}` });
  });
}

/** Mean loss over all supervised tokens of the dataset. */
async function datasetLoss(golden: Case, options: { model: string; adapter?: string }): Promise<number> {
  const model = await CausalLM.load(options.model, {
    dtype: 'float32',
    ...(options.adapter ? { adapter: options.adapter } : {}),
  });
  const rows = golden.examples.map((row) => ({ inputIds: Int32Array.from(row.input_ids), labels: Int32Array.from(row.labels) }));
  const nll = model.nll(collate(rows));
  const sum = nll.dataSync<'float32'>().reduce((total, value) => total + value, 0);
  nll.dispose();
  model.dispose();
  return sum / rows.reduce((total, row) => total + countTargets(row.labels), 0);
}

const slow = process.env['NIFT_SLOW'] === '1';

/** The whole run, or its first `steps` steps. */
async function check(name: string, backend: string, steps?: number): Promise<void> {
  const golden = load(name);
  const recipeValues = values(name, golden, backend);
  expect(new Windows(windowOptions(recipe(recipeValues).values, golden.examples.length)).plan.totalSteps).toBe(golden.num_steps);
  const { result } = await run(recipeValues, steps === undefined ? {} : { stopAfter: steps });
  if (steps !== undefined) {
    checkSteps({ ...golden, steps: golden.steps.slice(0, steps) }, result.logHistory as LogRow[]);
    return;
  }
  checkSteps(golden, result.logHistory.slice(0, -1) as LogRow[]);
  const output = recipeValues['output_dir'] as string;
  if (golden.lora) checkFinalAdapter(name, output);
  const base = shared('models', golden.model);
  const loss = await datasetLoss(golden, golden.lora ? { model: base, adapter: output } : { model: output });
  expectClose([loss], [golden.dataset_loss_after], { abs: 1e-3, label: 'loss of the dataset after training' });
}

describe.skipIf(!hasShared)('training trajectories of transformers and PEFT', () => {
  it.each(names)('%s on native', async (name) => {
    await check(name, 'native');
  });

  // The JavaScript backend takes seconds a step: the slow tier runs every case to its end.
  it.each(names.filter((name) => slow || name.includes('ragged')))(
    '%s on the composed reference',
    async (name) => {
      await check(name, 'cpu', slow ? undefined : 2);
    },
    600_000,
  );
});

describe.skipIf(!hasShared)('accumulated gradients and parameters of the first two steps', () => {
  beforeAll(() => useBackend('native'));
  const withSnapshots = names.filter((name) => existsSync(path.join(folder, name, 'snapshots.safetensors')));

  it.each(withSnapshots)('%s', async (name) => {
    const golden = load(name);
    const snapshots = openSafetensors(path.join(folder, name, 'snapshots.safetensors'));
    const adapter = path.join(folder, name, 'init_adapter');
    const model = await CausalLM.load(shared('models', golden.model), { dtype: 'float32', train: 'lora', adapter });
    const params = model.trainable();
    const micro = golden.schedule[0]!.map((rows) =>
      rows.map((row) => ({
        inputIds: Int32Array.from(golden.examples[row]!.input_ids),
        labels: Int32Array.from(golden.examples[row]!.labels),
      })),
    );
    const sums = [...params].map(([, param]) => new Float64Array(param.size));
    for (const rows of micro) {
      const batch = collate(rows);
      const weight = 1 / (countTargets(batch.labels, batch.cuSeqlens) * micro.length);
      const { loss, grads } = lossAndGradients(() => tf.mul<tf.Scalar>(tf.sum(model.nll(batch)), weight), [...params.values()]);
      grads.forEach((grad, i) => grad?.dataSync().forEach((value, j) => (sums[i]![j]! += value)));
      tf.dispose([loss, ...grads.filter((grad) => grad !== null)]);
    }
    [...params.keys()].forEach((tensor, i) => {
      const stored = snapshots.names().find((entry) => entry.startsWith('step1.grad.') && entry.endsWith(tensor));
      expect(stored, tensor).toBeDefined();
      expectClose(sums[i]!, snapshots.readFloat32(stored!), { relToMax: 1e-3, abs: 1e-9, label: tensor });
    });
    model.dispose();
    // Parameters after two updates, from the checkpoints of a run that saves at each of them.
    const recipeValues: Record<string, unknown> = { ...values(name, golden, 'native'), save_steps: 1, save_total_limit: 30 };
    await run(recipeValues, { stopAfter: 2 });
    for (const step of [1, 2]) {
      const saved = openSafetensors(
        path.join(recipeValues['output_dir'] as string, `checkpoint-${step}`, 'adapter_model.safetensors'),
      );
      for (const tensor of saved.names()) {
        const stored = snapshots.names().find((entry) => entry.startsWith(`step${step}.param.`) && entry.endsWith(tensor));
        expect(stored, tensor).toBeDefined();
        const expected = snapshots.readFloat32(stored!);
        const actual = saved.readFloat32(tensor);
        const far = actual.filter((value, i) => Math.abs(value - expected[i]!) > 1e-4).length;
        // An element whose gradient is about 1e-8 may take Adam's first step with the other sign.
        expect(far / actual.length, `${tensor} after step ${step}`).toBeLessThanOrEqual(2e-3);
      }
    }
  });
});
