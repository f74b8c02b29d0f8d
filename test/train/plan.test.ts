/** The plan against the run: numbers by hand, and predicted memory against a fresh process's measured peak. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { SHAPES, makeCheckpoint, shapeConfig } from '../../bench/shapes.js';
import type { TrainCase } from '../../bench/train.js';
import { addon } from '../../src/backend/addon.js';
import { parseModelConfig } from '../../src/model/config.js';
import { planMemory, type MemoryQuestion } from '../../src/train/memoryPlan.js';
import { planTraining } from '../../src/train/plan.js';
import { bundle } from '../../scripts/bundle.mjs';
import { randomExamples, recipe, scratch, writeDataset } from './helpers.js';

function plan(extra: Record<string, unknown> = {}) {
  const work = scratch();
  const model = makeCheckpoint(path.join(work, 'model'), { ...SHAPES['XS']!, layers: 2, vocab: 320 }, 'bfloat16');
  const values = {
    model_name_or_path: model,
    dataset_dir: writeDataset(path.join(work, 'data'), randomExamples(10, 320, [4, 8])),
    dataset: 'data',
    output_dir: path.join(work, 'not', 'there', 'yet'),
    per_device_train_batch_size: 3,
    gradient_accumulation_steps: 2,
    num_train_epochs: 2,
    save_steps: 3,
    warmup_ratio: 0.1,
    ...extra,
  };
  return planTraining(recipe(values));
}

describe('planTraining', () => {
  it('counts parameters, steps, tokens and saves', async () => {
    const { model, method, dtype, data, steps, disk } = await plan();
    const [c, f, v] = [128, 352, 320];
    expect(model.parameters).toBe(2 * v * c + c + 2 * (4 * c * c + 3 * c * f + 2 * c));
    expect(method).toMatchObject({ type: 'lora', trainableTensors: 28, trainableParameters: 2 * 8 * (4 * 2 * c + 3 * (c + f)) });
    expect(dtype).toMatchObject({ checkpoint: 'bfloat16', storage: 'bfloat16', compute: 'bfloat16' });
    expect(data).toMatchObject({ rows: 10, tokens: 60, supervisedTokens: 5 * (2 + 5), longestRow: 8 });
    // Four micro-batches an epoch, the last of one row; two windows an epoch.
    expect(steps).toMatchObject({
      microBatchesPerEpoch: 4,
      stepsPerEpoch: 2,
      totalSteps: 4,
      epochs: 2,
      warmupSteps: 1,
      rowsPerStep: 6,
    });
    expect(disk.saves).toEqual([3, 4]);
    expect(disk.bytesPerSave).toBe(16 * method.trainableParameters);
    expect(disk.free).toBeGreaterThan(0);
  });

  it('finds the largest micro-batch that the shuffled run really has', async () => {
    const { data } = await plan({ per_device_train_batch_size: 10 });
    expect(data.largestBatchTokens).toBe(60);
    const single = await plan({ per_device_train_batch_size: 1 });
    expect(single.data.largestBatchTokens).toBe(8);
  });

  it('trains every weight as a float32 master', async () => {
    const { model, method, dtype, memory } = await plan({ finetuning_type: 'full' });
    expect(method.trainableParameters).toBe(model.parameters);
    expect(dtype.storage).toBe('float32');
    expect(memory).toMatchObject({ frozenWeights: 0, trainable: 4 * model.parameters, optimizer: 8 * model.parameters });
  });

  it('says when memory or context does not suffice', async () => {
    const { warnings, memory } = await plan({ per_device_train_batch_size: 10 });
    expect(memory.total).toBeLessThan(memory.available);
    expect(warnings.join()).not.toContain('of memory needed');
  });
});

describe('planMemory', () => {
  const question = (extra: Partial<MemoryQuestion> = {}): MemoryQuestion => ({
    config: parseModelConfig(shapeConfig(SHAPES['L']!, 'bfloat16')),
    fileDtype: 'bfloat16',
    storage: 'bfloat16',
    full: false,
    trainableParameters: 6_307_840,
    adapters: [],
    dropout: false,
    checkpointing: false,
    batchTokens: 512,
    batchTargets: 511,
    accumulation: 1,
    dataTokens: 1024,
    varied: false,
    text: false,
    native: true,
    ...extra,
  });

  it('falls with checkpointing, grows with dropout, accumulation, conversion and batches of different sizes', () => {
    const { total } = planMemory(question());
    expect(planMemory(question({ checkpointing: true })).total).toBeLessThan(total - 500e6);
    expect(planMemory(question({ dropout: true, adapters: [{ r: 8, in: 2048, out: 2048 }] })).total).toBeGreaterThan(total);
    expect(planMemory(question({ accumulation: 2 })).total).toBe(total + 4 * 6_307_840);
    expect(planMemory(question({ varied: true })).total).toBeGreaterThan(total + 60e6);
    expect(planMemory(question({ fileDtype: 'float32' })).total).toBeGreaterThan(total + 4e9);
  });
});

describe.skipIf(addon() === null)('measured peak of a fresh process', () => {
  // More shapes, S to L, by hand: see bench/train.ts.
  const cases =
    process.env['NIFT_SLOW'] === '1' ? ['XS float32', 'XS bfloat16', 'S bfloat16', 'S float32', 'M bfloat16'] : ['S bfloat16'];

  it.each(cases)('%s: within 10 % of the plan', { timeout: 300_000 }, async (name) => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'nift-plan-'));
    try {
      const file = await bundle(fileURLToPath(new URL('../../bench/train.ts', import.meta.url)));
      const { stdout } = await promisify(execFile)(process.execPath, [file, 'case', ...name.split(' '), '2', folder]);
      const result = JSON.parse(stdout) as TrainCase;
      expect(result.measuredOverPlanned, JSON.stringify(result.plan)).toBeGreaterThan(0.9);
      expect(result.measuredOverPlanned, JSON.stringify(result.plan)).toBeLessThan(1.1);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
