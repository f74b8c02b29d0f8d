/** Differences that were put in are the ones that are found. */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { writeCheckpoint } from '../../src/formats/checkpoint.js';
import { floatToHalf } from '../../src/formats/half.js';
import type { TensorToWrite } from '../../src/formats/safetensorsWriter.js';
import { diffModels } from '../../src/merge/diff.js';
import { normalArray } from '../../src/random.js';
import { makeAdapter } from '../adapter/fixtures.js';
import { tempFolder } from '../formats/tempFolder.js';

const root = tempFolder();
// Larger than a block of the reader, so that the last elements are in the second one.
const LONG = 300_000;
const values = normalArray(LONG, 1, 1);

function checkpoint(
  name: string,
  tensors: TensorToWrite[],
  config: object = { model_type: 'llama' },
  maxShardBytes = 1e9,
): string {
  const folder = path.join(root, name);
  writeCheckpoint(folder, { config, tensors, maxShardBytes });
  return folder;
}

const f32 = (name: string, data: Float32Array, shape = [data.length]): TensorToWrite => ({ name, dtype: 'F32', shape, data });
const ids = (...data: bigint[]): TensorToWrite => ({
  name: 'ids',
  dtype: 'I64',
  shape: [data.length],
  data: BigInt64Array.from(data),
});
const A = checkpoint('a', [f32('long', values), f32('same', Float32Array.of(1, NaN, -0)), ids(1n, 2n, 3n)]);

describe('diff', () => {
  it('finds nothing in equal checkpoints, however they are sharded; NaN and -0 are themselves', async () => {
    const sharded = checkpoint(
      'sharded',
      [f32('long', values), f32('same', Float32Array.of(1, NaN, -0)), ids(1n, 2n, 3n)],
      undefined,
      100,
    );
    expect(await diffModels(A, sharded)).toMatchObject({ equal: true, tensors: 3, equalTensors: 3, differing: [], relative: 0 });
    expect((await diffModels(A, A)).equal).toBe(true);
  });

  it('counts elements, the largest change and the relative norm', async () => {
    const changed = Float32Array.from(values);
    changed[5]! += 0.5;
    changed[LONG - 1]! -= 2;
    const b = checkpoint('b', [f32('long', changed), f32('same', Float32Array.of(1, 2, -0)), ids(1n, 5n, 3n)]);
    const report = await diffModels(A, b);
    const [same, integers, long] = ['same', 'ids', 'long'].map((name) => report.differing.find((entry) => entry.name === name)!);
    const [first, last] = [changed[5]! - values[5]!, changed[LONG - 1]! - values[LONG - 1]!];
    const norm = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
    expect(long).toMatchObject({ elements: LONG, differing: 2, maxAbs: Math.abs(last), dtypes: null });
    expect(long!.relative).toBeCloseTo(Math.hypot(first, last) / norm, 12);
    expect(same).toMatchObject({ differing: 1, maxAbs: Infinity, relative: Infinity });
    expect(integers).toMatchObject({ differing: 1, maxAbs: null, relative: null });
    expect(report).toMatchObject({ equal: false, equalTensors: 0 });
  });

  it('compares values across dtypes, and says that they differ', async () => {
    const bits = new Uint16Array(LONG);
    floatToHalf(values, 'BF16', bits);
    const b = checkpoint('bf16', [
      { name: 'long', dtype: 'BF16', shape: [LONG], data: bits },
      f32('same', Float32Array.of(1, NaN, -0)),
      ids(1n, 2n, 3n),
    ]);
    const { differing } = await diffModels(A, b);
    expect(differing).toMatchObject([{ name: 'long', dtypes: ['F32', 'BF16'] }]);
    expect(differing[0]!.relative).toBeGreaterThan(1e-3);
    expect(differing[0]!.relative).toBeLessThan(2 ** -8);
  });

  it('lists missing, extra and misshapen tensors, config keys and tokenizer files', async () => {
    const c = checkpoint(
      'c',
      [f32('same', Float32Array.of(1, NaN, -0), [1, 3]), ids(1n, 2n, 3n), f32('new', Float32Array.of(1))],
      {
        model_type: 'llama',
        rope: { theta: 2 },
      },
    );
    writeFileSync(path.join(c, 'tokenizer.json'), '{}');
    const report = await diffModels(A, c);
    expect(report).toMatchObject({
      equal: false,
      missing: ['long'],
      extra: ['new'],
      misshapen: [{ name: 'same', a: [3], b: [1, 3] }],
      config: [{ file: 'config.json', key: 'rope', a: null, b: { theta: 2 } }],
      tokenizer: ['tokenizer.json'],
    });
    const nested = checkpoint('d', [], { model_type: 'llama', rope: { theta: 3, kind: 'x' } });
    const keys = (await diffModels(c, nested)).config;
    expect(keys).toEqual([
      { file: 'config.json', key: 'rope.kind', a: null, b: 'x' },
      { file: 'config.json', key: 'rope.theta', a: 2, b: 3 },
    ]);
  });

  it('takes adapters and single files, and refuses what is not there', async () => {
    const [x, y] = [1, 2].map((seed) =>
      makeAdapter(root, `adapter${seed}`, { modules: { 'm.q_proj': [4, 3] }, r: 2, alpha: 2 * seed, seed }),
    );
    const report = await diffModels(x!, y!);
    expect(report.differing).toHaveLength(2);
    expect(report.config).toEqual([{ file: 'adapter_config.json', key: 'lora_alpha', a: 2, b: 4 }]);
    const file = path.join(x!, 'adapter_model.safetensors');
    expect(await diffModels(file, x!)).toMatchObject({ equal: true, tensors: 2 });
    await expect(diffModels(A, path.join(root, 'nowhere'))).rejects.toMatchObject({ code: 'NIFT_FILE_NOT_FOUND' });
  });
});
