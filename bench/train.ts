/**
 * LoRA training speed and peak memory at the shapes that peers were measured at: r 8, alpha 16, all linears, every token
 * supervised. One fresh process per case, the whole path of `nift train`: files, data, checkpoint.
 *
 *   npm run bench -- train all [SHAPE ...]                                    all cases, appended to bench/results/train.jsonl
 *   npm run bench -- train case SHAPE DTYPE STEPS FOLDER [key=value ...]      prints one JSON line
 *   npm run bench -- train profile SHAPE DTYPE STEPS FOLDER [key=value ...]   prints milliseconds per step and kernel
 *
 * FOLDER keeps the checkpoints between runs.
 */
import { execFileSync } from 'node:child_process';
import { appendFileSync, mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { StorageDtype } from '../src/backend/dtype.js';
import { addon } from '../src/backend/addon.js';
import { useBackend } from '../src/backend/index.js';
import { tf } from '../src/backend/tf.js';
import { makeWeight } from '../src/backend/weights.js';
import { parseRecipe } from '../src/config/recipe.js';
import { linear } from '../src/ops/linear.js';
import type { StepEvent, TrainEvent } from '../src/train/events.js';
import type { TrainingPlan } from '../src/train/plan.js';
import { train } from '../src/train/train.js';
import { machine } from './machine.js';
import { SHAPES, makeCheckpoint, makeRandomRows, type Shape } from './shapes.js';

export interface TrainCase {
  shape: string;
  dtype: StorageDtype;
  tokensPerSecond: { p20: number; p50: number; p80: number };
  stepSeconds: { p50: number };
  steps: number;
  firstLoss: number;
  lastLoss: number;
  /** FLOPs of the matrix products of one step: forward, gradients of inputs, and of A and B. */
  gemmFlops: number;
  gemmGflopsPerSecond: number;
  peakResidentBytes: number;
  peakTensorBytes: number | null;
  plan: TrainingPlan['memory'];
  /** peakResidentBytes / plan.total */
  measuredOverPlanned: number;
  threads: number;
  isa: string;
}

/** Matrix products of one LoRA step: frozen weights twice (no dW), adapters three times, attention forward and twice backward. */
export function gemmFlops(shape: Shape, r = 8): number {
  const { hidden: c, intermediate: f, layers, heads, kvHeads, vocab, batch, length } = shape;
  const tokens = batch * length;
  const kv = (c / heads) * kvHeads;
  const linears: [number, number][] = [
    ...([[c, c], [c, kv], [c, kv], [c, c], [c, f], [c, f], [f, c]] as [number, number][]), // prettier-ignore
  ];
  let perLayer = 0;
  for (const [input, output] of linears) perLayer += 2 * tokens * (2 * input * output + 3 * r * (input + output));
  // Causal: half of the T x T products count; two forward, five backward.
  perLayer += 7 * batch * length * length * c;
  return layers * perLayer + 2 * 2 * tokens * c * vocab;
}

export async function trainCase(
  name: string,
  dtype: StorageDtype,
  steps: number,
  folder: string,
  overrides: Record<string, unknown> = {},
): Promise<TrainCase> {
  const shape = SHAPES[name];
  if (shape === undefined) throw new Error(`unknown shape ${name}: ${Object.keys(SHAPES).join(', ')}`);
  const model = makeCheckpoint(path.join(folder, `${name}-${dtype}`), shape, dtype);
  const work = mkdtempSync(path.join(os.tmpdir(), 'nift-bench-'));
  const events: TrainEvent[] = [];
  try {
    const recipe = parseRecipe({
      env: {},
      overrides: {
        model_name_or_path: model,
        dataset_dir: makeRandomRows(path.join(work, 'data'), shape.batch * 2, shape.length, shape.vocab),
        dataset: 'random',
        output_dir: path.join(work, 'out'),
        dtype,
        per_device_train_batch_size: shape.batch,
        max_steps: steps,
        logging_steps: 1,
        learning_rate: 1e-4,
        ...overrides,
      },
    });
    await train(recipe, { onEvent: (event) => events.push(event) });
  } finally {
    rmSync(work, { recursive: true });
  }
  return summary(name, shape, dtype, events);
}

function summary(name: string, shape: Shape, dtype: StorageDtype, events: readonly TrainEvent[]): TrainCase {
  const steps = events.filter((event): event is StepEvent => event.type === 'step');
  const plan = events.find((event) => event.type === 'plan')!.plan.memory;
  const timed = steps.slice(1);
  const speeds = timed.map((step) => step.tokens / step.stepSeconds).sort((a, b) => a - b);
  const at = (share: number): number => speeds[Math.min(speeds.length - 1, Math.floor(share * speeds.length))] ?? 0;
  const last = steps[steps.length - 1]!;
  const seconds = (shape.batch * shape.length) / at(0.5);
  const peak = process.resourceUsage().maxRSS * 1024;
  const info = addon()?.runtimeInfo();
  return {
    shape: name,
    dtype,
    tokensPerSecond: { p20: at(0.2), p50: at(0.5), p80: at(0.8) },
    stepSeconds: { p50: seconds },
    steps: steps.length,
    firstLoss: steps[0]!.loss,
    lastLoss: last.loss,
    gemmFlops: gemmFlops(shape),
    gemmGflopsPerSecond: gemmFlops(shape) / seconds / 1e9,
    peakResidentBytes: peak,
    peakTensorBytes: last.memory.peakTensorBytes,
    plan,
    measuredOverPlanned: peak / plan.total,
    threads: info?.threads ?? 1,
    isa: info?.isa ?? 'none',
  };
}

/** Wraps every kernel of the current backend; `report` gives milliseconds and calls per step. */
function profileKernels(): (steps: number) => Record<string, { ms: number; calls: number }> {
  const spent = new Map<string, { ms: number; calls: number }>();
  const backend = tf.getBackend();
  for (const config of tf.getKernelsForBackend(backend)) {
    tf.unregisterKernel(config.kernelName, backend);
    tf.registerKernel({
      ...config,
      kernelFunc: (parameters) => {
        const start = performance.now();
        const out = config.kernelFunc(parameters);
        const entry = spent.get(config.kernelName) ?? { ms: 0, calls: 0 };
        spent.set(config.kernelName, { ms: entry.ms + performance.now() - start, calls: entry.calls + 1 });
        return out;
      },
    });
  }
  return (steps) =>
    Object.fromEntries(
      [...spent]
        .sort((a, b) => b[1].ms - a[1].ms)
        .map(([name, { ms, calls }]) => [name, { ms: ms / steps, calls: calls / steps }]),
    );
}

/** GFLOP/s of the best of a few large products with our own kernel: what the shares below are measured against. */
function measureGemm(dtype: StorageDtype): number {
  const [m, k, n] = [2048, 2048, 5632];
  const x = tf.randomNormal<tf.Rank.R2>([m, k], 0, 1, 'float32', 1);
  const values = Uint16Array.from({ length: n * k }, (_, i) => 0x3c00 + (i % 977));
  const weight =
    dtype === 'float32' ? tf.randomNormal<tf.Rank.R2>([n, k], 0, 1, 'float32', 2) : makeWeight(values, [n, k], dtype);
  let best = Infinity;
  for (let i = 0; i < 6; i++) {
    const start = performance.now();
    linear(x, weight as tf.Tensor2D, { compute: dtype }).dispose();
    best = Math.min(best, performance.now() - start);
  }
  tf.dispose([x, weight]);
  return (2 * m * k * n) / best / 1e6;
}

async function one([mode, name, dtype, steps, folder, ...rest]: string[]): Promise<void> {
  const overrides = Object.fromEntries(rest.map((pair) => pair.split('=') as [string, string]));
  await useBackend(overrides['backend'] ?? 'native');
  const report = mode === 'profile' ? profileKernels() : null;
  const result = await trainCase(name!, dtype as StorageDtype, Number(steps), folder!, overrides);
  process.stdout.write(`${JSON.stringify(report === null ? result : { ...result, kernels: report(result.steps) })}\n`);
}

/** Every case in a process of its own, between two measurements of the machine's GEMM peak. Appends to bench/results/train.jsonl. */
async function all(shapes: string[]): Promise<void> {
  const folder = path.join(os.tmpdir(), 'nift-bench-checkpoints');
  await useBackend('native');
  for (const shape of shapes) {
    for (const dtype of ['bfloat16', 'float32'] as const) {
      const before = measureGemm(dtype);
      const steps = shape === 'L' ? '4' : '10';
      const output = execFileSync(process.execPath, [process.argv[1]!, 'case', shape, dtype, steps, folder], {
        encoding: 'utf8',
      });
      const result = JSON.parse(output) as TrainCase;
      const peak = Math.max(before, measureGemm(dtype));
      const line = {
        bench: 'train',
        ...machine(),
        ...result,
        gemmPeakGflopsPerSecond: peak,
        shareOfPeak: result.gemmGflopsPerSecond / peak,
      };
      appendFileSync('bench/results/train.jsonl', `${JSON.stringify(line)}\n`);
      const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(0)} MB`;
      process.stdout.write(
        `${shape} ${dtype.padEnd(8)} ${result.tokensPerSecond.p50.toFixed(0)} tokens/s, ${(100 * line.shareOfPeak).toFixed(0)} % of ` +
          `${peak.toFixed(0)} GFLOP/s; peak ${megabytes(result.peakResidentBytes)}, planned ${megabytes(result.plan.total)}\n`,
      );
    }
  }
}

const argv = process.argv.slice(2);
if (argv[0] === 'case' || argv[0] === 'profile') await one(argv);
else if (argv[0] === 'all') await all(argv.length > 1 ? argv.slice(1) : ['S', 'M', 'L']);
