/** The addon in worker threads, and processes that end in the middle of native work. */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { addon } from '../../src/backend/addon.js';

const root = path.resolve(import.meta.dirname, '..', '..');
const file = path.join(root, 'build', 'Release', 'nift.node');

/** Products of ever the same matrices, and whether the result ever changed. */
const work = `
  const addon = require(${JSON.stringify(file)});
  const n = 96;
  const a = Float32Array.from({ length: n * n }, (_, i) => (i % 13) - 6);
  const out = () => { const y = new Float32Array(n * n); addon.batchMatMul(y, a, a, 1, n, n, n, 0, 0, false, true); return y; };
  const first = out();
  const same = () => { const y = out(); return y.every((value, i) => value === first[i]); };
`;

function inWorker(code: string): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(code, { eval: true });
    worker.once('message', resolve);
    worker.once('error', reject);
  });
}

function inProcess(code: string): { status: number | null; signal: string | null; stderr: string } {
  const { status, signal, stderr } = spawnSync(process.execPath, ['-e', code], { encoding: 'utf8', timeout: 30_000 });
  return { status, signal, stderr };
}

describe.skipIf(!addon())('the addon', () => {
  it('serves several worker threads at once', async () => {
    const code = `${work}
      let good = true;
      for (let i = 0; i < 200; i++) good = good && same();
      require('node:worker_threads').parentPort.postMessage(good);`;
    expect(await Promise.all([inWorker(code), inWorker(code), inWorker(code)])).toEqual([true, true, true]);
  });

  it('survives workers that are stopped in the middle', async () => {
    const code = `${work} require('node:worker_threads').parentPort.postMessage('started'); for (;;) same();`;
    for (let i = 0; i < 3; i++) {
      const worker = new Worker(code, { eval: true });
      await new Promise((resolve) => worker.once('message', resolve));
      await worker.terminate();
    }
    expect(await inWorker(`${work} require('node:worker_threads').parentPort.postMessage(same());`)).toBe(true);
  });

  it('lets the process end at any time', () => {
    expect(
      inProcess(`${work} setTimeout(() => process.exit(7), 30); (function loop() { same(); setImmediate(loop); })();`),
    ).toEqual({
      status: 7,
      signal: null,
      stderr: '',
    });
    const fromWorker = `
      const { Worker } = require('node:worker_threads');
      const code = ${JSON.stringify(`${work} require('node:worker_threads').parentPort.postMessage(1); for (;;) same();`)};
      new Worker(code, { eval: true }).once('message', () => process.exit(5));`;
    expect(inProcess(fromWorker)).toEqual({ status: 5, signal: null, stderr: '' });
    expect(
      inProcess(`${work} same(); addon.setNumThreads(1); same(); addon.setNumThreads(2); if (!same()) process.exit(3);`),
    ).toEqual({
      status: 0,
      signal: null,
      stderr: '',
    });
  });
});
