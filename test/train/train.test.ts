/** The loop's own promises: what a step's loss is, what it leaves behind, what it tells. */
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { tf } from '../../src/backend/tf.js';
import { NiftError } from '../../src/errors.js';
import { openSafetensors } from '../../src/formats/safetensors.js';
import type { LogRow, StepEvent, SummaryRow, TrainEvent } from '../../src/train/events.js';
import { clock } from '../../src/train/logs.js';
import { expectClose } from '../expectClose.js';
import { hasShared, shared } from '../golden.js';
import { messages, randomExamples, readJson, run, scratch, writeDataset, type Example } from './helpers.js';

function setUp(examples: readonly Example[], extra: Record<string, unknown> = {}): Record<string, unknown> {
  const work = scratch();
  return {
    model_name_or_path: shared('models/tiny-llama2'),
    dataset_dir: writeDataset(path.join(work, 'data'), examples),
    dataset: 'data',
    output_dir: path.join(work, 'out'),
    dtype: 'float32',
    disable_shuffling: true,
    logging_steps: 1,
    learning_rate: 5e-3,
    lr_scheduler_type: 'constant',
    ...extra,
  };
}

const rows = (history: readonly (LogRow | SummaryRow)[]): LogRow[] => history.filter((row): row is LogRow => 'loss' in row);
const steps = (events: readonly TrainEvent[]): StepEvent[] => events.filter((event) => event.type === 'step');

function adapter(values: Record<string, unknown>): Map<string, Float32Array> {
  const file = openSafetensors(path.join(values['output_dir'] as string, 'adapter_model.safetensors'));
  return new Map(file.names().map((name) => [name, file.readFloat32(name)]));
}

describe.skipIf(!hasShared)('accumulation', () => {
  const examples = randomExamples(16, 320, [5, 9, 14, 3, 7]);

  it('1 x 8 = 2 x 4 = 8 x 1 with token weights, although the rows have different lengths', async () => {
    const results = [];
    for (const [batch, accumulation] of [
      [8, 1],
      [4, 2],
      [1, 8],
    ]) {
      const values = setUp(examples, {
        per_device_train_batch_size: batch,
        gradient_accumulation_steps: accumulation,
        max_steps: 3,
      });
      const { result } = await run(values);
      results.push({ values, rows: rows(result.logHistory) });
    }
    const [first, ...others] = results;
    for (const other of others) {
      // Sums in another order: float32 rounding, measured 2e-7.
      other.rows.forEach((row, i) => {
        expectClose([row.loss!], [first!.rows[i]!.loss!], { abs: 1e-5 });
        expectClose([row.grad_norm!], [first!.rows[i]!.grad_norm!], { relToMax: 1e-4 });
      });
    }
  });

  it('differs from the mean of micro-batch means, and micro_mean is that', async () => {
    const split = { per_device_train_batch_size: 1, gradient_accumulation_steps: 8, max_steps: 1 };
    const token = rows((await run(setUp(examples, split))).result.logHistory)[0]!.loss!;
    const mean = rows((await run(setUp(examples, { ...split, gradient_accumulation_mode: 'micro_mean' }))).result.logHistory)[0]!
      .loss!;
    const singles = [];
    for (const example of examples.slice(0, 8)) {
      const { result } = await run(setUp([example], { max_steps: 1 }));
      singles.push({
        loss: rows(result.logHistory)[0]!.loss!,
        targets: example.labels.slice(1).filter((label) => label !== -100).length,
      });
    }
    const targets = singles.reduce((sum, row) => sum + row.targets, 0);
    expectClose([token], [singles.reduce((sum, row) => sum + row.loss * row.targets, 0) / targets], { abs: 1e-5 });
    expectClose([mean], [singles.reduce((sum, row) => sum + row.loss, 0) / 8], { abs: 1e-5 });
    expect(Math.abs(token - mean)).toBeGreaterThan(1e-3);
  });

  it('logs the token-weighted loss of all steps since the last row', async () => {
    const base = { per_device_train_batch_size: 3, max_steps: 4 };
    const each = await run(setUp(examples, base));
    const pairs = await run(setUp(examples, { ...base, logging_steps: 2 }));
    const supervised = steps(each.events).map((event) => event.supervisedTokens);
    const losses = rows(each.result.logHistory).map((row) => row.loss!);
    expect(rows(pairs.result.logHistory).map((row) => row.step)).toEqual([2, 4]);
    expectClose(
      rows(pairs.result.logHistory).map((row) => row.loss!),
      [0, 2].map(
        (i) => (losses[i]! * supervised[i]! + losses[i + 1]! * supervised[i + 1]!) / (supervised[i]! + supervised[i + 1]!),
      ),
      { abs: 1e-12 },
    );
  });
});

describe.skipIf(!hasShared)('what a run writes', () => {
  it('has the keys that LLaMA-Factory and transformers have', async () => {
    const values = setUp(randomExamples(6, 320), { num_train_epochs: 2, per_device_train_batch_size: 2, plot_loss: true });
    const { result } = await run(values);
    const output = values['output_dir'] as string;
    const lines = readFileSync(path.join(output, 'trainer_log.jsonl'), 'utf8').trim().split('\n');
    expect(lines).toHaveLength(7);
    const parsed = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(Object.keys(parsed[0]!)).toEqual([
      ...['current_steps', 'total_steps', 'loss', 'eval_loss', 'predict_loss', 'reward', 'learning_rate', 'epoch', 'percentage'],
      ...['elapsed_time', 'remaining_time'],
    ]);
    expect(parsed[0]).toMatchObject({ current_steps: 1, total_steps: 6, eval_loss: null, epoch: 0.33, percentage: 16.67 });
    expect(parsed[6]).toMatchObject({ current_steps: 6, loss: null, learning_rate: null, percentage: 100 });
    const state = readJson(output, 'trainer_state.json') as Record<string, unknown> & { log_history: LogRow[] };
    expect(Object.keys(state)).toEqual([
      ...[
        'best_metric',
        'best_model_checkpoint',
        'epoch',
        'eval_steps',
        'global_step',
        'is_hyper_param_search',
        'is_local_process_zero',
      ],
      ...[
        'is_world_process_zero',
        'log_history',
        'logging_steps',
        'max_steps',
        'num_input_tokens_seen',
        'num_train_epochs',
        'save_steps',
      ],
      ...['total_flos', 'train_batch_size', 'trial_name', 'trial_params'],
    ]);
    expect(state).toMatchObject({ global_step: 6, max_steps: 6, epoch: 2, num_train_epochs: 2, train_batch_size: 2 });
    expect(state.log_history).toEqual(JSON.parse(JSON.stringify(result.logHistory)));
    const results = readJson(output, 'all_results.json') as Record<string, unknown>;
    expect(Object.keys(results)).toEqual([
      ...['census', 'epoch', 'total_flos', 'train_loss', 'train_runtime', 'train_samples_per_second', 'train_steps_per_second'],
    ]);
    const losses = rows(result.logHistory).map((row) => row.loss!);
    expect(results['train_loss']).toBeCloseTo(losses.reduce((sum, loss) => sum + loss, 0) / 6, 12);
    expect(results['census']).toMatchObject({ rowsRead: 6, rowsKept: 6 });
    for (const name of [
      'README.md',
      'training_loss.png',
      'training_loss.svg',
      'adapter_config.json',
      'train_results.json',
      'nift_run.json',
    ])
      expect(existsSync(path.join(output, name)), name).toBe(true);
  });

  it('formats times as Python does', () => {
    expect([0, 59.6, 3725, 90061].map(clock)).toEqual(['0:00:00', '0:01:00', '1:02:05', '1 day, 1:01:01']);
  });

  it('starts from an adapter and trains it on', async () => {
    const first = setUp(randomExamples(6, 320), { max_steps: 2, lora_rank: 4, lora_target: 'q_proj,v_proj' });
    await run(first);
    const second = setUp(randomExamples(6, 320), { max_steps: 1, adapter_name_or_path: first['output_dir'] });
    await run(second);
    const [before, after] = [adapter(first), adapter(second)];
    expect([...after.keys()]).toEqual([...before.keys()]);
    for (const [name, values] of after) {
      expect(
        values.some((value, i) => value !== before.get(name)![i]),
        name,
      ).toBe(true);
      expect(
        values.every((value, i) => Math.abs(value - before.get(name)![i]!) <= 5.01e-3),
        name,
      ).toBe(true);
    }
  });

  it('trains from random weights with nothing but a config, the same ones for the same seed', async () => {
    const folder = scratch();
    const config = readJson(shared('models/tiny-llama2'), 'config.json') as object;
    writeFileSync(path.join(folder, 'config.json'), JSON.stringify({ ...config, dtype: 'float32', torch_dtype: 'float32' }));
    const weights = [];
    for (const seed of [1, 1, 2]) {
      const values = setUp(randomExamples(6, 320), {
        model_name_or_path: folder,
        finetuning_type: 'full',
        train_from_scratch: true,
        max_steps: 2,
        seed,
      });
      const { result } = await run(values);
      expect(rows(result.logHistory)[0]!.loss).toBeCloseTo(Math.log(320), 0);
      weights.push(readFileSync(path.join(values['output_dir'] as string, 'model.safetensors')));
    }
    expect(weights[0]!.equals(weights[1]!)).toBe(true);
    expect(weights[0]!.equals(weights[2]!)).toBe(false);
  });
});

describe.skipIf(!hasShared)('memory', () => {
  it('is flat over 200 steps, in tensors and in bytes', async () => {
    const examples = randomExamples(4, 320, [6]);
    const { events } = await run(
      setUp(examples, { max_steps: 200, per_device_train_batch_size: 2, gradient_accumulation_steps: 2 }),
    );
    const counts = steps(events).map((event) => event.memory.tensors);
    const bytes = steps(events).map((event) => event.memory.tensorBytes);
    expect(new Set(counts).size).toBe(1);
    expect(new Set(bytes).size).toBe(1);
    expect(messages(events, 'warning').filter((message) => message.includes('behind'))).toEqual([]);
  });

  it('leaves no tensor behind when a run is over, finished or failed', async () => {
    const before = tf.memory().numTensors;
    await run(setUp(randomExamples(4, 320), { max_steps: 2 }));
    expect(tf.memory().numTensors).toBe(before);
    await expect(run(setUp(randomExamples(4, 320), { max_steps: 6, learning_rate: 1e38, max_grad_norm: 0 }))).rejects.toThrow(
      NiftError,
    );
    expect(tf.memory().numTensors).toBe(before);
  });
});

describe.skipIf(!hasShared)('numbers that are not finite', () => {
  it('end a float32 run with the step and the rows', async () => {
    const error = await run(setUp(randomExamples(4, 320), { max_steps: 6, learning_rate: 1e38, max_grad_norm: 0 })).catch(
      (e: unknown) => e,
    );
    expect((error as NiftError).code).toBe('NIFT_NON_FINITE');
    expect((error as NiftError).message).toMatch(/at step \d+ \(rows 0, 1, 2, 3 /);
  });

  it('skip float16 steps and hold the schedule, and end at the smallest scale', async () => {
    const examples = randomExamples(8, 320);
    const common = {
      dtype: 'float16',
      hysteresis: 1,
      per_device_train_batch_size: 2,
      lr_scheduler_type: 'linear',
      max_steps: 12,
    };
    const { result, events } = await run(setUp(examples, { ...common, initial_scale_power: 24 }));
    const skipped = steps(events).filter((event) => event.skipped);
    expect(skipped.length).toBeGreaterThan(0);
    expect(skipped.length).toBeLessThan(12);
    const history = rows(result.logHistory);
    history.forEach((row, i) => {
      const before = history.slice(0, i).filter((other) => other.grad_norm !== null).length;
      expect(row.learning_rate).toBeCloseTo(5e-3 * (1 - before / 12), 12);
    });
    expect(history[11]!.skipped_steps).toBe(skipped.length);
    const error = await run(setUp(examples, { ...common, initial_scale_power: 24, min_loss_scale: 2 ** 24 })).catch(
      (e: unknown) => e,
    );
    expect((error as NiftError).code).toBe('NIFT_LOSS_SCALE');
  });

  it('never come from rows without labels', async () => {
    const examples = randomExamples(4, 320).map((row, i) => (i === 1 ? { ...row, labels: row.labels.map(() => -100) } : row));
    const { result, events } = await run(setUp(examples, { per_device_train_batch_size: 1, num_train_epochs: 1 }));
    expect(messages(events, 'warning').join()).toContain('1 of 4 rows are dropped');
    expect(rows(result.logHistory)).toHaveLength(3);
    const none = examples.map((row) => ({ ...row, labels: row.labels.map(() => -100) }));
    const error = await run(setUp(none)).catch((e: unknown) => e);
    expect((error as NiftError).code).toBe('NIFT_DATA_NO_LABELS');
    expect(existsSync(path.join(setUp(none)['output_dir'] as string))).toBe(false);
  });
});

describe.skipIf(!hasShared)('every key that shapes the training', () => {
  const examples = randomExamples(9, 320, [7, 12, 5, 9]);
  const base = { max_steps: 4, per_device_train_batch_size: 2, gradient_accumulation_steps: 2, disable_shuffling: false };
  const bytesOf = async (extra: Record<string, unknown>): Promise<Buffer> => {
    const values = setUp(examples, { ...base, ...extra });
    await run(values);
    return readFileSync(path.join(values['output_dir'] as string, 'adapter_model.safetensors'));
  };

  it('changes the adapter; the same recipe gives the same bytes', { timeout: 120_000 }, async () => {
    const plain = await bytesOf({});
    expect((await bytesOf({})).equals(plain)).toBe(true);
    for (const [key, value] of Object.entries({
      lora_rank: 4,
      lora_alpha: 8,
      lora_dropout: 0.2,
      lora_target: 'q_proj,down_proj',
      use_rslora: true,
      learning_rate: 1e-3,
      lr_scheduler_type: 'cosine',
      max_grad_norm: 0.01,
      weight_decay: 0.5,
      adam_beta1: 0.5,
      adam_beta2: 0.5,
      adam_epsilon: 1e-2,
      seed: 7,
      data_seed: 7,
      disable_shuffling: true,
      per_device_train_batch_size: 3,
      gradient_accumulation_steps: 1,
      gradient_accumulation_mode: 'micro_mean',
      dtype: 'bfloat16',
      max_samples: 5,
      cutoff_len: 6,
    }))
      expect((await bytesOf({ [key]: value })).equals(plain), key).toBe(false);
    const warm = { lr_scheduler_type: 'constant_with_warmup' };
    expect((await bytesOf({ ...warm, warmup_steps: 2 })).equals(await bytesOf({ ...warm, warmup_ratio: 0.25 }))).toBe(false);
  });
});

describe.skipIf(!hasShared)('texts', () => {
  it('halves of web pages lower the loss of stories260k', async () => {
    const folder = scratch();
    const pages = readFileSync(shared('corpus/c4_demo.jsonl'), 'utf8').trim().split('\n').slice(0, 24);
    const halves = pages.map((line) => {
      const words = (JSON.parse(line) as { text: string }).text.split(/\s+/).slice(0, 40);
      return { instruction: words.slice(0, 20).join(' '), input: '', output: words.slice(20).join(' ') };
    });
    writeFileSync(path.join(folder, 'halves.json'), JSON.stringify(halves));
    writeFileSync(path.join(folder, 'dataset_info.json'), JSON.stringify({ halves: { file_name: 'halves.json' } }));
    const values = setUp([], { model_name_or_path: shared('models/stories260k'), dataset_dir: folder, dataset: 'halves' });
    const { result } = await run({ ...values, per_device_train_batch_size: 8, num_train_epochs: 5, template: 'vanilla' });
    const losses = rows(result.logHistory).map((row) => row.loss!);
    const mean = (part: number[]): number => part.reduce((sum, loss) => sum + loss, 0) / part.length;
    expect(mean(losses.slice(-3))).toBeLessThan(mean(losses.slice(0, 3)) - 0.2);
    expect(readJson(values['output_dir'] as string, 'nift_template.json')).toMatchObject({ name: 'vanilla' });
  });
});

describe.skipIf(!hasShared)('before the first step', () => {
  it('an aborted signal stops the run after one step with a checkpoint', async () => {
    const values = setUp(randomExamples(4, 320), { max_steps: 5 });
    const { result } = await run(values, { signal: AbortSignal.abort() });
    expect(result).toMatchObject({ status: 'stopped' });
    expect(result.step).toBeLessThanOrEqual(1);
    expect((await run(values)).result.status).toBe('finished');
  });

  it('a disk too small for the planned checkpoints is an error', async () => {
    const values = setUp(randomExamples(4, 320), { num_train_epochs: 1e6, save_steps: 1, per_device_train_batch_size: 4 });
    const error = await run(values).catch((e: unknown) => e);
    expect((error as NiftError).code).toBe('NIFT_DISK_FULL');
    expect(readdirSync(values['output_dir'] as string).filter((name) => name.startsWith('checkpoint'))).toEqual([]);
  });
});
