/** Memory of a merge does not grow with the checkpoint: 30 GB of zeros in sparse files, written to nowhere. NIFT_SLOW=1 does all of them. */
import { closeSync, ftruncateSync, mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs';
import path from 'node:path';
import { expect, it } from 'vitest';
import { addon } from '../../src/backend/addon.js';
import { mergePlanReport, planMerge } from '../../src/merge/merge.js';
import { TensorSink } from '../../src/merge/tensorSink.js';
import { byteLengthOf } from '../../src/formats/safetensorsHeader.js';
import { tempFolder } from '../formats/tempFolder.js';
import { makeAdapter } from './fixtures.js';

const ROWS = 32768;
const COLUMNS = 8192;
const TENSORS = 58;
const FILES = 4;
const BYTES = ROWS * COLUMNS * 2;

/** 58 matrices of 512 MiB in 4 files that take no space. */
function sparseModel(folder: string): string {
  mkdirSync(folder);
  const map: Record<string, string> = {};
  for (let file = 0; file < FILES; file++) {
    const names = Array.from({ length: TENSORS }, (_, i) => i).filter((i) => i % FILES === file);
    const entries = names.map((i, at) => [
      `model.layers.${i}.mlp.up_proj.weight`,
      { dtype: 'BF16', shape: [ROWS, COLUMNS], data_offsets: [at * BYTES, (at + 1) * BYTES] },
    ]);
    const header = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(header.length));
    const shard = `model-0000${file + 1}-of-0000${FILES}.safetensors`;
    const fd = openSync(path.join(folder, shard), 'w');
    writeSync(fd, Buffer.concat([length, header]));
    ftruncateSync(fd, 8 + header.length + names.length * BYTES);
    closeSync(fd);
    for (const [name] of entries) map[name as string] = shard;
  }
  writeFileSync(path.join(folder, 'config.json'), '{"model_type": "none"}');
  writeFileSync(path.join(folder, 'model.safetensors.index.json'), JSON.stringify({ weight_map: map }));
  return folder;
}

it.skipIf(addon() === null)(
  '30 GB in less than a quarter of the largest tensor',
  async () => {
    const temp = tempFolder();
    const model = sparseModel(path.join(temp, 'model'));
    const adapted = [0, 1, 2].map((layer) => `model.layers.${layer}.mlp.up_proj`);
    const adapter = makeAdapter(
      path.join(temp, 'adapter'),
      { r: 8 },
      Object.fromEntries(
        adapted.flatMap((name, i) => [
          [`${name}.lora_A.weight`, { shape: [8, COLUMNS], seed: i }],
          [`${name}.lora_B.weight`, { shape: [ROWS, 8], seed: i }],
        ]),
      ),
    );
    const start = performance.now();
    const plan = planMerge({ model, adapters: [{ folder: adapter }] });
    const report = mergePlanReport(plan, path.join(temp, 'out'));
    expect(performance.now() - start).toBeLessThan(2000);
    expect(plan.rewrite.outputBytes).toBeGreaterThan(30e9);
    expect(plan.rewrite.shards.length).toBeGreaterThan(6);
    expect(report['largestTensorBytes']).toBe(BYTES);
    expect(plan.rewrite.workingBytes).toBeLessThan(BYTES / 4);

    const slow = process.env['NIFT_SLOW'] === '1';
    const all = plan.rewrite.shards.flatMap((shard) => shard.tensors);
    const chosen = slow ? all : all.filter((tensor) => /layers\.[03]\./.test(tensor.name));
    // Nothing of this process should count.
    const before = process.resourceUsage().maxRSS * 1024;
    for (const tensor of chosen) {
      const sink = new TensorSink(-1, 'nowhere', 0, byteLengthOf(tensor.dtype, tensor.shape, tensor.name));
      await tensor.write(sink);
      expect(sink.complete).toBe(true);
    }
    expect(process.resourceUsage().maxRSS * 1024 - before).toBeLessThan(plan.rewrite.workingBytes);
    plan.close();
  },
  600_000,
);
