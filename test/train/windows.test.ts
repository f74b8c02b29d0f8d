import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { Windows, planSteps, type WindowOptions } from '../../src/train/windows.js';
import { hasShared, shared } from '../golden.js';

const base: WindowOptions = {
  rows: 11,
  batchSize: 2,
  accumulation: 4,
  mode: 'token',
  epochs: 6,
  maxSteps: -1,
  shuffle: false,
  seed: 42,
};

const all = (options: WindowOptions): number[][][] => {
  const windows = new Windows(options);
  return Array.from({ length: windows.plan.totalSteps }, (_, step) => windows.step(step));
};

describe.skipIf(!hasShared)('ragged windows', () => {
  it.each([
    ['stories260k-ragged-modern-tokennorm', 'token'],
    ['stories260k-ragged-legacy-micromean', 'micro_mean'],
  ] as const)('%s', (name, mode) => {
    const golden = JSON.parse(readFileSync(shared('golden/train', name, 'case.json'), 'utf8')) as { schedule: number[][][] };
    expect(all({ ...base, mode })).toEqual(golden.schedule);
  });
});

describe('windows', () => {
  it('counts steps as LLaMA-Factory 0.5.2 does', () => {
    // Protocol B.7, seen by one of eight devices: micro-batches per device and epoch, updates per epoch, all updates.
    for (const [micro, perEpoch, total] of [
      [16, 4, 12],
      [79, 19, 57],
      [813, 203, 609],
      [1250, 312, 936],
    ] as const) {
      const plan = planSteps({ ...base, rows: micro, batchSize: 1, mode: 'micro_mean', epochs: 3 });
      expect([plan.stepsPerEpoch, plan.totalSteps]).toEqual([perEpoch, total]);
    }
    const published = planSteps({ ...base, rows: 1250, batchSize: 1, mode: 'micro_mean', epochs: 3 });
    expect(published.epochs).toBeCloseTo(2.9952, 10);
  });

  it('visits every row once per epoch in token mode, whatever the sizes', () => {
    for (const rows of [1, 2, 7, 16, 17])
      for (const batchSize of [1, 2, 5])
        for (const accumulation of [1, 3, 8]) {
          const options = { ...base, rows, batchSize, accumulation, epochs: 2, shuffle: true };
          const windows = new Windows(options);
          const { stepsPerEpoch } = windows.plan;
          for (const epoch of [0, 1]) {
            const seen = Array.from({ length: stepsPerEpoch }, (_, i) => windows.step(epoch * stepsPerEpoch + i)).flat(2);
            expect([...seen].sort((a, b) => a - b)).toEqual(Array.from({ length: rows }, (_, i) => i));
          }
          expect(windows.epochAfter(stepsPerEpoch)).toBe(1);
        }
  });

  it('shuffles differently per epoch and seed, and equally when asked again in any order', () => {
    const options = { ...base, rows: 40, accumulation: 2, shuffle: true };
    const steps = all(options);
    const { stepsPerEpoch } = planSteps(options);
    expect(steps[0]).not.toEqual(steps[stepsPerEpoch]);
    expect(all({ ...options, seed: 43 })).not.toEqual(steps);
    const late = new Windows(options);
    for (const step of [25, 3, 24, 59, 0]) expect(late.step(step)).toEqual(steps[step]);
  });

  it('keeps a window with fewer micro-batches than asked for', () => {
    expect(all({ ...base, rows: 3, mode: 'micro_mean', epochs: 2 })).toEqual([
      [[0, 1], [2]],
      [[0, 1], [2]],
    ]);
  });

  it('lets max_steps win and goes on into further epochs', () => {
    const windows = new Windows({ ...base, maxSteps: 5 });
    expect(windows.plan.totalSteps).toBe(5);
    expect(windows.plan.epochs).toBeCloseTo(2 + 4 / 6, 12);
    expect(windows.step(4)).toEqual([
      [0, 1],
      [2, 3],
      [4, 5],
      [6, 7],
    ]);
  });
});
