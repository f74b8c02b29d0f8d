/** An interrupted run equals the uninterrupted one byte for byte, however it was interrupted; another run is never mixed in. */
import { spawn } from 'node:child_process';
import { appendFileSync, cpSync, existsSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { NiftError } from '../../src/errors.js';
import { listCheckpoints, verifyCheckpoint } from '../../src/train/checkpoint.js';
import type { LogRow } from '../../src/train/events.js';
import { hasShared, shared } from '../golden.js';
import { bundle } from '../../scripts/bundle.mjs';
import { messages, randomExamples, readJson, run, scratch, writeDataset } from './helpers.js';

const examples = randomExamples(9, 320, [7, 12, 5, 9]);

function setUp(extra: Record<string, unknown> = {}): Record<string, unknown> {
  const work = scratch();
  return {
    model_name_or_path: shared('models/tiny-llama2'),
    dataset_dir: writeDataset(path.join(work, 'data'), examples),
    dataset: 'data',
    output_dir: path.join(work, 'out'),
    dtype: 'float32',
    per_device_train_batch_size: 2,
    gradient_accumulation_steps: 2,
    learning_rate: 5e-3,
    lora_dropout: 0.1,
    warmup_ratio: 0.1,
    max_steps: 8,
    save_steps: 3,
    logging_steps: 2,
    ...extra,
  };
}

const adapterOf = (values: Record<string, unknown>): string =>
  path.join(values['output_dir'] as string, 'adapter_model.safetensors');
const output = (values: Record<string, unknown>, ...parts: string[]): string =>
  path.join(values['output_dir'] as string, ...parts);

/** Log rows without anything that depends on time. */
const history = (values: Record<string, unknown>): LogRow[] =>
  (readJson(output(values, 'trainer_state.json')) as { log_history: LogRow[] }).log_history.slice(0, -1);

const logLines = (values: Record<string, unknown>): Record<string, unknown>[] =>
  readFileSync(output(values, 'trainer_log.jsonl'), 'utf8')
    .trim()
    .split('\n')
    .map((line) => {
      const { elapsed_time: _elapsed, remaining_time: _remaining, ...rest } = JSON.parse(line) as Record<string, unknown>;
      return rest;
    });

async function codeOf(promise: Promise<unknown>): Promise<NiftError> {
  try {
    await promise;
  } catch (error) {
    expect(error).toBeInstanceOf(NiftError);
    return error as NiftError;
  }
  throw new Error('nothing was thrown');
}

function expectSame(actual: Record<string, unknown>, expected: Record<string, unknown>): void {
  expect(readFileSync(adapterOf(actual)).equals(readFileSync(adapterOf(expected)))).toBe(true);
  expect(history(actual)).toEqual(history(expected));
  expect(logLines(actual)).toEqual(logLines(expected));
}

describe.skipIf(!hasShared)('stopping and going on', () => {
  it('equals the straight run byte for byte, stopped after any step', async () => {
    const straight = setUp();
    await run(straight);
    for (const [mode, stops] of [
      ['token', [1, 4]],
      ['token', [3, 3, 1]],
      ['token', [7]],
    ] as const) {
      const values = setUp({ gradient_accumulation_mode: mode });
      for (const stopAfter of stops) {
        const { result } = await run(values, { stopAfter });
        expect(result.status).toBe('stopped');
        expect(verifyCheckpoint(result.checkpoint!)).toBeNull();
      }
      const { result, events } = await run(values);
      expect(result.status).toBe('finished');
      expect(events.some((event) => event.type === 'resume' && event.step === stops.reduce((sum, n) => sum + n, 0))).toBe(true);
      expectSame(values, straight);
    }
  });

  it.each([
    ['micro_mean windows that run on', { gradient_accumulation_mode: 'micro_mean', gradient_accumulation_steps: 3 }],
    ['gradient checkpointing', { gradient_checkpointing: true }],
    ['bfloat16', { dtype: 'bfloat16' }],
    ['float16 with a loss scale that moves', { dtype: 'float16', initial_scale_power: 31, loss_scale_window: 2, hysteresis: 1 }],
    ['full fine-tuning', { finetuning_type: 'full', lora_dropout: 0, learning_rate: 1e-3 }],
  ])('%s', async (_name, extra) => {
    const [straight, values] = [setUp(extra), setUp(extra)];
    await run(straight);
    await run(values, { stopAfter: 5 });
    await run(values);
    const file = existsSync(adapterOf(straight)) ? 'adapter_model.safetensors' : 'model.safetensors';
    expect(readFileSync(output(values, file)).equals(readFileSync(output(straight, file)))).toBe(true);
    expect(history(values)).toEqual(history(straight));
  });

  it('turns gradient checkpointing on in the middle without changing a bit', async () => {
    const [straight, values] = [setUp(), setUp()];
    await run(straight);
    await run(values, { stopAfter: 4 });
    const { events } = await run({ ...values, gradient_checkpointing: true });
    expect(messages(events, 'notice').join()).toContain('gradient_checkpointing: false -> true');
    expectSame(values, straight);
  });

  it('falls back to the newest checkpoint whose files are whole', async () => {
    const [straight, values] = [setUp(), setUp()];
    await run(straight);
    await run(values, { stopAfter: 7 });
    expect(listCheckpoints(output(values))).toEqual([7, 6, 3]);
    truncateSync(output(values, 'checkpoint-7', 'trainer.safetensors'), 100);
    const bytes = readFileSync(output(values, 'checkpoint-6', 'adapter_model.safetensors'));
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(output(values, 'checkpoint-6', 'adapter_model.safetensors'), bytes);
    const { events } = await run(values);
    expect(messages(events, 'warning').filter((message) => message.includes('not used'))).toEqual([
      expect.stringContaining('trainer.safetensors has 100 bytes'),
      expect.stringContaining('adapter_model.safetensors does not have the recorded SHA-256'),
    ]);
    expect(events.some((event) => event.type === 'resume' && event.step === 3)).toBe(true);
    expectSame(values, straight);
  });

  it('starts anew when it was killed before its first checkpoint, and mends a torn log line', async () => {
    const [straight, values] = [setUp(), setUp()];
    await run(straight);
    await run(values, { stopAfter: 2 });
    rmSync(output(values, 'checkpoint-2'), { recursive: true });
    appendFileSync(output(values, 'trainer_log.jsonl'), '{"current_steps": 3, "total');
    await run(values);
    expectSame(values, straight);
  });

  it('writes the result again when it was killed between the last checkpoint and the end', async () => {
    const values = setUp();
    await run(values);
    const adapter = readFileSync(adapterOf(values));
    const before = { history: history(values), lines: logLines(values) };
    const runFile = output(values, 'nift_run.json');
    writeFileSync(runFile, JSON.stringify({ ...(readJson(runFile) as object), finished: null }));
    for (const name of ['adapter_model.safetensors', 'trainer_state.json', 'all_results.json']) rmSync(output(values, name));
    const { result, events } = await run(values);
    expect(result.status).toBe('finished');
    expect(events.some((event) => event.type === 'step')).toBe(false);
    expect(readFileSync(adapterOf(values)).equals(adapter)).toBe(true);
    expect({ history: history(values), lines: logLines(values) }).toEqual(before);
    expect(existsSync(output(values, 'all_results.json'))).toBe(true);
  });

  it('neither uses nor counts checkpoints of another run or damaged ones, and never deletes its own newest', async () => {
    const [straight, values, other] = [setUp(), setUp({ save_steps: 1, save_total_limit: 1 }), setUp({ learning_rate: 1e-3 })];
    await run(straight);
    await run(other);
    await run(values, { stopAfter: 2 });
    cpSync(output(other, 'checkpoint-6'), output(values, 'checkpoint-6'), { recursive: true });
    cpSync(output(straight, 'checkpoint-8'), output(values, 'checkpoint-7'), { recursive: true });
    rmSync(output(values, 'checkpoint-7', 'adapter_config.json'));
    const { events } = await run(values, { stopAfter: 2 });
    expect(events.some((event) => event.type === 'resume' && event.step === 2)).toBe(true);
    expect(messages(events, 'warning').join()).toContain('learning_rate: 0.001 -> 0.005');
    expect(listCheckpoints(output(values))).toEqual([7, 6, 4]);
    await run(values);
    expectSame(values, straight);
  });

  it('keeps the newest N checkpoints', async () => {
    const values = setUp({ save_steps: 1, save_total_limit: 2 });
    await run(values);
    expect(listCheckpoints(output(values))).toEqual([8, 7]);
  });

  it('saves by the clock', async () => {
    const values = setUp({ save_steps: 100, save_minutes: 1e-9, max_steps: 3 });
    await run(values);
    expect(listCheckpoints(output(values))).toEqual([3, 2, 1]);
  });
});

describe.skipIf(!hasShared)('what a folder holds already', () => {
  it('leaves a finished run as it is', async () => {
    const values = setUp({ max_steps: 2 });
    await run(values);
    const before = readdirSync(output(values)).map((name) => [name, readFileSyncOrDir(output(values, name))]);
    const { result, events } = await run(values);
    expect(result).toMatchObject({ status: 'already-finished', step: 2 });
    expect(events.some((event) => event.type === 'step')).toBe(false);
    expect(readdirSync(output(values)).map((name) => [name, readFileSyncOrDir(output(values, name))])).toEqual(before);
  });

  it('refuses a changed recipe and names the key, the old value and the new one', async () => {
    const values = setUp();
    await run(values, { stopAfter: 1 });
    const error = await codeOf(run({ ...values, learning_rate: 1e-3, lora_rank: 4 }));
    expect(error.code).toBe('NIFT_RESUME');
    expect(error.message).toContain('learning_rate: 0.005 -> 0.001');
    expect(error.message).toContain('lora_rank: 8 -> 4');
  });

  it('starts anew under another recipe when the first attempt never came to a checkpoint', async () => {
    const values = setUp({ max_steps: 3 });
    await codeOf(run({ ...values, learning_rate: 1e38, max_grad_norm: 0 }));
    expect(existsSync(output(values, 'nift_run.json'))).toBe(true);
    const { result } = await run(values);
    expect(result.status).toBe('finished');
    expect(logLines(values).map((line) => line['current_steps'])).toEqual([2, 3, 3]);
  });

  it('refuses other rows under the same name', async () => {
    const values = setUp();
    await run(values, { stopAfter: 1 });
    writeDataset(values['dataset_dir'] as string, randomExamples(9, 300, [6]));
    const error = await codeOf(run(values));
    expect(error.code).toBe('NIFT_RESUME');
    expect(error.message).toContain('the training rows changed');
  });

  it('allows keys that do not touch the numbers', async () => {
    const [straight, values] = [setUp({ logging_steps: 1 }), setUp({ logging_steps: 1 })];
    await run(straight);
    await run(values, { stopAfter: 4 });
    const { events } = await run({ ...values, save_steps: 1, plot_loss: true });
    expect(messages(events, 'notice').join()).toContain('save_steps: 3 -> 1');
    expectSame(values, straight);
    expect(existsSync(output(values, 'training_loss.svg'))).toBe(true);
  });

  it('refuses a folder with files of somebody else, unless told to overwrite', async () => {
    const values = setUp({ max_steps: 1 });
    writeDataset(output(values), examples);
    const error = await codeOf(run(values));
    expect(error.code).toBe('NIFT_OUTPUT_DIR');
    await run({ ...values, overwrite_output_dir: true });
    expect(readdirSync(output(values))).toEqual(expect.arrayContaining(['data.jsonl', 'adapter_model.safetensors']));
  });

  it('starts anew with overwrite_output_dir, and not at all with resume_from_checkpoint: false', async () => {
    const values = setUp({ max_steps: 2 });
    await run(values);
    expect((await codeOf(run({ ...values, resume_from_checkpoint: false }))).code).toBe('NIFT_OUTPUT_DIR');
    const { result, events } = await run({ ...values, learning_rate: 1e-3, overwrite_output_dir: true });
    expect(result.status).toBe('finished');
    expect(events.filter((event) => event.type === 'step')).toHaveLength(2);
    expect(logLines(values).map((line) => line['current_steps'])).toEqual([2, 2]);
  });

  it('goes on from a named checkpoint in another folder', async () => {
    const [straight, values] = [setUp({ logging_steps: 8 }), setUp({ logging_steps: 8 })];
    await run(straight);
    await run({ ...values, resume_from_checkpoint: output(straight, 'checkpoint-3') });
    expect(readFileSync(adapterOf(values)).equals(readFileSync(adapterOf(straight)))).toBe(true);
  });
});

function readFileSyncOrDir(file: string): string {
  try {
    return readFileSync(file, 'latin1');
  } catch {
    return readdirSync(file).join();
  }
}

describe.skipIf(!hasShared)('SIGKILL at any moment', () => {
  /** Runs until the process has printed `steps` steps and `delayMs` more have passed; then kills it. Resolves to true when it finished first. */
  function runAndKill(child: string, recipeFile: string, steps: number, delayMs: number): Promise<boolean> {
    return new Promise((resolve, reject) => {
      const process_ = spawn(process.execPath, [child, recipeFile], { stdio: ['ignore', 'pipe', 'pipe'] });
      let seen = 0;
      let errors = '';
      process_.stderr.on('data', (chunk: Buffer) => (errors += chunk.toString()));
      process_.stdout.on('data', (chunk: Buffer) => {
        const before = seen;
        seen += chunk.toString().split('\n').length - 1;
        if (before < steps && seen >= steps) setTimeout(() => process_.kill('SIGKILL'), delayMs);
      });
      process_.on('error', reject);
      process_.on('exit', (code, signal) => {
        if (signal === 'SIGKILL') resolve(false);
        else if (code === 0) resolve(true);
        else reject(new Error(`exit ${code}: ${errors}`));
      });
    });
  }

  it('ends with the bytes of the straight run', { timeout: 600_000 }, async () => {
    const settings = { max_steps: 30, save_steps: 1, save_total_limit: 2, logging_steps: 1 };
    const straight = setUp(settings);
    await run(straight);
    const values = setUp(settings);
    const recipeFile = path.join(scratch(), 'recipe.json');
    writeFileSync(recipeFile, JSON.stringify(values));
    const child = await bundle(fileURLToPath(new URL('./child.ts', import.meta.url)));
    const kills = process.env['NIFT_SLOW'] === '1' ? 25 : 3;
    for (let i = 0; i < kills; i++) if (await runAndKill(child, recipeFile, 1 + (i % 3), Math.random() * 60)) break;
    await run(values);
    expectSame(values, straight);
    expect(readdirSync(output(values)).filter((name) => /\.(tmp|old)-/.test(name))).toEqual([]);
  });
});
