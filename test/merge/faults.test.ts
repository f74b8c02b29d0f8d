/** What happens when things go wrong: one clear error, the source untouched, nothing that looks finished, and a way on. */
import { execFileSync, spawn } from 'node:child_process';
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { sha256File } from '../../src/formats/atomic.js';
import { merge, planMerge, runMerge } from '../../src/merge/merge.js';
import { JOURNAL_FILE } from '../../src/merge/journal.js';
import { nift, root } from '../cli/run.js';
import { tempFolder } from '../formats/tempFolder.js';
import { HIDDEN, makeAdapter, makeModel } from './fixtures.js';

const temp = tempFolder();
let counter = 0;
const fresh = (name: string): string => path.join(temp, `${name}-${counter++}`);
const Q = 'model.layers.0.self_attn.q_proj';
const SHARD = 3000;

const adapter = makeAdapter(
  fresh('adapter'),
  {},
  {
    [`${Q}.lora_A.weight`]: { shape: [4, HIDDEN], seed: 1 },
    [`${Q}.lora_B.weight`]: { shape: [HIDDEN, 4], seed: 2 },
  },
);
const model = makeModel(fresh('model'), { maxShardBytes: 6000 });
const plain = { model, adapters: [{ folder: adapter }], maxShardBytes: SHARD, verify: 0, sync: false };

const hashes = (folder: string): Record<string, string> =>
  Object.fromEntries(
    readdirSync(folder)
      .sort()
      .map((name) => [name, sha256File(path.join(folder, name))]),
  );
/** Weights and config; the card names the output folder. */
const weightsOf = (folder: string): Record<string, string> =>
  Object.fromEntries(Object.entries(hashes(folder)).filter(([name]) => !/README|manifest/.test(name)));
const source = hashes(model);
const straight = fresh('straight');
await merge({ ...plain, out: straight });
const expected = weightsOf(straight);

/** Stops after `count` tensors. */
async function interrupt(out: string, count: number, options: object = {}): Promise<void> {
  const controller = new AbortController();
  let seen = 0;
  const onProgress = (): void => {
    if (++seen === count) controller.abort();
  };
  await expect(merge({ ...plain, out, signal: controller.signal, onProgress, ...options })).rejects.toMatchObject({
    code: 'NIFT_INTERRUPTED',
  });
}

describe('a stop', () => {
  it.each([3, 7, 12])('after %i tensors leaves nothing finished, and resumes to the same bytes', async (count) => {
    const out = fresh('out');
    await interrupt(out, count);
    expect(existsSync(out)).toBe(false);
    expect(readdirSync(`${out}.partial`)).not.toContain('config.json');
    const result = await merge({ ...plain, out, resume: true });
    expect(result.resumedShards).toBeGreaterThan(0);
    expect(weightsOf(out)).toEqual(expected);
    expect(existsSync(`${out}.partial`)).toBe(false);
    expect(hashes(model)).toEqual(source);
  });

  it('takes up only shards that still are what the journal says, through a torn last line', async () => {
    const out = fresh('out');
    await interrupt(out, 12);
    const partial = `${out}.partial`;
    const [first] = readdirSync(partial).filter((name) => name.endsWith('.safetensors'));
    const bytes = readFileSync(path.join(partial, first!));
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(path.join(partial, first!), bytes);
    appendFileSync(path.join(partial, JOURNAL_FILE), '{"file":"model-000');
    const result = await merge({ ...plain, out, resume: true });
    expect(result.resumedShards).toBeGreaterThan(0);
    expect(weightsOf(out)).toEqual(expected);
  });

  it('is not continued as another merge; without --resume it is started anew', async () => {
    const out = fresh('out');
    await interrupt(out, 7);
    await expect(merge({ ...plain, adapters: [{ folder: adapter, weight: 0.5 }], out, resume: true })).rejects.toMatchObject({
      code: 'NIFT_RESUME',
    });
    const result = await merge({ ...plain, out });
    expect([result.discarded, result.resumedShards]).toEqual([true, 0]);
    expect(weightsOf(out)).toEqual(expected);
  });

  it('never touches a partial folder of somebody else, or of a process at work', async () => {
    const out = fresh('out');
    mkdirSync(`${out}.partial`);
    await expect(merge({ ...plain, out })).rejects.toMatchObject({ code: 'NIFT_OUTPUT_DIR' });
    writeFileSync(path.join(`${out}.partial`, JOURNAL_FILE), `${JSON.stringify({ nift: '0', plan: 'x', pid: process.ppid })}\n`);
    await expect(merge({ ...plain, out, resume: true })).rejects.toThrow(/is writing it/);
  });
});

describe('kill -9', () => {
  // Large enough to be caught in the act: 24 shards of zeros on disk.
  const big = fresh('big');
  const tensors = 24;
  const shape = [2048, HIDDEN * 64];
  const size = shape[0]! * shape[1]! * 4;
  mkdirSync(big);
  const map: Record<string, string> = {};
  for (let i = 0; i < tensors; i++) {
    const name = `model.layers.${i}.self_attn.q_proj.weight`;
    const header = Buffer.from(JSON.stringify({ [name]: { dtype: 'F32', shape, data_offsets: [0, size] } }));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(header.length));
    const file = path.join(big, `part-${i}.safetensors`);
    writeFileSync(file, Buffer.concat([length, header]));
    truncateSync(file, 8 + header.length + size);
    map[name] = path.basename(file);
  }
  writeFileSync(path.join(big, 'config.json'), '{"model_type": "none"}');
  writeFileSync(path.join(big, 'model.safetensors.index.json'), JSON.stringify({ weight_map: map }));
  const wide = makeAdapter(
    fresh('adapter'),
    {},
    {
      [`${Q}.lora_A.weight`]: { shape: [4, shape[1]!], seed: 1 },
      [`${Q}.lora_B.weight`]: { shape: [shape[0]!, 4], seed: 2 },
    },
  );
  const args = (out: string): string[] => [
    'merge',
    '--model',
    big,
    '--adapter',
    wide,
    '--out',
    out,
    '--max-shard-size',
    '13MB',
    '--verify',
    '0',
    '--no-sync',
  ];

  it('at random moments', async () => {
    const whole = fresh('out');
    expect(await nift(args(whole))).toMatchObject({ code: 0 });
    const reference = weightsOf(whole);
    rmSync(whole, { recursive: true });
    const before = hashes(big);
    let caught = 0;
    for (let round = 0; round < 5; round++) {
      const out = fresh('out');
      const child = spawn(process.execPath, [path.join(root, 'bin', 'nift.mjs'), ...args(out)], { stdio: 'ignore' });
      const done = new Promise<NodeJS.Signals | null>((resolve) => child.on('exit', (_code, signal) => resolve(signal)));
      // From the moment on which there is something to lose.
      const partial = `${out}.partial`;
      const wanted = 1 + round * 5;
      while (child.exitCode === null && !existsSync(out) && !(existsSync(partial) && readdirSync(partial).length > wanted))
        await new Promise((resolve) => setTimeout(resolve, 2));
      child.kill('SIGKILL');
      if ((await done) === 'SIGKILL' && !existsSync(out)) {
        caught++;
        expect(readdirSync(temp).filter((name) => name.startsWith(path.basename(out)))).toEqual([path.basename(partial)]);
        expect(await nift([...args(out), '--resume'])).toMatchObject({ code: 0 });
      }
      expect(weightsOf(out)).toEqual(reference);
      rmSync(out, { recursive: true });
    }
    expect(caught).toBeGreaterThan(0);
    expect(hashes(big)).toEqual(before);
  });

  it('SIGINT stops at a tensor with exit code 130', async () => {
    const out = fresh('out');
    const child = spawn(process.execPath, [path.join(root, 'bin', 'nift.mjs'), ...args(out)], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let stderr = '';
    child.stderr.on('data', (text: Buffer) => (stderr += text.toString()));
    const done = new Promise<number | null>((resolve) => child.on('exit', (code) => resolve(code)));
    while (child.exitCode === null && !(existsSync(`${out}.partial`) && readdirSync(`${out}.partial`).length > 3))
      await new Promise((resolve) => setTimeout(resolve, 2));
    child.kill('SIGINT');
    const code = await done;
    if (code === 0) return; // It was quicker.
    expect(code).toBe(130);
    expect(stderr).toContain('--resume');
    expect(existsSync(out)).toBe(false);
  });
});

describe('a damaged source', () => {
  it('that is cut short is refused before anything is written', async () => {
    const cut = makeModel(fresh('model'), { maxShardBytes: 6000 });
    const shard = path.join(
      cut,
      readdirSync(cut).find((name) => name.endsWith('.safetensors'))!,
    );
    truncateSync(shard, readFileSync(shard).length - 5);
    const out = fresh('out');
    await expect(merge({ ...plain, model: cut, out })).rejects.toMatchObject({ code: 'NIFT_SAFETENSORS_TRUNCATED' });
    expect(existsSync(out) || existsSync(`${out}.partial`)).toBe(false);
  });

  it('that is cut short meanwhile is one error, and nothing stays', async () => {
    const cut = makeModel(fresh('model'), { maxShardBytes: 6000 });
    const plan = planMerge({ ...plain, model: cut });
    const shards = readdirSync(cut).filter((name) => name.endsWith('.safetensors'));
    truncateSync(path.join(cut, shards[shards.length - 1]!), 600);
    const out = fresh('out');
    await expect(runMerge(plan, { out, verify: 0 })).rejects.toMatchObject({
      code: 'NIFT_FILE_IO',
      message: expect.stringContaining('shorter') as string,
    });
    plan.close();
    expect(existsSync(out) || existsSync(`${out}.partial`)).toBe(false);
  });

  it('that changes between merge and check is noticed', async () => {
    const changed = makeModel(fresh('model'));
    const plan = planMerge({ ...plain, model: changed });
    const out = fresh('out');
    const file = path.join(changed, 'model.safetensors');
    const onVerify = (): void => {
      const bytes = readFileSync(file);
      bytes[bytes.length - 1]! ^= 1;
      writeFileSync(file, bytes);
    };
    await expect(runMerge(plan, { out, verify: 1, onVerify })).rejects.toMatchObject({ code: 'NIFT_MERGE_CHECK' });
    plan.close();
    expect(existsSync(out) || existsSync(`${out}.partial`)).toBe(false);
  });
});

describe('folders', () => {
  it('refuses to write into, around or below its inputs', async () => {
    const folders = [model, adapter, path.join(model, 'below'), path.dirname(model), `${model}/../${path.basename(model)}`];
    for (const out of folders)
      await expect(merge({ ...plain, out, overwrite: true }), out).rejects.toMatchObject({ code: 'NIFT_OUTPUT_DIR' });
    expect(hashes(model)).toEqual(source);
  });

  it('replaces an output folder only when told to', async () => {
    const out = fresh('out');
    mkdirSync(out);
    writeFileSync(path.join(out, 'mine.txt'), 'x');
    await expect(merge({ ...plain, out })).rejects.toMatchObject({ code: 'NIFT_OUTPUT_DIR' });
    expect(readdirSync(out)).toEqual(['mine.txt']);
    await merge({ ...plain, out, overwrite: true });
    expect(weightsOf(out)).toEqual(expected);
  });

  it('reads snapshots of the hub cache, which are links to blobs, by the name of their repository', async () => {
    const cache = path.join(fresh('hub'), 'models--org--Base-1B');
    const snapshot = path.join(cache, 'snapshots', '0123abcd');
    mkdirSync(path.join(cache, 'blobs'), { recursive: true });
    mkdirSync(snapshot, { recursive: true });
    const copy = makeModel(fresh('model'), { maxShardBytes: 6000 });
    readdirSync(copy).forEach((name, i) => {
      renameSync(path.join(copy, name), path.join(cache, 'blobs', `blob${i}`));
      symlinkSync(path.join('..', '..', 'blobs', `blob${i}`), path.join(snapshot, name));
    });
    const named = makeAdapter(
      fresh('adapter'),
      { base_model_name_or_path: 'org/base-1b' },
      {
        [`${Q}.lora_A.weight`]: { shape: [4, HIDDEN], seed: 1 },
        [`${Q}.lora_B.weight`]: { shape: [HIDDEN, 4], seed: 2 },
      },
    );
    const out = fresh('out');
    await merge({ ...plain, model: snapshot, adapters: [{ folder: named }], out });
    expect(weightsOf(out)).toEqual(expected);
    expect(execFileSync('find', [out, '-type', 'l'], { encoding: 'utf8' })).toBe('');
  });
});

/** A small file system of its own, where the machine lets us have one. */
function smallDisk(kilobytes: number): string | null {
  const folder = fresh('disk');
  mkdirSync(folder);
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${kilobytes}k`, 'tmpfs', folder], { stdio: 'ignore' });
    mounted.push(folder);
    return folder;
  } catch {
    return null;
  }
}
const mounted: string[] = [];
afterAll(() => {
  for (const folder of mounted) execFileSync('umount', [folder]);
});

describe('a full disk', () => {
  it('is known before anything is written', async (context) => {
    const disk = smallDisk(48);
    if (disk === null) return context.skip();
    await expect(merge({ ...plain, out: path.join(disk, 'out') })).rejects.toMatchObject({
      code: 'NIFT_DISK_FULL',
      message: expect.stringContaining('are free') as string,
    });
    expect(readdirSync(disk)).toEqual([]);
  });

  it('keeps what is finished for --resume', async (context) => {
    const disk = smallDisk(4096);
    if (disk === null) return context.skip();
    const out = path.join(disk, 'out');
    const filler = path.join(disk, 'filler');
    let seen = 0;
    const onProgress = (): void => {
      if (++seen !== 7) return;
      try {
        writeFileSync(filler, Buffer.alloc(100e6));
      } catch {
        // Full now.
      }
    };
    await expect(merge({ ...plain, out, onProgress })).rejects.toMatchObject({ code: 'NIFT_DISK_FULL' });
    expect(readdirSync(disk).sort()).toEqual(['filler', 'out.partial']);
    rmSync(filler);
    const result = await merge({ ...plain, out, resume: true });
    expect(result.resumedShards).toBeGreaterThan(0);
    expect(weightsOf(out)).toEqual(expected);
  });
});
