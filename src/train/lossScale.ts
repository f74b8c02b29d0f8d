/**
 * Dynamic loss scaling for float16, as DeepSpeed 0.13.2 does it, per optimizer step:
 *
 *   overflow      the update is skipped. hysteresis > 1: it drops by one and the scale stays. hysteresis == 1: an error when
 *                 the scale already stands at its minimum, otherwise scale = max(scale / 2, minimum). The window restarts.
 *   no overflow   every `window` steps since the last overflow: scale doubles and hysteresis is refilled.
 *
 * The first overflow of a run therefore costs a step but not the scale, and without any overflow the scale first doubles at
 * step window - 1, because "last overflow" starts at -1.
 */
import { NiftError } from '../errors.js';

export interface LossScaleOptions {
  /** The scale starts at 2^initialScalePower. Default 16. */
  initialScalePower: number;
  /** Good steps between two doublings. Default 1000. */
  window: number;
  /** Overflows that are forgiven before the scale falls. Default 2. */
  hysteresis: number;
  /** The scale never falls below; an overflow there ends the run. Default 1. */
  minScale: number;
  /** Static scale: overflows skip the update and change nothing else. */
  fixedScale?: number;
}

export const DEFAULT_LOSS_SCALE: LossScaleOptions = { initialScalePower: 16, window: 1000, hysteresis: 2, minScale: 1 };

/** What a checkpoint holds of it: plain JSON. */
export interface LossScaleState {
  scale: number;
  hysteresis: number;
  iteration: number;
  lastOverflow: number;
  overflows: number;
}

export class LossScaler {
  private current: LossScaleState;

  constructor(
    private readonly options: LossScaleOptions,
    state?: LossScaleState,
  ) {
    this.current = state
      ? { ...state }
      : {
          scale: options.fixedScale ?? 2 ** options.initialScalePower,
          hysteresis: options.hysteresis,
          iteration: 0,
          lastOverflow: -1,
          overflows: 0,
        };
  }

  /** The loss is multiplied by this before the backward pass, the gradients are divided by it afterwards. */
  get scale(): number {
    return this.current.scale;
  }

  get state(): LossScaleState {
    return { ...this.current };
  }

  /**
   * Moves on by one optimizer step.
   * @param overflow some gradient was inf or NaN
   * @throws NIFT_LOSS_SCALE when it overflows at the minimum scale
   */
  update(overflow: boolean): void {
    const s = this.current;
    if (overflow) s.overflows += 1;
    if (this.options.fixedScale !== undefined) {
      s.iteration += 1;
      return;
    }
    if (overflow) {
      if (s.hysteresis > 1) s.hysteresis -= 1;
      else if (s.scale <= this.options.minScale) throw minimumReached(s, this.options.minScale);
      else s.scale = Math.max(s.scale / 2, this.options.minScale);
      s.lastOverflow = s.iteration;
    } else if ((s.iteration - s.lastOverflow) % this.options.window === 0) {
      s.hysteresis = this.options.hysteresis;
      s.scale *= 2;
    }
    s.iteration += 1;
  }
}

function minimumReached(state: LossScaleState, minScale: number): NiftError {
  return new NiftError(
    'NIFT_LOSS_SCALE',
    `float16 gradients overflow at step ${state.iteration + 1} with the loss scale at its minimum of ${minScale} ` +
      `(${state.overflows} steps were skipped so far)`,
    {
      hint: 'Train with dtype: bfloat16 or float32, lower learning_rate, or lower fp16_min_loss_scale (for example to 1e-10).',
      details: { ...state },
      exitCode: 1,
    },
  );
}
