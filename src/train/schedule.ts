/**
 * Learning-rate schedules of transformers (`get_scheduler`), as pure functions of the update number.
 *
 *   warm-up    k / W                                   for k < W
 *   cosine     0.5 * (1 + cos(pi * (k - W) / (T - W)))  half a period, down to zero
 *   linear     (T - k) / (T - W)
 *   constant   1
 *
 * k = updates already made (so the first update of a warm-up runs at 0), W = warm-up updates, T = all updates.
 * Source: transformers `optimization.py`; values checked against golden/units/lr_schedules.json.
 */
export const SCHEDULER_TYPES = ['cosine', 'linear', 'constant', 'constant_with_warmup'] as const;
export type SchedulerType = (typeof SCHEDULER_TYPES)[number];

export interface Schedule {
  type: SchedulerType;
  /** Learning rate at the top. */
  peak: number;
  warmupSteps: number;
  totalSteps: number;
}

/** Learning rate of the update that follows `updates` updates. */
export function learningRate(schedule: Schedule, updates: number): number {
  return schedule.peak * multiplier(schedule, updates);
}

function multiplier({ type, warmupSteps, totalSteps }: Schedule, updates: number): number {
  // transformers' plain `constant` knows no warm-up; `constant_with_warmup` does.
  if (type !== 'constant' && updates < warmupSteps) return updates / Math.max(1, warmupSteps);
  if (type === 'constant' || type === 'constant_with_warmup') return 1;
  const decaySteps = Math.max(1, totalSteps - warmupSteps);
  if (type === 'linear') return Math.max(0, (totalSteps - updates) / decaySteps);
  const progress = (updates - warmupSteps) / decaySteps;
  return Math.max(0, 0.5 * (1 + Math.cos(Math.PI * progress)));
}

/** `warmup_steps` wins when it is positive, otherwise ceil(warmup_ratio * totalSteps), as in transformers. */
export function warmupSteps(options: { steps: number; ratio: number; totalSteps: number }): number {
  return options.steps > 0 ? options.steps : Math.ceil(options.ratio * options.totalSteps);
}
