import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { learningRate, warmupSteps, type SchedulerType } from '../../src/train/schedule.js';
import { hasShared, shared } from '../golden.js';

interface Case {
  lr_scheduler_type: SchedulerType;
  num_training_steps: number;
  num_warmup_steps: number;
  multiplier_used_by_step: number[];
  multiplier_after_last_step: number;
}

describe.skipIf(!hasShared)('learning-rate schedules of transformers', () => {
  const cases = hasShared ? (JSON.parse(readFileSync(shared('golden/units/lr_schedules.json'), 'utf8')) as Case[]) : [];
  it.each(cases)('$lr_scheduler_type, $num_training_steps steps, warm-up $num_warmup_steps', (golden) => {
    const schedule = {
      type: golden.lr_scheduler_type,
      peak: 1,
      warmupSteps: golden.num_warmup_steps,
      totalSteps: golden.num_training_steps,
    };
    golden.multiplier_used_by_step.forEach((multiplier, k) => expect(learningRate(schedule, k)).toBeCloseTo(multiplier, 14));
    expect(learningRate(schedule, golden.num_training_steps)).toBeCloseTo(golden.multiplier_after_last_step, 14);
  });
});

describe('the published run', () => {
  // 936 updates at 5e-5; values of the protocol's table.
  it.each([
    [0, 5e-5],
    [117, 4.8097e-5],
    [234, 4.2678e-5],
    [468, 2.5e-5],
    [702, 7.3223e-6],
    [935, 1.408e-10],
  ])('cosine update %i runs at %f', (k, rate) => {
    const value = learningRate({ type: 'cosine', peak: 5e-5, warmupSteps: 0, totalSteps: 936 }, k);
    expect(Math.abs(value - rate)).toBeLessThan(rate * 3e-4);
  });
});

describe('warm-up', () => {
  it('rounds the ratio up and lets an explicit number win', () => {
    expect(warmupSteps({ steps: 0, ratio: 0.1, totalSteps: 12 })).toBe(2);
    expect(warmupSteps({ steps: 5, ratio: 0.1, totalSteps: 12 })).toBe(5);
    expect(warmupSteps({ steps: 0, ratio: 0, totalSteps: 12 })).toBe(0);
  });
  it('never divides by zero when the warm-up covers the whole run', () => {
    const schedule = { type: 'cosine' as const, peak: 1, warmupSteps: 4, totalSteps: 4 };
    expect([0, 1, 2, 3, 4].map((k) => learningRate(schedule, k))).toEqual([0, 0.25, 0.5, 0.75, 1]);
  });
});
