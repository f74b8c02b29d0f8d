/**
 * Which rows make up which optimizer step: a pure function of the step number, so that a resumed run needs no cursor but
 * the step itself.
 *
 * Every epoch is one order of the rows (seeded permutation, or 0..n-1), cut into micro-batches of `batchSize`; the last one
 * may be smaller and is never dropped. Micro-batches are grouped into windows of `accumulation`:
 *
 *   token       a window ends with its epoch, so the last one of an epoch may hold fewer micro-batches.
 *               Steps per epoch = ceil(m / a).
 *   micro_mean  transformers 4.37 (LLaMA-Factory 0.5.2): windows run on into the next epoch.
 *               Steps per epoch = max(1, floor(m / a)), all = ceil(epochs * that), so a few micro-batches at the end of the
 *               run are left over. Differs: with fewer micro-batches in an epoch than `accumulation` a window is the epoch
 *               and its mean is taken over what it holds (4.37 also cut extra windows there and divided by `accumulation`).
 */
import { Random, deriveSeed } from '../random.js';

export type AccumulationMode = 'token' | 'micro_mean';

export interface WindowOptions {
  rows: number;
  batchSize: number;
  accumulation: number;
  mode: AccumulationMode;
  epochs: number;
  /** Wins over `epochs` when positive. */
  maxSteps: number;
  shuffle: boolean;
  seed: number;
}

export interface StepPlan {
  microBatchesPerEpoch: number;
  stepsPerEpoch: number;
  totalSteps: number;
  /** Passes over the data that `totalSteps` make, a fraction when the last one is cut short. */
  epochs: number;
}

export function planSteps(options: WindowOptions): StepPlan {
  const micro = Math.ceil(options.rows / options.batchSize);
  const stepsPerEpoch =
    options.mode === 'token' ? Math.ceil(micro / options.accumulation) : Math.max(1, Math.floor(micro / options.accumulation));
  const totalSteps = options.maxSteps > 0 ? options.maxSteps : Math.ceil(options.epochs * stepsPerEpoch);
  const plan = { microBatchesPerEpoch: micro, stepsPerEpoch, totalSteps, epochs: 0 };
  return { ...plan, epochs: epochAfter(plan, options, totalSteps) };
}

/** Micro-batches (in the endless stream of epochs) that step `step` (0-based) covers: [first, end). */
function span(plan: Omit<StepPlan, 'epochs'>, options: WindowOptions, step: number): [number, number] {
  const m = plan.microBatchesPerEpoch;
  const a = options.accumulation;
  if (options.mode === 'micro_mean' && m >= a) return [step * a, (step + 1) * a];
  const epoch = Math.floor(step / plan.stepsPerEpoch);
  const inEpoch = (step % plan.stepsPerEpoch) * a;
  return [epoch * m + inEpoch, epoch * m + Math.min(m, inEpoch + a)];
}

/** Passes over the data made after `steps` optimizer steps; this is the `epoch` of a log row. */
export function epochAfter(plan: Omit<StepPlan, 'epochs'>, options: WindowOptions, steps: number): number {
  return steps === 0 ? 0 : span(plan, options, steps - 1)[1] / plan.microBatchesPerEpoch;
}

/** Serves the row numbers of every step; keeps the order of one epoch at a time. */
export class Windows {
  readonly plan: StepPlan;
  private readonly orders = new Map<number, Uint32Array | null>();

  constructor(private readonly options: WindowOptions) {
    this.plan = planSteps(options);
  }

  /** Row numbers of each micro-batch of step `step` (0-based). */
  step(step: number): number[][] {
    const [first, end] = span(this.plan, this.options, step);
    const batches: number[][] = [];
    for (let i = first; i < end; i++) batches.push(this.microBatch(i));
    return batches;
  }

  epochAfter(steps: number): number {
    return epochAfter(this.plan, this.options, steps);
  }

  private microBatch(index: number): number[] {
    const { batchSize, rows } = this.options;
    const epoch = Math.floor(index / this.plan.microBatchesPerEpoch);
    const first = (index % this.plan.microBatchesPerEpoch) * batchSize;
    const order = this.order(epoch);
    const size = Math.min(batchSize, rows - first);
    return Array.from({ length: size }, (_, i) => (order === null ? first + i : (order[first + i] ?? 0)));
  }

  private order(epoch: number): Uint32Array | null {
    if (!this.options.shuffle) return null;
    const known = this.orders.get(epoch);
    if (known !== undefined) return known;
    // A window of micro_mean touches two epochs at most.
    for (const old of this.orders.keys()) if (old < epoch - 1) this.orders.delete(old);
    const order = new Random(deriveSeed(this.options.seed, 'shuffle'), epoch).permutation(this.options.rows);
    this.orders.set(epoch, order);
    return order;
  }
}
