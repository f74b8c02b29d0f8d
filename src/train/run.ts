/** One run in memory: its model, optimizer and counters, and the loop over steps. */
import path from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { tf, type Variable } from '../backend/tf.js';
import type { RecipeValues } from '../config/recipe.js';
import { collate } from '../data/batch.js';
import { NiftError } from '../errors.js';
import type { CausalLM } from '../model/causalLM.js';
import { adamw, createAdamWState, disposeAdamWState, type AdamWState } from '../ops/adamw.js';
import { placeSeed } from '../ops/dropout.js';
import { readCheckpoint, restoreTensors, rotateCheckpoints, saveCheckpoint, type TrainingState } from './checkpoint.js';
import type { TrainingData } from './data.js';
import type { LogRow, OnEvent, SummaryRow, TrainResult } from './events.js';
import { finiteOrNull, TrainerLog, trainerState, type RunFacts } from './logs.js';
import { DEFAULT_LOSS_SCALE, LossScaler } from './lossScale.js';
import { saveModel } from './method.js';
import type { RunIdentity } from './outputFolder.js';
import { freeBytes, windowOptions, type TrainingPlan } from './plan.js';
import { LeakWatch, measureMemory, Speedometer } from './progress.js';
import { writeResult } from './result.js';
import { learningRate, type Schedule } from './schedule.js';
import { accumulate, GradientSum, nonFinite, tokenWeight, type MicroBatch } from './step.js';
import { Windows } from './windows.js';

export interface RunParts {
  values: RecipeValues;
  plan: TrainingPlan;
  data: TrainingData;
  identity: RunIdentity;
  model: CausalLM;
  emit: OnEvent;
}

interface StepOutcome {
  loss: number;
  gradNorm: number;
  skipped: boolean;
  learningRate: number;
  lossScale: number | null;
  tokens: number;
  targets: number;
  rows: number;
}

export class Run {
  private readonly windows: Windows;
  private readonly schedule: Schedule;
  private readonly params: Map<string, Variable>;
  private readonly optimizer: AdamWState;
  private readonly speed = new Speedometer();
  private readonly leaks = new LeakWatch();
  /** Names of parameters whose gradient has been zero in every step so far; null once that is settled. */
  private silent: Set<string> | null;
  private scaler: LossScaler | null;
  private state: TrainingState;
  private log: TrainerLog | null = null;
  private lastSave = performance.now();
  private checkpoint: string | null = null;

  constructor(private readonly parts: RunParts) {
    const { values, plan, data, model } = parts;
    this.windows = new Windows(windowOptions(values, data.rows.length));
    this.schedule = {
      type: values.lr_scheduler_type,
      peak: values.learning_rate,
      warmupSteps: plan.steps.warmupSteps,
      totalSteps: plan.steps.totalSteps,
    };
    this.params = model.trainable();
    this.optimizer = createAdamWState([...this.params.values()]);
    this.silent = new Set(this.params.keys());
    this.scaler = makeScaler(values);
    this.state = {
      step: 0,
      updates: 0,
      lossScale: this.scaler?.state ?? null,
      totals: { lossSum: 0, steps: 0, tokens: 0, supervisedTokens: 0, samples: 0, seconds: 0, skippedSteps: 0 },
      pending: { lossSum: 0, weight: 0 },
      logHistory: [],
    };
  }

  restore(checkpoint: string): void {
    this.state = readCheckpoint(checkpoint).state;
    if (this.scaler !== null) this.scaler = makeScaler(this.parts.values, this.state.lossScale ?? undefined);
    restoreTensors(checkpoint, { params: this.params, optimizer: this.optimizer });
    this.checkpoint = checkpoint;
    this.silent = null;
    this.parts.emit({ type: 'resume', checkpoint, step: this.state.step, totalSteps: this.totalSteps });
  }

  openLog(): void {
    this.log = new TrainerLog(this.parts.values.output_dir, this.totalSteps, this.state.step);
  }

  async train(signal: AbortSignal | undefined): Promise<TrainResult> {
    const { values } = this.parts;
    while (this.state.step < this.totalSteps) {
      const started = performance.now();
      const outcome = await this.step();
      this.account(outcome, (performance.now() - started) / 1000);
      const last = this.state.step === this.totalSteps;
      const minutes = (performance.now() - this.lastSave) / 60_000;
      const due = this.state.step % values.save_steps === 0 || (values.save_minutes !== null && minutes >= values.save_minutes);
      const stop = signal?.aborted === true && !last;
      if (last || due || stop) await this.save();
      if (stop) return this.result('stopped', this.state.logHistory);
    }
    return this.finish();
  }

  dispose(): void {
    disposeAdamWState(this.optimizer);
    this.parts.model.dispose();
  }

  private get totalSteps(): number {
    return this.parts.plan.steps.totalSteps;
  }

  /** Gradients of one window, then the update. */
  private async step(): Promise<StepOutcome> {
    const { values } = this.parts;
    const number = this.state.step + 1;
    const micro = this.microBatches(this.state.step);
    const scale = this.scaler?.scale ?? 1;
    const sum = new GradientSum();
    let loss = 0;
    let overflow = false;
    try {
      for (const [i, batch] of micro.entries()) {
        const weight = tokenWeight(values.gradient_accumulation_mode, micro, i);
        const nll = accumulate(this.parts.model, batch, weight * scale, sum);
        if (!Number.isFinite(nll)) {
          if (this.scaler === null) throw nonFinite('the loss', number, batch.rows);
          overflow = true;
        }
        loss += nll * weight;
        // Lets signals in, and with them the second Ctrl+C.
        await nextTurn();
      }
      return { ...this.update(sum, scale, overflow, micro), loss };
    } finally {
      sum.dispose();
    }
  }

  private microBatches(step: number): MicroBatch[] {
    const { data, values } = this.parts;
    return this.windows.step(step).map((rows, index) => ({
      batch: collate(rows.map((row) => data.rows[row]!)),
      rows,
      targets: rows.reduce((sum, row) => sum + data.targets[row]!, 0),
      dropoutSeed: placeSeed(values.seed, step, index),
    }));
  }

  private update(sum: GradientSum, scale: number, lost: boolean, micro: readonly MicroBatch[]): Omit<StepOutcome, 'loss'> {
    const { values } = this.parts;
    const params = [...this.params.values()];
    const rate = learningRate(this.schedule, this.state.updates);
    const grads = sum.take(params);
    let gradNorm = NaN;
    let overflow = lost;
    try {
      if (!overflow) {
        this.checkGradients(grads);
        const result = adamw(params, grads, this.optimizer, {
          lr: rate,
          beta1: values.adam_beta1,
          beta2: values.adam_beta2,
          eps: values.adam_epsilon,
          weightDecay: values.weight_decay,
          step: this.state.updates + 1,
          maxGradNorm: values.max_grad_norm,
          gradScale: 1 / scale,
        });
        gradNorm = result.gradNorm;
        overflow = !result.finite;
      }
    } finally {
      tf.dispose(grads);
    }
    const rows = micro.flatMap((batch) => batch.rows);
    if (overflow && this.scaler === null) throw nonFinite('the gradient', this.state.step + 1, rows);
    this.scaler?.update(overflow);
    if (!overflow) this.state.updates++;
    const tokens = micro.reduce((total, { batch }) => total + batch.inputIds.length, 0);
    const targets = micro.reduce((total, batch) => total + batch.targets, 0);
    const lossScale = this.scaler === null ? null : scale;
    return { gradNorm, skipped: overflow, learningRate: rate, lossScale, tokens, targets, rows: rows.length };
  }

  /** In the first two steps: every trainable tensor must get a gradient (LoRA's A only once B has moved). */
  private checkGradients(grads: readonly tf.Tensor[]): void {
    if (this.silent === null) return;
    [...this.params.keys()].forEach((name, i) => {
      if (this.silent?.has(name) && tf.tidy(() => tf.max(tf.abs(grads[i]!)).dataSync()[0] !== 0)) this.silent.delete(name);
    });
    // With a warm-up the first update runs at a learning rate of 0, so A gets its first gradient one step later.
    const moved = learningRate(this.schedule, 0) > 0 ? 1 : 2;
    if (this.silent.size === 0) this.silent = null;
    else if (this.state.updates >= moved) {
      const names = [...this.silent];
      this.parts.emit({
        type: 'warning',
        message: `${names.length} of ${this.params.size} trainable tensors have had no gradient so far, first: ${names[0]}`,
        details: { tensors: names },
      });
      this.silent = null;
    }
  }

  /** Counts the step, tells about it, and writes a log row when one is due. */
  private account(outcome: StepOutcome, seconds: number): void {
    const { values, emit } = this.parts;
    const { state } = this;
    state.step++;
    state.lossScale = this.scaler?.state ?? null;
    state.totals.steps++;
    state.totals.tokens += outcome.tokens;
    state.totals.supervisedTokens += outcome.targets;
    state.totals.samples += outcome.rows;
    state.totals.seconds += seconds;
    if (outcome.skipped) state.totals.skippedSteps++;
    if (Number.isFinite(outcome.loss)) {
      const weight = values.gradient_accumulation_mode === 'token' ? outcome.targets : 1;
      state.totals.lossSum += outcome.loss;
      state.pending.lossSum += outcome.loss * weight;
      state.pending.weight += weight;
    }
    this.speed.step(seconds, outcome.tokens, outcome.targets);
    this.announce(outcome, seconds);
    if (state.step % values.logging_steps === 0 || state.step === this.totalSteps) {
      const row = this.logRow(outcome);
      state.logHistory.push(row);
      state.pending = { lossSum: 0, weight: 0 };
      this.log?.row(row, state.totals.seconds);
      emit({ type: 'log', row });
    }
  }

  private announce(outcome: StepOutcome, seconds: number): void {
    const { emit } = this.parts;
    const memory = measureMemory();
    const leak = this.leaks.check(memory.tensors);
    if (leak !== null) emit({ type: 'warning', message: `each step leaves ${leak} tensors behind (${memory.tensors} now)` });
    if (outcome.skipped)
      emit({
        type: 'warning',
        message: `step ${this.state.step} was skipped: float16 gradients overflowed at a loss scale of ${outcome.lossScale}`,
      });
    emit({
      type: 'step',
      step: this.state.step,
      totalSteps: this.totalSteps,
      epoch: this.windows.epochAfter(this.state.step),
      loss: outcome.loss,
      learningRate: outcome.learningRate,
      gradNorm: outcome.gradNorm,
      skipped: outcome.skipped,
      lossScale: outcome.lossScale,
      tokens: outcome.tokens,
      supervisedTokens: outcome.targets,
      stepSeconds: seconds,
      tokensPerSecond: this.speed.tokensPerSecond,
      supervisedTokensPerSecond: this.speed.supervisedTokensPerSecond,
      etaSeconds: (this.totalSteps - this.state.step) * this.speed.secondsPerStep,
      memory,
    });
  }

  private logRow(outcome: StepOutcome): LogRow {
    const { pending, step, updates, totals } = this.state;
    const row: LogRow = {
      epoch: this.windows.epochAfter(step),
      step,
      loss: pending.weight > 0 ? pending.lossSum / pending.weight : finiteOrNull(outcome.loss),
      learning_rate: outcome.learningRate,
      learning_rate_next: learningRate(this.schedule, updates),
      grad_norm: finiteOrNull(outcome.gradNorm),
      num_input_tokens_seen: totals.tokens,
    };
    return outcome.lossScale === null ? row : { ...row, loss_scale: outcome.lossScale, skipped_steps: totals.skippedSteps };
  }

  /** Writes a checkpoint; on a full disk the older ones stay as they are. */
  private async save(): Promise<void> {
    const { values, identity, model, emit } = this.parts;
    const started = performance.now();
    this.log?.sync();
    try {
      this.checkpoint = await saveCheckpoint(values.output_dir, {
        state: this.state,
        identity,
        tensors: { params: this.params, optimizer: this.optimizer },
        saveModel: (folder) => saveModel(model, values, folder),
        trainerState: trainerState(this.facts(), this.state.logHistory),
      });
    } catch (error) {
      throw diskFull(error, values.output_dir, this.checkpoint);
    }
    rotateCheckpoints(values.output_dir, values.save_total_limit, this.state.step);
    this.lastSave = performance.now();
    emit({ type: 'save', step: this.state.step, path: this.checkpoint, seconds: (this.lastSave - started) / 1000 });
  }

  private facts(): RunFacts {
    const { values, plan } = this.parts;
    return {
      step: this.state.step,
      totalSteps: this.totalSteps,
      epoch: this.windows.epochAfter(this.state.step),
      numTrainEpochs: values.max_steps > 0 ? Math.ceil(plan.steps.epochs) : values.num_train_epochs,
      loggingSteps: values.logging_steps,
      saveSteps: values.save_steps,
      batchSize: values.per_device_train_batch_size,
      tokensSeen: this.state.totals.tokens,
      // Forward and backward of every weight but the embedding, as transformers estimates it.
      totalFlos: 6 * this.state.totals.tokens * plan.model.nonEmbeddingParameters,
    };
  }

  private async finish(): Promise<TrainResult> {
    const { values, plan, data, identity, model, emit } = this.parts;
    const { step, totals } = this.state;
    const facts = this.facts();
    const trainLoss = totals.steps > 0 ? totals.lossSum / totals.steps : null;
    const summary: SummaryRow = {
      epoch: facts.epoch,
      step,
      total_flos: facts.totalFlos,
      train_loss: trainLoss,
      train_runtime: totals.seconds,
      train_samples_per_second: totals.seconds > 0 ? totals.samples / totals.seconds : 0,
      train_steps_per_second: totals.seconds > 0 ? totals.steps / totals.seconds : 0,
    };
    const history = [...this.state.logHistory, summary];
    this.log?.end(step, facts.epoch, totals.seconds);
    const files = await writeResult({ values, plan, template: data.template, identity, model, facts, summary, history });
    emit({ type: 'finished', outputDir: values.output_dir, files: files.map((name) => path.join(values.output_dir, name)) });
    return this.result('finished', history);
  }

  private result(status: TrainResult['status'], logHistory: TrainResult['logHistory']): TrainResult {
    const { step, totals } = this.state;
    return {
      status,
      outputDir: this.parts.values.output_dir,
      step,
      totalSteps: this.totalSteps,
      trainLoss: totals.steps > 0 ? totals.lossSum / totals.steps : null,
      seconds: totals.seconds,
      logHistory,
      checkpoint: this.checkpoint,
    };
  }
}

function makeScaler(values: RecipeValues, state?: TrainingState['lossScale']): LossScaler | null {
  if (values.dtype !== 'float16') return null;
  return new LossScaler(
    {
      ...DEFAULT_LOSS_SCALE,
      initialScalePower: values.initial_scale_power,
      window: values.loss_scale_window,
      hysteresis: values.hysteresis,
      minScale: values.min_loss_scale,
      ...(values.loss_scale > 0 ? { fixedScale: values.loss_scale } : {}),
    },
    state ?? undefined,
  );
}

function diskFull(error: unknown, folder: string, checkpoint: string | null): unknown {
  if (!(error instanceof NiftError) || error.code !== 'NIFT_DISK_FULL') return error;
  const kept = checkpoint === null ? 'no checkpoint has been saved yet' : `the run can go on from ${checkpoint}`;
  return new NiftError('NIFT_DISK_FULL', `${error.message}; ${freeBytes(folder)} bytes are free, ${kept}`, {
    hint: 'Make room and run the same command again.',
    exitCode: 1,
    cause: error,
  });
}
