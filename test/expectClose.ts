/** Compares arrays so that nothing slips through: NaN and infinities must stand at the same places on both sides. */
export interface Tolerance {
  /** Largest allowed |actual - expected|. */
  abs?: number;
  /** Largest allowed |actual - expected| as a share of max |expected|. */
  relToMax?: number;
  /** Non-finite values are a mismatch unless this is set, and then they must be equal on both sides. */
  allowNonFinite?: boolean;
  label?: string;
}

export function expectClose(actual: ArrayLike<number>, expected: ArrayLike<number>, tolerance: Tolerance): void {
  const label = tolerance.label ?? 'values';
  if (actual.length !== expected.length) throw new Error(`${label}: ${actual.length} elements, expected ${expected.length}`);
  let absMax = 0;
  for (let i = 0; i < expected.length; i++) if (Number.isFinite(expected[i])) absMax = Math.max(absMax, Math.abs(expected[i]!));
  const limit = tolerance.relToMax === undefined ? (tolerance.abs ?? 0) : tolerance.relToMax * absMax + (tolerance.abs ?? 0);
  const bad: string[] = [];
  let count = 0;
  let worst = 0;
  let sum = 0;
  for (let i = 0; i < expected.length; i++) {
    const a = actual[i]!;
    const e = expected[i]!;
    const finite = Number.isFinite(a) && Number.isFinite(e);
    const difference = Math.abs(a - e);
    if (finite) {
      worst = Math.max(worst, difference);
      sum += difference;
    }
    const good = finite ? difference <= limit : tolerance.allowNonFinite === true && Object.is(a, e);
    if (good) continue;
    count++;
    if (bad.length < 5) bad.push(`[${i}] ${a} vs ${e}`);
  }
  if (count === 0) return;
  const mean = sum / Math.max(1, expected.length);
  throw new Error(
    `${label}: ${count} of ${expected.length} differ by more than ${limit} (max ${worst}, mean ${mean}, absmax ${absMax}): ${bad.join('; ')}`,
  );
}
