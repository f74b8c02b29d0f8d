/**
 * Generation speed at the shapes that peers were measured at: reading a prompt of 512 tokens, and greedy decoding after a prompt
 * of 16, alone and eight side by side. Decoding alone reads every weight once a token, so its ceiling is the memory's: the
 * share of what the machine reads per second is given too. One fresh process per case.
 *
 *   npm run bench -- generate all [SHAPE ...]              all cases, appended to bench/results/generate.jsonl
 *   npm run bench -- generate case SHAPE DTYPE FOLDER      prints one JSON line
 *
 * FOLDER keeps the checkpoints between runs.
 */
import { execFileSync } from 'node:child_process';
import { appendFileSync, mkdirSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { addon } from '../src/backend/addon.js';
import type { StorageDtype } from '../src/backend/dtype.js';
import { useBackend } from '../src/backend/index.js';
import { CausalLM } from '../src/model/causalLM.js';
import { generate } from '../src/model/generate.js';
import { parameterCount } from '../src/model/parameters.js';
import { machine } from './machine.js';
import { SHAPES, makeCheckpoint } from './shapes.js';

interface Spread {
  p20: number;
  p50: number;
  p80: number;
}

export interface GenerateCase {
  shape: string;
  dtype: StorageDtype;
  /** Tokens per second. */
  prompt512: Spread;
  decode1: Spread;
  decode8: Spread;
  /** Bytes of weights that a decoded token reads: everything but the embedding, of which it reads a row. */
  weightBytes: number;
  /** What reading memory alone would allow, in tokens per second; null without the addon. */
  decode1Ceiling: number | null;
  peakResidentBytes: number;
  threads: number;
  isa: string;
}

const PROMPT = 16;
const NEW_TOKENS = 64;

export async function generateCase(name: string, dtype: StorageDtype, folder: string): Promise<GenerateCase> {
  const shape = SHAPES[name];
  if (shape === undefined) throw new Error(`unknown shape ${name}: ${Object.keys(SHAPES).join(', ')}`);
  const model = await CausalLM.load(makeCheckpoint(path.join(folder, `${name}-${dtype}`), shape, dtype), { dtype });
  const prompt = (length: number, b = 0): Int32Array =>
    Int32Array.from({ length }, (_, i) => (i * 977 + b * 31 + 3) % shape.vocab);
  const run = async (length: number, batch: number, maxNewTokens: number): Promise<number> => {
    const prompts = Array.from({ length: batch }, (_, b) => prompt(length, b));
    const start = performance.now();
    await generate(model, prompts, { maxNewTokens, batchSize: batch, eosTokenIds: [] });
    return (performance.now() - start) / 1000;
  };
  // Decoding: the time of NEW_TOKENS tokens less that of the first, which is the prompt's.
  const decode = async (batch: number): Promise<Spread> =>
    repeat(async () => {
      const first = await run(PROMPT, batch, 1);
      return (batch * (NEW_TOKENS - 1)) / ((await run(PROMPT, batch, NEW_TOKENS)) - first);
    });
  const prompt512 = await repeat(async () => 512 / (await run(512, 1, 1)));
  const [decode1, decode8] = [await decode(1), await decode(8)];
  const weightBytes = (parameterCount(model.config) - shape.vocab * shape.hidden) * (dtype === 'float32' ? 4 : 2);
  model.dispose();
  const native = addon();
  const info = native?.runtimeInfo();
  return {
    shape: name,
    dtype,
    prompt512,
    decode1,
    decode8,
    weightBytes,
    decode1Ceiling: native ? readBytesPerSecond(native) / weightBytes : null,
    peakResidentBytes: process.resourceUsage().maxRSS * 1024,
    threads: info?.threads ?? 1,
    isa: info?.isa ?? 'none',
  };
}

/** One run to warm up, then at least five and at least two seconds. */
async function repeat(measure: () => Promise<number>): Promise<Spread> {
  await measure();
  const values: number[] = [];
  const start = performance.now();
  while (values.length < 5 || (performance.now() - start < 2000 && values.length < 50)) values.push(await measure());
  values.sort((a, b) => a - b);
  const at = (share: number): number => values[Math.floor(share * (values.length - 1))]!;
  return { p20: at(0.2), p50: at(0.5), p80: at(0.8) };
}

function readBytesPerSecond(native: NonNullable<ReturnType<typeof addon>>): number {
  const data = new Float32Array(1 << 26).fill(1);
  let best = Infinity;
  for (let i = 0; i < 5; i++) {
    const start = performance.now();
    native.peakRead(data);
    best = Math.min(best, performance.now() - start);
  }
  return (data.byteLength / best) * 1000;
}

function all(shapes: readonly string[]): void {
  const folder = path.join(os.tmpdir(), 'nift-bench-checkpoints');
  mkdirSync('bench/results', { recursive: true });
  for (const shape of shapes) {
    for (const dtype of ['bfloat16', 'float32'] as const) {
      const output = execFileSync(process.execPath, [process.argv[1]!, 'case', shape, dtype, folder], { encoding: 'utf8' });
      const result = JSON.parse(output) as GenerateCase;
      appendFileSync('bench/results/generate.jsonl', `${JSON.stringify({ bench: 'generate', ...machine(), ...result })}\n`);
      const share =
        result.decode1Ceiling === null
          ? ''
          : ` (${((100 * result.decode1.p50) / result.decode1Ceiling).toFixed(0)} % of the memory's)`;
      process.stdout.write(
        `${shape} ${dtype.padEnd(8)} prompt ${result.prompt512.p50.toFixed(0)}, decode ${result.decode1.p50.toFixed(0)}${share}, ` +
          `eight side by side ${result.decode8.p50.toFixed(0)} tokens/s\n`,
      );
    }
  }
}

const [mode, ...rest] = process.argv.slice(2);
if (mode === 'case') {
  await useBackend('native');
  process.stdout.write(`${JSON.stringify(await generateCase(rest[0]!, rest[1] as StorageDtype, rest[2]!))}\n`);
} else if (mode === 'all') all(rest.length > 0 ? rest : ['S', 'M', 'L']);
