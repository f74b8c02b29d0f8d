/** What a run tells its caller while it works, and the rows that its logs hold. Nothing in src/train prints. */
import type { TrainingPlan } from './plan.js';

/** One row of `log_history`. Numbers are unrounded; a number that is not finite is null. */
export interface LogRow {
  epoch: number;
  step: number;
  /** Mean over the supervised tokens (`token`) or over the steps (`micro_mean`) since the previous row. */
  loss: number | null;
  /** Learning rate that this step's update used, as today's Trainer logs it. */
  learning_rate: number;
  /** Learning rate after the scheduler stepped; this is what transformers before 4.49 logged as `learning_rate`. */
  learning_rate_next: number;
  /** Global L2 norm before clipping. */
  grad_norm: number | null;
  num_input_tokens_seen: number;
  /** float16 only: scale that this step used, and how many steps of the run were skipped for an overflow. */
  loss_scale?: number;
  skipped_steps?: number;
}

/** Last row of a finished run. */
export interface SummaryRow {
  epoch: number;
  step: number;
  total_flos: number;
  train_loss: number | null;
  train_runtime: number;
  train_samples_per_second: number;
  train_steps_per_second: number;
}

export interface StepMemory {
  /** tf.memory() after the step. */
  tensors: number;
  tensorBytes: number;
  /** Largest sum of tensor bytes so far, where the backend counts it. */
  peakTensorBytes: number | null;
  /** Resident bytes of the process, now and at most so far. */
  residentBytes: number;
  peakResidentBytes: number;
}

export interface StepEvent {
  type: 'step';
  step: number;
  totalSteps: number;
  epoch: number;
  loss: number;
  learningRate: number;
  gradNorm: number;
  /** float16: the update was skipped because gradients overflowed. */
  skipped: boolean;
  lossScale: number | null;
  tokens: number;
  supervisedTokens: number;
  stepSeconds: number;
  /** Since this process started to train, the first step left out. */
  tokensPerSecond: number;
  supervisedTokensPerSecond: number;
  etaSeconds: number;
  memory: StepMemory;
}

export type TrainEvent =
  | { type: 'plan'; plan: TrainingPlan }
  | { type: 'notice'; message: string }
  | { type: 'warning'; message: string; details?: Record<string, unknown> }
  | { type: 'resume'; checkpoint: string; step: number; totalSteps: number }
  | StepEvent
  | { type: 'log'; row: LogRow }
  | { type: 'save'; step: number; path: string; seconds: number }
  | { type: 'finished'; outputDir: string; files: string[] };

export type OnEvent = (event: TrainEvent) => void;

export interface TrainResult {
  status: 'finished' | 'stopped' | 'already-finished';
  outputDir: string;
  step: number;
  totalSteps: number;
  /** Mean loss of the whole run; null when nothing was trained. */
  trainLoss: number | null;
  /** Seconds of training, earlier processes of a resumed run included. */
  seconds: number;
  logHistory: (LogRow | SummaryRow)[];
  /** Where a stopped run goes on from. */
  checkpoint: string | null;
}
