/** Writing: byte for byte what the reference implementation writes, one tensor at a time, and nothing partial. */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { NiftError } from '../../src/errors.js';
import { openSafetensors } from '../../src/formats/safetensors.js';
import { writeSafetensors, writeShards, type TensorToWrite } from '../../src/formats/safetensorsWriter.js';
import { openCheckpointTensors } from '../../src/formats/shards.js';
import { hasShared, shared } from '../golden.js';
import { tempFolder } from './tempFolder.js';

const folder = tempFolder();
const at = (name: string): string => path.join(folder, name);

const vector = (name: string, ...values: number[]): TensorToWrite => ({
  name,
  dtype: 'F32',
  shape: [values.length],
  data: new Float32Array(values),
});

describe('writeSafetensors', () => {
  it('sorts by dtype and name, pads the header, and reads back', () => {
    const tensors: TensorToWrite[] = [
      { name: 'flag', dtype: 'BOOL', shape: [3], data: new Uint8Array([1, 0, 1]) },
      { name: 'b', dtype: 'F32', shape: [2, 1], data: new Float32Array([1, 2]) },
      { name: 'ids', dtype: 'I64', shape: [1], data: new BigInt64Array([5n]) },
      { name: 'h', dtype: 'BF16', shape: [], data: new Uint16Array([0x3f80]) },
      { name: 'a', dtype: 'F32', shape: [0, 7], data: new Float32Array(0) },
      { name: 'd', dtype: 'F64', shape: [1], data: new Float64Array([0.5]) },
      { name: 'i', dtype: 'I32', shape: [1], data: new Int32Array([-1]) },
      { name: 'f', dtype: 'F16', shape: [1], data: new Uint16Array([0x3c00]) },
      { name: 's', dtype: 'I16', shape: [1], data: new Int16Array([-2]) },
      { name: 'c', dtype: 'I8', shape: [1], data: new Int8Array([-3]) },
      { name: 'u', dtype: 'U8', shape: [1], data: new Uint8Array([4]) },
    ];
    writeSafetensors(at('all.safetensors'), tensors, { format: 'pt', note: 'ä "quoted"' });
    const bytes = readFileSync(at('all.safetensors'));
    expect(Number(bytes.readBigUInt64LE(0)) % 8).toBe(0);
    const file = openSafetensors(at('all.safetensors'));
    expect(file.names()).toEqual(['ids', 'd', 'a', 'b', 'i', 'h', 'f', 's', 'c', 'u', 'flag']);
    expect({ ...file.metadata }).toEqual({ format: 'pt', note: 'ä "quoted"' });
    for (const { name, dtype, shape, data } of tensors) {
      expect(file.info(name)).toMatchObject({ dtype, shape });
      expect(file.typed(name)).toEqual(data);
    }
    file.close();
  });

  it('takes tensors one at a time, from one buffer', () => {
    const buffer = new Float32Array(4);
    let live = 0;
    const tensors = Array.from({ length: 5 }, (_, i): TensorToWrite => ({
      name: `t${i}`,
      dtype: 'F32',
      shape: [4],
      data: () => {
        live++;
        return buffer.fill(i);
      },
    }));
    writeSafetensors(at('stream.safetensors'), tensors);
    const file = openSafetensors(at('stream.safetensors'));
    expect(live).toBe(5);
    expect(file.names().map((name) => file.readFloat32(name)[3])).toEqual([0, 1, 2, 3, 4]);
    file.close();
  });

  it.each([
    ['NIFT_SAFETENSORS_SIZE', [{ ...vector('x', 1, 2), shape: [3] }]],
    ['NIFT_SAFETENSORS_DUPLICATE', [vector('x', 1), vector('x', 2)]],
    ['NIFT_SAFETENSORS_METADATA', [vector('__metadata__', 1)]],
    ['NIFT_SAFETENSORS_SHAPE', [{ ...vector('x', 1), shape: [-1] }]],
    ['NIFT_SAFETENSORS_OVERFLOW', [{ ...vector('x', 1), shape: [2 ** 40, 2 ** 40] }]],
    ['NIFT_SAFETENSORS_DTYPE', [{ ...vector('x', 1), dtype: 'F8' as 'F32' }]],
  ])('refuses what it could not read back: %s', (code, tensors) => {
    const target = at('refused.safetensors');
    expect(() => writeSafetensors(target, tensors)).toThrow(NiftError);
    expect(() => writeSafetensors(target, tensors)).toThrow(expect.objectContaining({ code }) as Error);
    expect(readdirSync(folder).filter((name) => name.startsWith('refused'))).toEqual([]);
  });

  it('keeps the old file when a tensor fails half way', () => {
    const target = at('kept.safetensors');
    writeSafetensors(target, [vector('x', 1)]);
    const failing: TensorToWrite = { ...vector('y', 1), data: () => { throw new RangeError('device lost'); } }; // prettier-ignore
    expect(() => writeSafetensors(target, [vector('a', 1), failing])).toThrow('device lost');
    expect(openSafetensors(target).names()).toEqual(['x']);
    expect(readdirSync(folder).filter((name) => name.includes('.tmp-'))).toEqual([]);
  });
});

describe('writeShards', () => {
  const tensors = ['e', 'c', 'a', 'd', 'b'].map((name, i) => vector(name, i, i, i, i));

  it('fills shards in order and writes an index that the reader accepts', () => {
    const dir = at('sharded');
    mkdirSync(dir);
    writeFileSync(path.join(dir, 'model.safetensors'), 'left over');
    writeFileSync(path.join(dir, 'tokenizer.json'), '{}');
    const names = writeShards(dir, tensors, { maxShardBytes: 33 });
    expect(names).toEqual([
      'model-00001-of-00003.safetensors',
      'model-00002-of-00003.safetensors',
      'model-00003-of-00003.safetensors',
      'model.safetensors.index.json',
    ]);
    expect(readdirSync(dir).sort()).toEqual([...names, 'tokenizer.json'].sort());
    const index = JSON.parse(readFileSync(path.join(dir, 'model.safetensors.index.json'), 'utf8'));
    expect(index.metadata).toEqual({ total_parameters: 20, total_size: 80 });
    expect(Object.keys(index.weight_map)).toEqual(['a', 'b', 'c', 'd', 'e']);
    const opened = openCheckpointTensors(dir);
    for (const { name, data } of tensors) expect(opened.typed(name)).toEqual(data);
    opened.close();
    expect(writeShards(dir, tensors)).toEqual(['model.safetensors']);
    expect(readdirSync(dir).sort()).toEqual(['model.safetensors', 'tokenizer.json']);
  });

  it('gives a tensor larger than a shard a file of its own', () => {
    const dir = at('large');
    mkdirSync(dir);
    expect(writeShards(dir, tensors, { maxShardBytes: 1 }).length).toBe(6);
    openCheckpointTensors(dir).close();
  });

  it('refuses one name in two shards', () => {
    const dir = at('twice');
    mkdirSync(dir);
    expect(() => writeShards(dir, [vector('x', 1), vector('x', 1)], { maxShardBytes: 4 })).toThrow(/given twice/);
  });
});

describe.skipIf(!hasShared)('files of the reference implementation', () => {
  const files = hasShared
    ? [
        ...readdirSync(shared('models')).flatMap((model) =>
          readdirSync(shared('models', model))
            .filter((name) => name.endsWith('.safetensors'))
            .map((name) => shared('models', model, name)),
        ),
        ...readdirSync(shared('golden', 'forward')).filter((name) => name.endsWith('.safetensors')).map((name) => shared('golden', 'forward', name)), // prettier-ignore
        shared('golden', 'lora', 'tiny-llama3-r8', 'adapter_model.safetensors'),
        shared('golden', 'units', 'rounding.safetensors'),
      ]
    : [];

  it.each(files)('%s is written again byte for byte', (file) => {
    const source = openSafetensors(file);
    const tensors = source.names().map((name): TensorToWrite => ({ name, ...source.info(name), data: () => source.bytes(name) }));
    writeSafetensors(at('again.safetensors'), tensors.reverse(), { ...source.metadata });
    expect(Buffer.compare(readFileSync(at('again.safetensors')), readFileSync(file))).toBe(0);
    source.close();
  });
});
