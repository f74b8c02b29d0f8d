/**
 * The log files of a run, as LLaMA-Factory's board and transformers' readers expect them:
 * trainer_log.jsonl (one line per log row), trainer_state.json, train_results.json, all_results.json.
 * Differs: numbers are not rounded (only `percentage` and the epoch of trainer_log.jsonl are, to two places).
 */
import { appendFileSync, closeSync, existsSync, fsyncSync, openSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { atomicFile } from '../formats/atomic.js';
import { stableJson } from '../formats/jsonText.js';
import type { LogRow, SummaryRow } from './events.js';

export const TRAINER_LOG = 'trainer_log.jsonl';
export const TRAINER_STATE = 'trainer_state.json';

/** What trainer_state.json says besides the history. */
export interface RunFacts {
  step: number;
  totalSteps: number;
  epoch: number;
  numTrainEpochs: number;
  loggingSteps: number;
  saveSteps: number;
  batchSize: number;
  tokensSeen: number;
  totalFlos: number;
}

/** Appends to trainer_log.jsonl; opening it at a step drops what an interrupted run logged beyond that step. */
export class TrainerLog {
  private readonly file: string;

  constructor(
    folder: string,
    private readonly totalSteps: number,
    step: number,
  ) {
    this.file = path.join(folder, TRAINER_LOG);
    const kept = existsSync(this.file)
      ? readFileSync(this.file, 'utf8')
          .split('\n')
          .filter((line) => stepOf(line) <= step)
      : [];
    atomicFile(this.file, kept.map((line) => `${line}\n`).join(''));
  }

  row(row: LogRow, elapsedSeconds: number): void {
    this.append(row.step, row.epoch, row.loss, row.learning_rate, elapsedSeconds);
  }

  /** The closing line has no loss. */
  end(step: number, epoch: number, elapsedSeconds: number): void {
    this.append(step, epoch, null, null, elapsedSeconds);
  }

  /** Makes the lines durable: called before a checkpoint that relies on them. */
  sync(): void {
    const fd = openSync(this.file, 'r+');
    try {
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
  }

  private append(step: number, epoch: number, loss: number | null, learningRate: number | null, elapsedSeconds: number): void {
    const remaining = step > 0 ? (elapsedSeconds / step) * (this.totalSteps - step) : 0;
    const line = {
      current_steps: step,
      total_steps: this.totalSteps,
      loss,
      eval_loss: null,
      predict_loss: null,
      reward: null,
      learning_rate: learningRate,
      epoch: round2(epoch),
      percentage: this.totalSteps > 0 ? round2((step / this.totalSteps) * 100) : 100,
      elapsed_time: clock(elapsedSeconds),
      remaining_time: clock(remaining),
    };
    appendFileSync(this.file, `${JSON.stringify(line)}\n`);
  }
}

/** Infinity for anything that is not a whole line of ours: such a line is dropped. The closing line goes too. */
function stepOf(line: string): number {
  if (line === '') return Infinity;
  try {
    const row = JSON.parse(line) as { current_steps?: unknown; loss?: unknown; learning_rate?: unknown };
    if (row.loss === null && row.learning_rate === null) return Infinity;
    return typeof row.current_steps === 'number' ? row.current_steps : Infinity;
  } catch {
    return Infinity;
  }
}

const round2 = (value: number): number => Math.round(value * 100) / 100;

/** Seconds as H:MM:SS, with days in front when there are any (Python's timedelta). */
export function clock(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const days = Math.floor(whole / 86_400);
  const two = (value: number): string => String(value).padStart(2, '0');
  const time = `${Math.floor((whole % 86_400) / 3600)}:${two(Math.floor((whole % 3600) / 60))}:${two(whole % 60)}`;
  return days === 0 ? time : `${days} day${days === 1 ? '' : 's'}, ${time}`;
}

/** trainer_state.json in transformers' keys. */
export function trainerState(facts: RunFacts, history: readonly (LogRow | SummaryRow)[]): string {
  return stableJson({
    best_metric: null,
    best_model_checkpoint: null,
    epoch: facts.epoch,
    eval_steps: null,
    global_step: facts.step,
    is_hyper_param_search: false,
    is_local_process_zero: true,
    is_world_process_zero: true,
    log_history: history,
    logging_steps: facts.loggingSteps,
    max_steps: facts.totalSteps,
    num_input_tokens_seen: facts.tokensSeen,
    num_train_epochs: facts.numTrainEpochs,
    save_steps: facts.saveSteps,
    total_flos: facts.totalFlos,
    train_batch_size: facts.batchSize,
    trial_name: null,
    trial_params: null,
  });
}

/** train_results.json and all_results.json: the summary with sorted keys and indent 4, plus what the data held. */
export function writeResults(folder: string, summary: SummaryRow, census: object): void {
  const { step: _step, ...results } = summary;
  const text = `${stableJson({ ...results, census }, 4)}\n`;
  for (const name of ['train_results.json', 'all_results.json']) atomicFile(path.join(folder, name), text);
}

export const finiteOrNull = (value: number): number | null => (Number.isFinite(value) ? value : null);
