/** Reading: values, views and their lifetime, shards, and one error per kind of lie. */
import {
  closeSync,
  copyFileSync,
  cpSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { addon } from '../../src/backend/addon.js';
import { NiftError, type ErrorCode } from '../../src/errors.js';
import { openSafetensors, type SafetensorsFile } from '../../src/formats/safetensors.js';
import { openCheckpointTensors } from '../../src/formats/shards.js';
import { hasShared, shared } from '../golden.js';
import { tempFolder } from './tempFolder.js';

const folder = tempFolder();
let files = 0;

/** A file from raw parts: header text (or object), data, and optionally a lie about the length. */
function write(header: string | object | Uint8Array, data: Uint8Array = new Uint8Array(), claimed?: bigint): string {
  const json = header instanceof Uint8Array ? header : Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(claimed ?? BigInt(json.length));
  const file = path.join(folder, `t${files++}.safetensors`);
  writeFileSync(file, Buffer.concat([prefix, json, data]));
  return file;
}

function codeOf(action: () => unknown): ErrorCode {
  try {
    action();
  } catch (error) {
    if (error instanceof NiftError) return error.code;
    throw error;
  }
  throw new Error('nothing was thrown');
}

function lengthOrCode(action: () => Uint8Array): number | ErrorCode {
  try {
    return action().length;
  } catch (error) {
    if (error instanceof NiftError) return error.code;
    throw error;
  }
}

const tensor = (dtype: unknown, shape: unknown, data_offsets: unknown): object => ({ dtype, shape, data_offsets });

describe.each([
  ['mapped', true],
  ['positioned reads', false],
])('values, %s', (_, map) => {
  it('reads every dtype', () => {
    const data = new DataView(new ArrayBuffer(64));
    data.setFloat64(0, -1.5, true);
    data.setBigInt64(8, -(2n ** 62n), true);
    data.setFloat32(16, 0.1, true);
    data.setInt32(20, -7, true);
    data.setUint16(24, 0x3c00, true); // F16 1
    data.setUint16(26, 0xc000, true); // BF16 -2
    data.setInt16(28, -300, true);
    data.setInt8(30, -5);
    data.setUint8(31, 200);
    data.setUint8(32, 1);
    const file = openSafetensors(
      write(
        {
          a: tensor('F64', [1], [0, 8]),
          b: tensor('I64', [1], [8, 16]),
          c: tensor('F32', [1], [16, 20]),
          d: tensor('I32', [1, 1], [20, 24]),
          e: tensor('F16', [], [24, 26]),
          f: tensor('BF16', [1], [26, 28]),
          g: tensor('I16', [1], [28, 30]),
          h: tensor('I8', [1], [30, 31]),
          i: tensor('U8', [1], [31, 32]),
          j: tensor('BOOL', [1], [32, 33]),
          k: tensor('F32', [0, 4], [33, 33]),
          __metadata__: { format: 'pt' },
        },
        new Uint8Array(data.buffer, 0, 33),
      ),
      { map },
    );
    expect(file.mapped).toBe(map && addon() !== null);
    const numbers = file.names().map((name) => [...file.readFloat32(name)]);
    expect(numbers).toEqual([[-1.5], [-(2 ** 62)], [Math.fround(0.1)], [-7], [1], [-2], [-300], [-5], [200], [1], []]);
    expect(file.typed('b')).toEqual(new BigInt64Array([-(2n ** 62n)]));
    expect(file.info('d').shape).toEqual([1, 1]);
    expect({ ...file.metadata }).toEqual({ format: 'pt' });
    expect(codeOf(() => file.bytes('z'))).toBe('NIFT_TENSOR_NOT_FOUND');
    file.close();
    file.close();
    expect(codeOf(() => file.bytes('a'))).toBe('NIFT_FILE_IO');
  });

  it('gives aligned views of misaligned tensors', () => {
    const data = Buffer.alloc(9);
    data.writeFloatLE(2.5, 1);
    data.writeFloatLE(-3, 5);
    const file = openSafetensors(write({ flag: tensor('BOOL', [1], [0, 1]), x: tensor('F32', [2], [1, 9]) }, data), { map });
    expect([...file.readFloat32('x')]).toEqual([2.5, -3]);
    file.close();
  });

  it('keeps views alive after close, and the file out of their reach', () => {
    const name = write({ x: tensor('F32', [2], [0, 8]) }, new Uint8Array(new Float32Array([4, 5]).buffer));
    const file = openSafetensors(name, { map });
    const x = file.readFloat32('x');
    const again = file.bytes('x');
    file.close();
    x[0] = 9;
    expect([...x]).toEqual([9, 5]);
    expect(again.byteLength).toBe(8);
    const fresh = openSafetensors(name, { map });
    expect([...fresh.readFloat32('x')]).toEqual([4, 5]);
    fresh.close();
  });

  it('notices that a file became shorter after it was opened', () => {
    const name = write({ x: tensor('U8', [100_000], [0, 100_000]) }, new Uint8Array(100_000));
    const file = openSafetensors(name, { map });
    truncateSync(name, 5000);
    expect(codeOf(() => file.bytes('x'))).toBe('NIFT_FILE_IO');
    file.close();
  });

  it('reads beyond 4 GB', () => {
    const size = 5 * 2 ** 30;
    const json = Buffer.from(
      JSON.stringify({ a: tensor('U8', [size], [0, size]), b: tensor('F32', [2], [size, size + 8]) }).padEnd(128),
    );
    const name = path.join(folder, `big-${map}.safetensors`);
    const fd = openSync(name, 'w');
    const prefix = Buffer.alloc(8);
    prefix.writeBigUInt64LE(BigInt(json.length));
    writeSync(fd, prefix);
    writeSync(fd, json);
    writeSync(fd, Buffer.from(new Float32Array([1, 2]).buffer), 0, 8, 8 + json.length + size);
    closeSync(fd);
    const file = openSafetensors(name, { map });
    expect([...file.readFloat32('b')]).toEqual([1, 2]);
    expect(file.info('b').offset).toBe(8 + json.length + size);
    // More than one array holds in Node 20; later versions hold it.
    expect([5 * 2 ** 30, 'NIFT_FILE_IO', 'NIFT_OUT_OF_MEMORY']).toContain(lengthOrCode(() => file.bytes('a')));
    file.close();
    const sparse = openSync(name, 'r+');
    ftruncateSync(sparse, 8 + json.length + size);
    closeSync(sparse);
    expect(codeOf(() => openSafetensors(name, { map }))).toBe('NIFT_SAFETENSORS_TRUNCATED');
    truncateSync(name, 0);
  });
});

describe('lies in a header', () => {
  const eight = new Uint8Array(8);
  const good = { x: tensor('F32', [2], [0, 8]) };
  const cases: [string, ErrorCode, () => string][] = [
    [
      'fewer than 8 bytes',
      'NIFT_SAFETENSORS_TRUNCATED',
      () => (writeFileSync(path.join(folder, 'short'), '1234567'), path.join(folder, 'short')),
    ],
    [
      'an empty file',
      'NIFT_SAFETENSORS_TRUNCATED',
      () => (writeFileSync(path.join(folder, 'empty'), ''), path.join(folder, 'empty')),
    ],
    ['a length beyond the file', 'NIFT_SAFETENSORS_HEADER_LENGTH', () => write(good, eight, 10_000n)],
    ['a length of 2^63', 'NIFT_SAFETENSORS_HEADER_LENGTH', () => write(good, eight, 2n ** 63n)],
    ['a length above 100 MB', 'NIFT_SAFETENSORS_HEADER_LENGTH', () => write(good, eight, 100_000_001n)],
    ['invalid UTF-8', 'NIFT_SAFETENSORS_UTF8', () => write(Buffer.from('7b22ff223a317d', 'hex'))],
    ['broken JSON', 'NIFT_SAFETENSORS_JSON', () => write('{"x":')],
    ['no header', 'NIFT_SAFETENSORS_JSON', () => write('')],
    ['text before the object', 'NIFT_SAFETENSORS_JSON', () => write('x{}')],
    ['a space before the object', 'NIFT_SAFETENSORS_JSON', () => write(' {}')],
    ['a list', 'NIFT_SAFETENSORS_HEADER', () => write('[1]')],
    ['a number', 'NIFT_SAFETENSORS_HEADER', () => write('12')],
    ['a tensor that is not an object', 'NIFT_SAFETENSORS_HEADER', () => write({ x: [1] })],
    ['a field left out', 'NIFT_SAFETENSORS_HEADER', () => write({ x: { dtype: 'F32', shape: [] } }, eight)],
    [
      'the same tensor twice',
      'NIFT_SAFETENSORS_DUPLICATE',
      () =>
        write(
          '{"x":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"\\u0078":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}',
          eight,
        ),
    ],
    [
      'the same field twice',
      'NIFT_SAFETENSORS_DUPLICATE',
      () => write('{"x":{"dtype":"U8","shape":[8],"dtype":"F64","data_offsets":[0,8]}}', eight),
    ],
    ['unknown dtype', 'NIFT_SAFETENSORS_DTYPE', () => write({ x: tensor('Q4', [2], [0, 8]) }, eight)],
    ['a dtype from the prototype', 'NIFT_SAFETENSORS_DTYPE', () => write({ x: tensor('toString', [2], [0, 8]) }, eight)],
    ['a dtype that is a number', 'NIFT_SAFETENSORS_DTYPE', () => write({ x: tensor(32, [2], [0, 8]) }, eight)],
    ['a shape that is not a list', 'NIFT_SAFETENSORS_SHAPE', () => write({ x: tensor('F32', 2, [0, 8]) }, eight)],
    ['a negative dimension', 'NIFT_SAFETENSORS_SHAPE', () => write({ x: tensor('F32', [-2, -1], [0, 8]) }, eight)],
    ['half a dimension', 'NIFT_SAFETENSORS_SHAPE', () => write({ x: tensor('F32', [0.5, 4], [0, 8]) }, eight)],
    [
      'a huge dimension',
      'NIFT_SAFETENSORS_OVERFLOW',
      () => write('{"x":{"dtype":"F32","shape":[1e300],"data_offsets":[0,8]}}', eight),
    ],
    [
      'a shape whose product overflows',
      'NIFT_SAFETENSORS_OVERFLOW',
      () => write({ x: tensor('F32', [2 ** 32, 2 ** 32, 4], [0, 8]) }, eight),
    ],
    [
      'a shape that wraps around to the right size',
      'NIFT_SAFETENSORS_OVERFLOW',
      () => write('{"x":{"dtype":"F32","shape":[4611686018427387906],"data_offsets":[0,8]}}', eight),
    ],
    ['shape and bytes that disagree', 'NIFT_SAFETENSORS_SIZE', () => write({ x: tensor('F32', [3], [0, 8]) }, eight)],
    ['offsets that are not a pair', 'NIFT_SAFETENSORS_OFFSETS', () => write({ x: tensor('F32', [2], [0, 8, 8]) }, eight)],
    ['negative offsets', 'NIFT_SAFETENSORS_OFFSETS', () => write({ x: tensor('F32', [2], [-8, 0]) }, eight)],
    ['offsets that run backwards', 'NIFT_SAFETENSORS_OFFSETS', () => write({ x: tensor('F32', [2], [8, 0]) }, eight)],
    ['fractional offsets', 'NIFT_SAFETENSORS_OFFSETS', () => write({ x: tensor('F32', [2], [0.5, 8.5]) }, eight)],
    [
      'offsets beyond 2^53',
      'NIFT_SAFETENSORS_OFFSETS',
      () => write('{"x":{"dtype":"F32","shape":[2],"data_offsets":[9007199254740993,9007199254741001]}}', eight),
    ],
    [
      'offsets just below 2^53',
      'NIFT_SAFETENSORS_OFFSETS',
      () => write('{"x":{"dtype":"U8","shape":[8],"data_offsets":[9007199254740983,9007199254740991]}}', eight),
    ],
    ['offsets as text', 'NIFT_SAFETENSORS_OFFSETS', () => write({ x: tensor('F32', [2], ['0', '8']) }, eight)],
    [
      'overlapping tensors',
      'NIFT_SAFETENSORS_OVERLAP',
      () => write({ x: tensor('F32', [2], [0, 8]), y: tensor('F32', [1], [4, 8]) }, eight),
    ],
    [
      'two names for the same bytes',
      'NIFT_SAFETENSORS_OVERLAP',
      () => write({ x: tensor('F32', [2], [0, 8]), y: tensor('F32', [2], [0, 8]) }, eight),
    ],
    [
      'a hole between tensors',
      'NIFT_SAFETENSORS_GAP',
      () => write({ x: tensor('U8', [2], [0, 2]), y: tensor('U8', [4], [4, 8]) }, eight),
    ],
    ['a hole before the first', 'NIFT_SAFETENSORS_GAP', () => write({ x: tensor('U8', [4], [4, 8]) }, eight)],
    ['an end beyond the file', 'NIFT_SAFETENSORS_TRUNCATED', () => write({ x: tensor('F32', [4], [0, 16]) }, eight)],
    ['bytes after the last tensor', 'NIFT_SAFETENSORS_TRAILING', () => write(good, new Uint8Array(12))],
    ['metadata that is text', 'NIFT_SAFETENSORS_METADATA', () => write({ __metadata__: 'pt' })],
    ['a number in the metadata', 'NIFT_SAFETENSORS_METADATA', () => write({ __metadata__: { step: 3 } })],
  ];
  it.each(cases)('%s: %s', (_, code, make) => {
    const file = make();
    expect(codeOf(() => openSafetensors(file))).toBe(code);
    expect(codeOf(() => openSafetensors(file, { map: false }))).toBe(code);
  });

  it('keeps names that collide with the language', () => {
    const file = openSafetensors(
      write(
        '{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"constructor":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
        new Uint8Array([7, 8]),
      ),
    );
    expect(file.names()).toEqual(['__proto__', 'constructor']);
    expect([...file.bytes('constructor')]).toEqual([8]);
    file.close();
  });

  it('refuses what is not a regular file', () => {
    expect(codeOf(() => openSafetensors(folder))).toBe('NIFT_FILE_IO');
    expect(codeOf(() => openSafetensors('/dev/zero'))).toBe('NIFT_FILE_IO');
    expect(codeOf(() => openSafetensors(path.join(folder, 'absent')))).toBe('NIFT_FILE_NOT_FOUND');
  });
});

describe('shards', () => {
  const one = (): Buffer => readFileSync(write({ x: tensor('U8', [1], [0, 1]) }, new Uint8Array([1])));
  const two = (): Buffer => readFileSync(write({ y: tensor('U8', [1], [0, 1]) }, new Uint8Array([2])));
  function checkpoint(
    index: unknown,
    shards: Record<string, Buffer> = { 'a.safetensors': one(), 'b.safetensors': two() },
  ): string {
    const dir = path.join(folder, `c${files++}`);
    mkdirSync(dir);
    writeFileSync(path.join(dir, 'model.safetensors.index.json'), typeof index === 'string' ? index : JSON.stringify(index));
    for (const [name, bytes] of Object.entries(shards)) writeFileSync(path.join(dir, name), bytes);
    return dir;
  }

  it('opens tensors across files', () => {
    const tensors = openCheckpointTensors(checkpoint({ metadata: {}, weight_map: { x: 'a.safetensors', y: 'b.safetensors' } }));
    expect([...tensors.bytes('x'), ...tensors.bytes('y')]).toEqual([1, 2]);
    expect(tensors.shapes().get('y')).toEqual([1]);
    expect(codeOf(() => tensors.info('z'))).toBe('NIFT_TENSOR_NOT_FOUND');
    tensors.close();
  });

  it.each(['../a.safetensors', '/etc/passwd', 'C:\\x', '..\\x', 'sub/../../x', '', 'a\0b', '\\\\host\\x'])(
    'refuses the path %j',
    (shard) => {
      expect(codeOf(() => openCheckpointTensors(checkpoint({ weight_map: { x: shard } })))).toBe('NIFT_INDEX_PATH');
    },
  );

  it.each([
    ['no weight_map', { metadata: {} }],
    ['a list', { weight_map: [] }],
    ['an empty map', { weight_map: {} }],
    ['a number as path', { weight_map: { x: 1 } }],
    ['broken JSON', '{'],
    ['a name twice', '{"weight_map":{"x":"a.safetensors","x":"b.safetensors"}}'],
    ['a name in the wrong shard', { weight_map: { x: 'b.safetensors', y: 'a.safetensors' } }],
    ['a name that no shard has', { weight_map: { x: 'a.safetensors', y: 'b.safetensors', z: 'b.safetensors' } }],
    ['a shard with more than the index says', { weight_map: { x: 'a.safetensors' } }, { 'a.safetensors': two() }],
  ])('refuses an index with %s', (_, index, shards?: Record<string, Buffer>) => {
    expect(codeOf(() => openCheckpointTensors(checkpoint(index, shards)))).toBe('NIFT_INDEX');
  });

  it('lists all disagreements, and all missing shards, at once', () => {
    const dir = checkpoint({ weight_map: { x: 'b.safetensors', q: 'a.safetensors', y: 'b.safetensors' } });
    expect(() => openCheckpointTensors(dir)).toThrow(/2 disagreements.*"x".*"q"/);
    expect(() => openCheckpointTensors(checkpoint({ weight_map: { x: 'p', y: 'q', z: 'a.safetensors' } }))).toThrow(
      /2 of 3 shards are missing: p, q/,
    );
  });

  it('says that pickles are not read', () => {
    const dir = path.join(folder, 'pickled');
    mkdirSync(dir);
    expect(codeOf(() => openCheckpointTensors(dir))).toBe('NIFT_FILE_NOT_FOUND');
    writeFileSync(path.join(dir, 'pytorch_model.bin'), '');
    try {
      openCheckpointTensors(dir);
    } catch (error) {
      expect((error as NiftError).hint).toMatch(/pickle/);
    }
  });
});

/** Typed as text because the package has no types. */
const PEER: string = 'safetensors';

/**
 * The npm package's parser, which knows only whole buffers. It throws on files with `__metadata__` (every checkpoint of the hub), so both
 * sides read a copy without it.
 */
interface PeerFile {
  metadata: Map<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>;
  getTensor(name: string): Uint8Array;
}

function withoutMetadata(file: string): string {
  const bytes = readFileSync(file);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + length)) as Record<string, unknown>;
  delete header['__metadata__'];
  return write(header, bytes.subarray(8 + length));
}

describe.skipIf(!hasShared)('the reference models', () => {
  const models = hasShared ? readdirSync(shared('models')) : [];

  it.each(models)('%s parses as in the npm package, on both paths', async (model) => {
    const { SafeTensor } = (await import(PEER)) as { SafeTensor: new (bytes: Uint8Array) => PeerFile };
    const names = readdirSync(shared('models', model)).filter((name) => name.endsWith('.safetensors'));
    for (const name of names) {
      const file = withoutMetadata(shared('models', model, name));
      const peer = new SafeTensor(new Uint8Array(readFileSync(file)));
      for (const map of [true, false]) {
        const ours: SafetensorsFile = openSafetensors(file, { map });
        expect(new Set(ours.names())).toEqual(new Set(peer.metadata.keys()));
        for (const tensorName of ours.names()) {
          const info = ours.info(tensorName);
          const theirs = peer.metadata.get(tensorName)!;
          expect([info.dtype, info.shape, info.offset]).toEqual([theirs.dtype, theirs.shape, theirs.data_offsets[0]]);
          expect(Buffer.compare(ours.bytes(tensorName), peer.getTensor(tensorName))).toBe(0);
        }
        ours.close();
      }
    }
  });

  it('a copied shard without its partner is refused', () => {
    const dir = path.join(folder, 'partial');
    mkdirSync(dir);
    const source = shared('models', 'tiny-llama3');
    for (const name of ['model.safetensors.index.json', 'model-00001-of-00002.safetensors'])
      copyFileSync(path.join(source, name), path.join(dir, name));
    expect(codeOf(() => openCheckpointTensors(dir))).toBe('NIFT_FILE_NOT_FOUND');
    cpSync(path.join(source, 'model-00002-of-00002.safetensors'), path.join(dir, 'model-00002-of-00002.safetensors'));
    expect(openCheckpointTensors(dir).names().length).toBe(21);
  });
});
