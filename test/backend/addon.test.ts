/** The addon's surface: typed completely, and bad arguments are JavaScript errors that name the op. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { addon } from '../../src/backend/addon.js';
import { seeded } from './bothBackends.js';

const root = path.resolve(import.meta.dirname, '..', '..');

describe.skipIf(!addon())('the addon', () => {
  const table = addon() as unknown as Record<string, (...args: unknown[]) => unknown>;

  it('exports what src/backend/addon.ts declares, and nothing else', () => {
    const source = readFileSync(path.join(root, 'src', 'backend', 'addon.ts'), 'utf8');
    const declared = [...source.matchAll(/^export interface Addon\w+ \{\n([\s\S]*?)^\}/gm)].flatMap(([, body]) =>
      [...(body as string).matchAll(/^ {2}(\w+)\(/gm)].map(([, name]) => name),
    );
    expect(declared.length).toBeGreaterThan(10);
    expect(Object.keys(table).sort()).toEqual([...declared].sort());
  });

  it('names the op and the argument', () => {
    expect(() => table['unaryOp']?.(99, new Float32Array(1), 0, new Float32Array(1))).toThrow(/unaryOp: argument 1 \(op\)/);
    expect(() => table['unaryOp']?.(0, [1], 0, new Float32Array(1))).toThrow(
      /unaryOp: argument 2 \(x\): expected a Float32Array/,
    );
    expect(() => table['unaryOp']?.(0, new Float32Array(3), 0, new Float32Array(2))).toThrow(
      /unaryOp: .*out.*at least 3 elements/,
    );
    expect(() => table['softmaxRows']?.(new Float32Array(5), 2, 3, new Float32Array(6))).toThrow(/softmaxRows/);
    const ints = (...values: number[]): Int32Array => Int32Array.from(values);
    const cut = (begin: number): unknown =>
      table['stridedCopy']?.(new Float32Array(4), ints(4), ints(0), ints(begin), ints(3), new Float32Array(3));
    expect(() => cut(2)).toThrow(/the copy leaves the input/);
    expect(() => cut(1)).not.toThrow();
  });

  it('never crashes on arguments of the wrong kind, number or size', () => {
    const ops = [
      'binaryOp',
      'compareOp',
      'unaryOp',
      'selectOp',
      'reduceOp',
      'softmaxRows',
      'stridedCopy',
      'copyRows',
      'gatherRows',
    ];
    // In a process of its own: a crash would be a signal.
    const code = `
      const table = require(${JSON.stringify(path.join(root, 'build', 'Release', 'nift.node'))});
      const random = (${seeded.toString()})(11);
      const pick = (list) => list[Math.floor(random() * list.length)];
      const size = () => pick([0, 1, 2, 3, 8, 9, 100]);
      const value = () => pick([
        () => undefined, () => null, () => 'x', () => ({}), () => [], () => true,
        () => pick([-1, 0, 1, 2, 3, 7, 100, 1.5, NaN, Infinity, 2 ** 31, 2 ** 52]),
        () => new Float32Array(size()).fill(pick([0, 1, -1])), () => new Float32Array(size()),
        () => new Int32Array(size()).fill(pick([0, 1, 2, -1, 2 ** 30])), () => new Int32Array(size()),
        () => new Uint8Array(size()), () => new Uint16Array(size()), () => new Float64Array(size()), () => new ArrayBuffer(8),
      ])();
      let thrown = 0;
      for (let i = 0; i < 60000; i++) {
        try { table[pick(${JSON.stringify(ops)})](...Array.from({ length: pick([0, 3, 4, 6, 7, 8]) }, value)); }
        catch (error) { if (!(error instanceof Error)) throw new Error('not an Error'); thrown++; }
      }
      console.log(thrown > 1000);`;
    const { status, signal, stdout } = spawnSync(process.execPath, ['-e', code], { encoding: 'utf8' });
    expect({ status, signal, stdout }).toEqual({ status: 0, signal: null, stdout: 'true\n' });
  });
});
