/** Seeded inputs for op tests. */

/** Uniform in [-scale, scale), the same for the same seed. */
export function randomFloats(size: number, seed: number, scale = 1): Float32Array {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return Float32Array.from({ length: size }, () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (((t ^ (t >>> 14)) >>> 0) / 2 ** 31 - 1) * scale;
  });
}

/** Distance in units of the last place of the float32 nearest to `expected`; Infinity unless both are non-finite alike. */
export function ulpDistance(actual: number, expected: number): number {
  const rounded = Math.fround(expected);
  if (!Number.isFinite(rounded) || !Number.isFinite(actual)) return Object.is(actual, rounded) ? 0 : Infinity;
  const exponent = Math.max(-126, Math.floor(Math.log2(Math.abs(rounded) || 2 ** -149)));
  return Math.abs(actual - expected) / 2 ** (exponent - 23);
}
