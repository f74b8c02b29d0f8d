/**
 * One optimizer step: gradients of a window of micro-batches, then AdamW.
 *
 *   token       L = sum over the window of nll / targets of the window
 *   micro_mean  L = mean over micro-batches of (sum of nll / targets of the micro-batch)
 *
 * Each micro-batch's nll is weighted by its share before the backward pass, so gradients only need to be added up.
 * A micro-batch without targets contributes 0. In float16 the weights carry the loss scale; AdamW divides it out again.
 */
import { tf, type Tensor, type Tensor1D, type Variable } from '../backend/tf.js';
import type { PackedBatch } from '../data/batch.js';
import { NiftError } from '../errors.js';
import type { AccumulationMode } from './windows.js';
import { lossAndGradients } from './backward.js';

export interface MicroBatch {
  batch: PackedBatch;
  /** Numbers of its rows in the dataset, for messages. */
  rows: number[];
  /** Supervised tokens. */
  targets: number;
  dropoutSeed: number | undefined;
}

/** What the trainer needs of a model. */
export interface TrainableModel {
  trainable(): Map<string, Variable>;
  nll(batch: PackedBatch, options: { dropoutSeed?: number }): Tensor1D;
}

/** Gradients of a window as they add up, one tensor per parameter. */
export class GradientSum {
  private sums: (Tensor | null)[] | null = null;

  /** Takes ownership of `grads`. */
  add(grads: (Tensor | null)[]): void {
    if (this.sums === null) {
      this.sums = grads;
      return;
    }
    this.sums = this.sums.map((sum, i) => {
      const grad = grads[i] ?? null;
      if (sum === null || grad === null) return sum ?? grad;
      const total = tf.add(sum, grad);
      tf.dispose([sum, grad]);
      return total;
    });
  }

  /** One gradient per parameter, zeros where nothing flowed. The caller disposes them. */
  take(params: readonly Variable[]): Tensor[] {
    const sums = this.sums ?? params.map(() => null);
    this.sums = null;
    return params.map((param, i) => sums[i] ?? tf.zeros(param.shape));
  }

  dispose(): void {
    if (this.sums !== null) tf.dispose(this.sums.filter((sum) => sum !== null));
    this.sums = null;
  }
}

/** Weight of each token's nll in the step's loss. */
export function tokenWeight(mode: AccumulationMode, micro: readonly MicroBatch[], index: number): number {
  const targets =
    mode === 'token' ? micro.reduce((sum, { targets }) => sum + targets, 0) : (micro[index]?.targets ?? 0) * micro.length;
  return targets === 0 ? 0 : 1 / targets;
}

/**
 * Adds the gradients of one micro-batch.
 * @param weight factor of each token's nll, the loss scale included
 * @returns sum of nll over the micro-batch, unscaled, in double precision
 */
export function accumulate(model: TrainableModel, micro: MicroBatch, weight: number, sum: GradientSum): number {
  if (micro.targets === 0) return 0;
  const variables = [...model.trainable().values()];
  let total = 0;
  const { loss, grads } = lossAndGradients(() => {
    const nll = model.nll(micro.batch, micro.dropoutSeed === undefined ? {} : { dropoutSeed: micro.dropoutSeed });
    for (const value of nll.dataSync()) total += value;
    return tf.mul<tf.Scalar>(tf.sum(nll), weight);
  }, variables);
  loss.dispose();
  sum.add(grads);
  return total;
}

/** @throws NIFT_NON_FINITE that names the step and the rows */
export function nonFinite(what: string, step: number, rows: readonly number[]): NiftError {
  const shown = rows.slice(0, 8).join(', ') + (rows.length > 8 ? ', ...' : '');
  return new NiftError(
    'NIFT_NON_FINITE',
    `${what} is not finite at step ${step} (rows ${shown} of the training data, counted from 0)`,
    {
      hint: 'Lower learning_rate, or run again with NIFT_CHECK=1 to see the first op that makes it. The last checkpoint is untouched.',
      details: { step, rows: [...rows] },
      exitCode: 1,
    },
  );
}
