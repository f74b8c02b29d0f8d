/**
 * Stock TF.js ops on backend `native` beside the stock `cpu` backend, in one run, at one training-sized tensor; and the
 * bytes that each native op moves beside what a plain copy of the same memory reaches right before it.
 *
 *   npm run bench -- stockOps       prints a table on stderr, one JSON line per op on stdout
 */
import { addon } from '../src/backend/addon.js';
import { useBackend } from '../src/backend/index.js';
import { tf, type Tensor, type Tensor1D, type Tensor2D } from '../src/backend/tf.js';
import { medianSeconds } from './peak.js';

const SIZE = 2048;
const BYTES = SIZE * SIZE * 4;

interface Inputs {
  a: Tensor2D;
  b: Tensor2D;
  row: Tensor1D;
  column: Tensor2D;
  order: Tensor1D;
  mask: Tensor;
}

/** [op, bytes read and written in multiples of one tensor] */
const OPS: Record<string, [(inputs: Inputs) => Tensor, number]> = {
  add: [({ a, b }) => tf.add(a, b), 3],
  'add row': [({ a, row }) => tf.add(a, row), 2],
  'multiply by column': [({ a, column }) => tf.mul(a, column), 2],
  divide: [({ a, b }) => tf.div(a, b), 3],
  maximum: [({ a, b }) => tf.maximum(a, b), 3],
  greater: [({ a, b }) => tf.greater(a, b), 2.25],
  square: [({ a }) => tf.square(a), 2],
  sqrt: [({ b }) => tf.sqrt(b), 2],
  exp: [({ a }) => tf.exp(a), 2],
  log: [({ b }) => tf.log(b), 2],
  tanh: [({ a }) => tf.tanh(a), 2],
  sigmoid: [({ a }) => tf.sigmoid(a), 2],
  relu: [({ a }) => tf.relu(a), 2],
  'addN of 3': [({ a, b }) => tf.addN([a, b, a]), 6],
  where: [({ a, b, mask }) => tf.where(mask, a, b), 3.25],
  'sum of all': [({ a }) => tf.sum(a), 1],
  'sum over rows': [({ a }) => tf.sum(a, 0), 1],
  'mean over columns': [({ a }) => tf.mean(a, 1), 1],
  'max over columns': [({ a }) => tf.max(a, 1), 1],
  softmax: [({ a }) => tf.softmax(a), 2],
  transpose: [({ a }) => tf.transpose(a), 2],
  'transpose heads': [({ a }) => tf.transpose(tf.reshape(a, [4, 512, 32, 64]), [0, 2, 1, 3]), 2],
  slice: [({ a }) => tf.slice(a, [0, 100], [SIZE, SIZE / 2]), 1],
  concat: [({ a, b }) => tf.concat([a, b], 1), 4],
  gather: [({ a, order }) => tf.gather(a, order), 2],
  'cast to int32': [({ a }) => tf.cast(a, 'int32'), 2],
  fill: [() => tf.fill([SIZE, SIZE], 1), 1],
};

async function measure(backend: string): Promise<Record<string, { seconds: number; copySeconds: number }>> {
  await useBackend(backend);
  const order = Int32Array.from({ length: SIZE }, (_, i) => (i * 7919) % SIZE);
  const a = tf.randomUniform<tf.Rank.R2>([SIZE, SIZE], -1, 1, 'float32', 1);
  const b = tf.randomUniform<tf.Rank.R2>([SIZE, SIZE], 0.1, 1, 'float32', 2);
  const inputs: Inputs = {
    a,
    b,
    row: tf.ones([SIZE]),
    column: tf.ones([SIZE, 1]),
    order: tf.tensor1d(order, 'int32'),
    mask: tf.greater(a, 0),
  };
  const results: Record<string, { seconds: number; copySeconds: number }> = {};
  const [from, to] = [new Float32Array(SIZE * SIZE), new Float32Array(SIZE * SIZE)];
  const copy = (): void => addon()?.copyRows(from, SIZE, SIZE, to, 0, SIZE) ?? to.set(from);
  for (const [name, [op]] of Object.entries(OPS)) {
    const copySeconds = medianSeconds(copy, 15);
    results[name] = { seconds: medianSeconds(() => op(inputs).dispose(), backend === 'native' ? 25 : 3), copySeconds };
  }
  tf.dispose(Object.values(inputs) as Tensor[]);
  return results;
}

const native = await measure('native');
const cpu = await measure('cpu');
const { isa, threads } = addon()?.runtimeInfo() ?? { isa: 'none', threads: 1 };
for (const [name, [, moves]] of Object.entries(OPS)) {
  const { seconds, copySeconds } = native[name] as { seconds: number; copySeconds: number };
  const bytesPerSecond = (moves * BYTES) / seconds;
  const result = {
    op: name,
    milliseconds: seconds * 1e3,
    gigabytesPerSecond: bytesPerSecond / 1e9,
    shareOfCopy: bytesPerSecond / ((2 * BYTES) / copySeconds),
    timesStockCpu: (cpu[name] as { seconds: number }).seconds / seconds,
    isa,
    threads,
  };
  process.stdout.write(`${JSON.stringify(result)}\n`);
  process.stderr.write(
    `${name.padEnd(20)} ${result.milliseconds.toFixed(2).padStart(8)} ms ${result.gigabytesPerSecond.toFixed(1).padStart(6)} GB/s` +
      ` ${(result.shareOfCopy * 100).toFixed(0).padStart(4)} % of copy ${result.timesStockCpu.toFixed(1).padStart(7)} x cpu\n`,
  );
}
