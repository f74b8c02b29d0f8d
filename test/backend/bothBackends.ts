/** Runs the same program on `cpu` and on `native`, with tensors of its own on each. */
import { useBackend } from '../../src/backend/index.js';

export async function onBoth<T>(program: () => T): Promise<{ cpu: T; native: T }> {
  await useBackend('cpu');
  const cpu = program();
  await useBackend('native');
  return { cpu, native: program() };
}

/** Reproducible numbers in [0, 1). */
export function seeded(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}
