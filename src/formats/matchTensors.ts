/** Compares what a model needs with what a file has, both ways, and reports everything at once. */
import { NiftError, type ErrorCode } from '../errors.js';

export type Shapes = ReadonlyMap<string, readonly number[]>;

export interface TensorMismatch {
  /** Needed, not there. */
  missing: string[];
  /** There, not needed. */
  unexpected: string[];
  misshaped: { name: string; expected: readonly number[]; found: readonly number[] }[];
}

/** All differences between two sets of named shapes, in the order of their names; null when there are none. */
export function matchTensors(expected: Shapes, found: Shapes): TensorMismatch | null {
  const missing = [...expected.keys()].filter((name) => !found.has(name)).sort();
  const unexpected = [...found.keys()].filter((name) => !expected.has(name)).sort();
  const misshaped = [...expected]
    .filter(([name, shape]) => found.has(name) && !sameShape(shape, found.get(name)!))
    .map(([name, shape]) => ({ name, expected: shape, found: found.get(name)! }))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
  return missing.length + unexpected.length + misshaped.length === 0 ? null : { missing, unexpected, misshaped };
}

export const sameShape = (a: readonly number[], b: readonly number[]): boolean =>
  a.length === b.length && a.every((size, i) => size === b[i]);

/** Throws one error that lists every difference (the message shows the first few of each kind, `details` holds all). */
export function requireTensors(
  expected: Shapes,
  found: Shapes,
  code: Extract<ErrorCode, 'NIFT_CHECKPOINT_MISMATCH' | 'NIFT_ADAPTER_MISMATCH'>,
  where: string,
  hint?: string,
): void {
  const mismatch = matchTensors(expected, found);
  if (mismatch) throw mismatchError(mismatch, code, where, hint);
}

function mismatchError(mismatch: TensorMismatch, code: ErrorCode, where: string, hint: string | undefined): NiftError {
  const { missing, unexpected, misshaped } = mismatch;
  const shapes = misshaped.map(
    ({ name, expected, found }) => `${name} is [${found.join(', ')}], expected [${expected.join(', ')}]`,
  );
  const parts = [list(missing, 'missing'), list(unexpected, 'unexpected'), list(shapes, 'of the wrong shape')].filter(
    (text) => text !== '',
  );
  return new NiftError(code, `${where}: tensors do not fit the model: ${parts.join('; ')}`, {
    ...(hint === undefined ? {} : { hint }),
    details: { missing, unexpected, misshaped },
  });
}

function list(items: readonly string[], kind: string): string {
  if (items.length === 0) return '';
  const rest = items.length > 5 ? `, and ${items.length - 5} more` : '';
  return `${items.length} ${kind}: ${items.slice(0, 5).join(', ')}${rest}`;
}
