/**
 * Merging rank 8 over all linear layers of the L shape (1.1B parameters, bfloat16, two files) against `cp` of the same files, page cache
 * warm, taking turns: `node dist-bench/merge.mjs [folder] [rounds]`. Appends to bench/results/merge.jsonl.
 *
 * Both leave it to the system when data reaches the disk (`--no-sync`, no check after writing); `synced` repeats it with sync on both
 * sides. Times are those of whole processes, start of Node included.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { appendFileSync, existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { newAdapterConfig, writeAdapter } from '../src/formats/adapter.js';
import type { TensorToWrite } from '../src/formats/safetensorsWriter.js';
import { planRewrite, runRewrite } from '../src/merge/rewrite.js';
import { parseModelConfig } from '../src/model/config.js';
import { LINEAR_MODULES, layerPrefix, linearShape } from '../src/model/parameters.js';
import { normalArray } from '../src/random.js';
import { makeCheckpoint, SHAPES, shapeConfig } from './shapes.js';

const RANK = 8;

/** The L checkpoint in two files. */
async function makeModel(folder: string): Promise<string> {
  const model = path.join(folder, 'L-two-files');
  if (existsSync(model)) return model;
  const single = makeCheckpoint(path.join(folder, 'L-one-file'), SHAPES['L']!, 'bfloat16');
  const plan = planRewrite({ model: single, command: 'bench', config: {}, maxShardBytes: 1.2e9 });
  await runRewrite(plan, { out: model, sync: false });
  plan.source.close();
  rmSync(single, { recursive: true });
  return model;
}

function makeAdapter(folder: string, model: string): string {
  const adapter = path.join(folder, 'L-adapter');
  if (existsSync(adapter)) return adapter;
  const config = parseModelConfig(shapeConfig(SHAPES['L']!, 'bfloat16'));
  const tensors: TensorToWrite[] = [];
  for (let layer = 0; layer < config.numLayers; layer++)
    for (const module of LINEAR_MODULES) {
      const shape = linearShape(config, module);
      const name = `base_model.model.${layerPrefix(layer)}${module}`;
      const values = (rows: number, columns: number): Float32Array => normalArray(rows * columns, 0.02, 7, tensors.length);
      tensors.push({ name: `${name}.lora_A.weight`, dtype: 'F32', shape: [RANK, shape.in], data: () => values(RANK, shape.in) });
      tensors.push({
        name: `${name}.lora_B.weight`,
        dtype: 'F32',
        shape: [shape.out, RANK],
        data: () => values(shape.out, RANK),
      });
    }
  const targets = LINEAR_MODULES.map((module) => module.slice(module.lastIndexOf('.') + 1));
  writeAdapter(
    adapter,
    newAdapterConfig({ r: RANK, lora_alpha: 16, target_modules: targets, base_model_name_or_path: model }),
    tensors,
  );
  return adapter;
}

interface Measured {
  seconds: number;
  cpuSeconds: number;
  peakResidentBytes: number;
}

/** A whole process, by GNU time. */
function timed(command: string, args: string[]): Measured {
  const result = spawnSync('/usr/bin/time', ['-f', '%e %U %S %M', command, ...args], { encoding: 'utf8' });
  const numbers = /([\d.]+) ([\d.]+) ([\d.]+) (\d+)\s*$/.exec(result.stderr);
  if (result.status !== 0 || !numbers) throw new Error(`${command} ${args.join(' ')}: ${result.stderr}`);
  const [, seconds, user, system, kilobytes] = numbers.map(Number);
  return { seconds: seconds!, cpuSeconds: user! + system!, peakResidentBytes: kilobytes! * 1024 };
}

const median = (values: number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;

const folder = process.argv[2] ?? path.join(os.tmpdir(), 'nift-bench');
const rounds = Number(process.argv[3] ?? 5);
mkdirSync(folder, { recursive: true });
const model = await makeModel(folder);
const adapter = makeAdapter(folder, model);
const weights = readdirSync(model).filter((name) => name.endsWith('.safetensors'));
const files = weights.map((name) => path.join(model, name));
const out = path.join(folder, 'out');
const fresh = (): void => rmSync(out, { recursive: true, force: true });
const run = (sync: boolean): { cp: Measured; merge: Measured } => {
  fresh();
  execFileSync('cat', files, { stdio: ['ignore', 'ignore', 'inherit'], maxBuffer: 1 });
  mkdirSync(out);
  const copy = `cp ${files.map((file) => `'${file}'`).join(' ')} '${out}'${sync ? ` && sync ${weights.map((name) => `'${path.join(out, name)}'`).join(' ')}` : ''}`;
  const cp = timed('sh', ['-c', copy]);
  fresh();
  const args = [
    'bin/nift.mjs',
    'merge',
    '--model',
    model,
    '--adapter',
    adapter,
    '--out',
    out,
    '--max-shard-size',
    '1.2GB',
    '--verify',
    '0',
    '--quiet',
  ];
  const merge = timed(process.execPath, [...args, ...(sync ? [] : ['--no-sync'])]);
  fresh();
  return { cp, merge };
};
for (const sync of [false, true]) {
  const results = Array.from({ length: rounds }, () => run(sync));
  const of = (side: 'cp' | 'merge', key: keyof Measured): number[] => results.map((result) => result[side][key]);
  const line = {
    bench: 'merge',
    date: new Date().toISOString(),
    commit: execFileSync('git', ['rev-parse', 'HEAD'], { encoding: 'utf8' }).trim(),
    cpu: os.cpus()[0]?.model,
    cores: os.cpus().length,
    load: os.loadavg()[0],
    node: process.version,
    folder,
    synced: sync,
    rounds,
    cp: { best: Math.min(...of('cp', 'seconds')), p50: median(of('cp', 'seconds')), cpuSeconds: median(of('cp', 'cpuSeconds')) },
    merge: {
      best: Math.min(...of('merge', 'seconds')),
      p50: median(of('merge', 'seconds')),
      cpuSeconds: median(of('merge', 'cpuSeconds')),
    },
    ratioOfPairs: median(results.map((result) => result.merge.seconds / result.cp.seconds)),
    peakResidentBytes: Math.max(...of('merge', 'peakResidentBytes')),
  };
  appendFileSync('bench/results/merge.jsonl', `${JSON.stringify(line)}\n`);
  process.stdout.write(
    `${sync ? 'synced' : 'cached'}: cp ${line.cp.p50.toFixed(2)} s (${line.cp.cpuSeconds.toFixed(2)} CPU), merge ${line.merge.p50.toFixed(2)} s ` +
      `(${line.merge.cpuSeconds.toFixed(2)} CPU), ratio ${line.ratioOfPairs.toFixed(2)}, peak ${(line.peakResidentBytes / 1e6).toFixed(0)} MB\n`,
  );
}
