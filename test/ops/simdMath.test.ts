import { describe, expect, it } from 'vitest';
import { addon } from '../../src/backend/addon.js';
import { randomFloats, ulpDistance } from './floats.js';

const native = addon();

function inputs(): Float32Array {
  const special = [
    0,
    -0,
    1e-45,
    -1e-45,
    88.72283,
    88.72284,
    89,
    1e4,
    -87.3,
    -87.4,
    -103.9,
    -104.1,
    -1e4,
    Infinity,
    -Infinity,
    NaN,
  ];
  return Float32Array.from([
    ...special,
    ...randomFloats(60_000, 1, 105),
    ...randomFloats(20_000, 2, 1),
    ...randomFloats(999, 3, 1e-3),
  ]);
}

describe.skipIf(!native)('simd_math.h', () => {
  const isas = native?.runtimeInfo().isas ?? [];
  it.each(isas)('exp is within 2 ulp everywhere, sigmoid within 4 (%s)', (isa) => {
    const fastest = native!.runtimeInfo().isa;
    native!.setIsa(isa);
    try {
      const x = inputs();
      const out = new Float32Array(x.length);
      native!.simdMath('exp', x, out);
      let worst = 0;
      x.forEach((value, i) => (worst = Math.max(worst, ulpDistance(out[i]!, Math.exp(value)))));
      expect(worst).toBeLessThanOrEqual(2); // measured 0.99
      native!.simdMath('sigmoid', x, out);
      worst = 0;
      x.forEach((value, i) => {
        // Below -88 exp(-x) is infinite and the result 0 instead of a subnormal.
        if (!(value < -88)) worst = Math.max(worst, ulpDistance(out[i]!, 1 / (1 + Math.exp(-value))));
        else expect(out[i]).toBeLessThan(1e-37);
      });
      expect(worst).toBeLessThanOrEqual(4); // measured 2.5
    } finally {
      native!.setIsa(fastest);
    }
  });

  it('refuses unknown functions and short outputs', () => {
    expect(() => native!.simdMath('sine', new Float32Array(1), new Float32Array(1))).toThrow(/argument 1 \(name\).*"sine"/);
    expect(() => native!.simdMath('exp', new Float32Array(4), new Float32Array(3))).toThrow(/at least 4 elements, got 3/);
  });
});
