/** The order of rows in every reference run; test/train/windows.test.ts has the arithmetic. */
import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { Windows } from '../../src/train/windows.js';
import type { WindowOptions } from '../../src/train/windows.js';
import { hasShared, shared } from '../golden.js';

interface Case {
  examples: unknown[];
  schedule: number[][][];
  num_steps: number;
  num_epochs: number | null;
  grad_accum_loss: 'micro_mean' | 'token_norm';
  per_device_batch_size: number;
  gradient_accumulation_steps: number;
}

const base: WindowOptions = {
  rows: 1,
  batchSize: 1,
  accumulation: 1,
  mode: 'token',
  epochs: 1,
  maxSteps: -1,
  shuffle: false,
  seed: 1,
};

describe.skipIf(!hasShared)('reference schedules', () => {
  const names = hasShared ? readdirSync(shared('golden', 'train')) : [];
  it.each(names)('%s', (name) => {
    const golden = JSON.parse(readFileSync(shared('golden', 'train', name, 'case.json'), 'utf8')) as Case;
    const windows = new Windows({
      ...base,
      rows: golden.examples.length,
      batchSize: golden.per_device_batch_size,
      accumulation: golden.gradient_accumulation_steps,
      mode: golden.grad_accum_loss === 'token_norm' ? 'token' : 'micro_mean',
      epochs: golden.num_epochs ?? 3,
      maxSteps: golden.num_epochs === null ? golden.num_steps : -1,
    });
    expect(windows.plan.totalSteps).toBe(golden.num_steps);
    // Backwards: a resumed run starts anywhere.
    for (let step = golden.num_steps - 1; step >= 0; step--) expect(windows.step(step)).toEqual(golden.schedule[step]);
  });
});
