import { describe, expect, it } from 'vitest';
import { NiftError } from '../../src/errors.js';
import { DEFAULT_LOSS_SCALE, LossScaler } from '../../src/train/lossScale.js';

const run = (scaler: LossScaler, overflows: boolean[]): number[] =>
  overflows.map((overflow) => {
    scaler.update(overflow);
    return scaler.scale;
  });

describe('dynamic loss scale (DeepSpeed 0.13.2)', () => {
  it('forgives the first overflow, then halves', () => {
    expect(run(new LossScaler(DEFAULT_LOSS_SCALE), [true, true, true])).toEqual([65536, 32768, 16384]);
  });

  it('first doubles at step 999 when nothing overflowed', () => {
    const scales = run(
      new LossScaler(DEFAULT_LOSS_SCALE),
      Array.from({ length: 2001 }, () => false),
    );
    expect(scales.findIndex((scale) => scale !== 65536)).toBe(999);
    expect(scales.findIndex((scale) => scale === 65536 * 4)).toBe(1999);
  });

  it('restarts the window at an overflow and refills hysteresis only with a doubling', () => {
    const scaler = new LossScaler({ initialScalePower: 4, window: 3, hysteresis: 2, minScale: 1 });
    // i: 0 overflow (h 2 -> 1, o = 0); 1, 2 good; 3 good and 3 - 0 = window: doubles, h = 2; 4 overflow: h 2 -> 1; 5: halves.
    expect(run(scaler, [true, false, false, false, true, true])).toEqual([16, 16, 16, 32, 32, 16]);
  });

  it('ends the run when it overflows at the minimum', () => {
    const scaler = new LossScaler({ initialScalePower: 1, window: 10, hysteresis: 1, minScale: 1 });
    expect(run(scaler, [true])).toEqual([1]);
    try {
      scaler.update(true);
      expect.unreachable();
    } catch (error) {
      expect((error as NiftError).code).toBe('NIFT_LOSS_SCALE');
      expect((error as NiftError).message).toContain('step 2');
    }
  });

  it('stops at the minimum instead of below it', () => {
    const scaler = new LossScaler({ initialScalePower: 2, window: 10, hysteresis: 1, minScale: 3 });
    expect(run(scaler, [true])).toEqual([3]);
  });

  it('continues from a saved state as if it had never stopped', () => {
    const pattern = Array.from({ length: 40 }, (_, i) => i % 7 === 3 || i % 11 === 0);
    const options = { initialScalePower: 20, window: 3, hysteresis: 2, minScale: 1e-10 };
    const straight = new LossScaler(options);
    const expected = run(straight, pattern);
    const first = new LossScaler(options);
    run(first, pattern.slice(0, 13));
    const second = new LossScaler(options, JSON.parse(JSON.stringify(first.state)));
    expect(run(second, pattern.slice(13))).toEqual(expected.slice(13));
    expect(second.state).toEqual(straight.state);
  });
});
