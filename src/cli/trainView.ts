/** What a person sees while a model trains: one live line with a curve on a terminal, plain greppable lines elsewhere. */
import { sparkline } from '../report/sparkline.js';
import type { OnEvent, StepEvent, TrainResult } from '../train/events.js';
import { formatBytes, formatSeconds, isLive, note, style, warn } from './io.js';
import { renderPlan } from './planView.js';

export interface TrainView {
  onEvent: OnEvent;
  /** Leaves the live line behind. Safe to call twice. */
  end(): void;
  summary(result: TrainResult): void;
}

/** Without a terminal at most one line per this many seconds, plus the first and the last step. */
const PLAIN_INTERVAL_S = 5;

function stepLine(event: StepEvent): string {
  const parts = [
    `step ${event.step}/${event.totalSteps}`,
    `loss ${event.loss.toFixed(4)}`,
    `lr ${event.learningRate.toExponential(2)}`,
    `norm ${event.gradNorm.toFixed(3)}`,
    `${event.tokensPerSecond.toFixed(0)} tok/s`,
    `${event.supervisedTokensPerSecond.toFixed(0)} supervised/s`,
    `mem ${formatBytes(event.memory.residentBytes)}`,
    `left ${formatSeconds(event.etaSeconds)}`,
  ];
  if (event.skipped) parts.push('skipped: overflow');
  if (event.lossScale !== null) parts.push(`scale ${event.lossScale}`);
  return parts.join('  ');
}

export interface TrainViewOptions {
  /** Print the plan first; default true. */
  plan?: boolean;
  /** Rewrite one line; default where stderr is a terminal. */
  live?: boolean;
}

export function createTrainView(quiet: boolean, { plan = true, live = isLive }: TrainViewOptions = {}): TrainView {
  const losses: number[] = [];
  let drawn = false;
  let lastPlain = 0;
  const clear = (): void => {
    if (drawn) process.stderr.write('\r\u001b[2K');
    drawn = false;
  };
  const line = (text: string): void => {
    clear();
    note(text);
  };
  const onStep = (event: StepEvent): void => {
    losses.push(event.loss);
    if (live) {
      const columns = process.stderr.columns ?? 100;
      const text = stepLine(event);
      const room = Math.min(40, columns - text.length - 3);
      const curve = room >= 8 ? `  ${style.cyan(sparkline(losses, room))}` : '';
      clear();
      process.stderr.write(text.slice(0, columns - 1) + curve);
      drawn = true;
      return;
    }
    const now = performance.now() / 1000;
    const due = now - lastPlain >= PLAIN_INTERVAL_S;
    if (event.step !== 1 && event.step !== event.totalSteps && !event.skipped && !due) return;
    lastPlain = now;
    note(stepLine(event));
  };
  const onEvent: OnEvent = (event) => {
    if (event.type === 'warning') {
      clear();
      warn(event.message);
      return;
    }
    if (quiet) return;
    if (event.type === 'step') onStep(event);
    else if (event.type === 'plan') {
      if (plan) line(`${renderPlan(event.plan)}\n`);
    } else if (event.type === 'notice') line(style.dim(event.message));
    else if (event.type === 'resume') line(`resuming at step ${event.step} of ${event.totalSteps} from ${event.checkpoint}`);
    else if (event.type === 'save') line(`saved ${event.path} (${formatSeconds(event.seconds)})`);
  };
  return {
    onEvent,
    end: () => {
      if (drawn) process.stderr.write('\n');
      drawn = false;
    },
    summary: (result) => {
      if (result.status === 'already-finished') {
        note(`${result.outputDir} is finished already (${result.step} steps). Nothing was changed.`);
        note(
          '  To train anew choose another output_dir or set overwrite_output_dir: true; to train on, set adapter_name_or_path.',
        );
        return;
      }
      const loss = result.trainLoss === null ? '' : `, mean loss ${result.trainLoss.toFixed(4)}`;
      note(`${style.green('done')} ${result.totalSteps} steps in ${formatSeconds(result.seconds)}${loss}: ${result.outputDir}`);
    },
  };
}
