/** The statistical comparison of final adapters that the goldens ask for: Adam's first step may take either sign of a tiny gradient. */
import path from 'node:path';
import { expect } from 'vitest';
import { openSafetensors } from '../../src/formats/safetensors.js';
import { shared } from '../golden.js';

/** Compares `output`'s adapter with the golden case's: rms 2e-4, and 99.9 % of the elements within 1e-3. */
export function checkFinalAdapter(name: string, output: string): void {
  const ours = openSafetensors(path.join(output, 'adapter_model.safetensors'));
  const theirs = openSafetensors(shared('golden', 'train', name, 'final_adapter', 'adapter_model.safetensors'));
  expect([...ours.names()].sort()).toEqual([...theirs.names()].sort());
  let [squares, far, count] = [0, 0, 0];
  for (const tensor of theirs.names()) {
    const expected = theirs.readFloat32(tensor);
    ours.readFloat32(tensor).forEach((value, i) => {
      const difference = Math.abs(value - expected[i]!);
      squares += difference ** 2;
      if (!(difference <= 1e-3)) far++;
      count++;
    });
  }
  expect(Math.sqrt(squares / count)).toBeLessThan(2e-4);
  expect(far / count).toBeLessThan(1e-3);
}
