/** The file format: what is written is read back, every byte is where it belongs, and every lie of a header has its code. */
import { readFileSync, writeFileSync, existsSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { openGguf } from '../../src/formats/gguf/reader.js';
import { f32, list, text, u32, type GgufValue } from '../../src/formats/gguf/types.js';
import { writeGguf, type GgufTensorToWrite } from '../../src/formats/gguf/writer.js';
import { inspectPath } from '../../src/formats/inspect.js';
import { tempFolder } from '../formats/tempFolder.js';

const folder = tempFolder();
let files = 0;
const fresh = (): string => path.join(folder, `${files++}.gguf`);

const bytes = (length: number, fill = 1): Uint8Array => new Uint8Array(length).fill(fill);
const tensor = (
  name: string,
  shape: number[],
  data: Uint8Array[],
  type: GgufTensorToWrite['type'] = 'F32',
): GgufTensorToWrite => ({
  name,
  type,
  shape,
  chunks: () => data,
});

describe('writer and reader', () => {
  const metadata = new Map<string, GgufValue>([
    ['general.architecture', text('llama')],
    ['a.u8', { type: 'u8', value: 255 }],
    ['a.i8', { type: 'i8', value: -128 }],
    ['a.u16', { type: 'u16', value: 65535 }],
    ['a.i16', { type: 'i16', value: -32768 }],
    ['a.u32', u32(2 ** 32 - 1)],
    ['a.i32', { type: 'i32', value: -(2 ** 31) }],
    ['a.f32', f32(0.5)],
    ['a.f64', { type: 'f64', value: 0.1 }],
    ['a.bool', { type: 'bool', value: true }],
    ['a.u64', { type: 'u64', value: 2n ** 64n - 1n }],
    ['a.i64', { type: 'i64', value: -3 }],
    ['a.text', text('▁ü🙂\0')],
    ['a.texts', list('string', ['a', '', 'ß'])],
    ['a.floats', list('f32', [1, -2])],
    ['a.none', list('i32', [])],
  ]);

  it('keeps every type of value', () => {
    const file = fresh();
    const size = writeGguf(file, metadata, []);
    expect(readFileSync(file)).toHaveLength(size);
    const gguf = openGguf(file);
    expect([...gguf.metadata]).toEqual([...metadata]);
    expect([gguf.version, gguf.alignment, gguf.byteLength]).toEqual([3, 32, size]);
    gguf.close();
  });

  it('keeps tensors, in chunks, each padded to 32 bytes', () => {
    const file = fresh();
    const tensors = [
      tensor('a', [2, 3], [bytes(12, 1), bytes(12, 2)]),
      tensor('b', [1], [bytes(4, 3)]),
      tensor('c', [2, 64], [bytes(136, 4)], 'Q8_0'),
    ];
    const size = writeGguf(file, metadata, tensors);
    const gguf = openGguf(file);
    expect(gguf.dataStart % 32).toBe(0);
    expect([...gguf.tensors]).toEqual([
      ['a', { type: 'F32', shape: [2, 3], offset: gguf.dataStart, byteLength: 24 }],
      ['b', { type: 'F32', shape: [1], offset: gguf.dataStart + 32, byteLength: 4 }],
      ['c', { type: 'Q8_0', shape: [2, 64], offset: gguf.dataStart + 64, byteLength: 136 }],
    ]);
    expect(size).toBe(gguf.dataStart + 64 + 160);
    expect([...gguf.bytes('a')]).toEqual([...bytes(12, 1), ...bytes(12, 2)]);
    expect([...gguf.bytes('c')]).toEqual([...bytes(136, 4)]);
    expect(() => gguf.bytes('d')).toThrow(expect.objectContaining({ code: 'NIFT_TENSOR_NOT_FOUND' }));
    gguf.close();
  });

  it('writes the bytes of the specification', () => {
    const file = fresh();
    writeGguf(file, new Map([['k', u32(7)]]), [tensor('t', [2, 1], [bytes(8, 9)])]);
    const header =
      '47475546 03000000 0100000000000000 0100000000000000' + // GGUF, 3, tensors, keys
      '0100000000000000 6b 04000000 07000000' + // "k", u32, 7
      '0100000000000000 74 02000000 0100000000000000 0200000000000000 00000000 0000000000000000'; // "t", fastest axis first
    const expected = Buffer.from(header.replaceAll(' ', ''), 'hex');
    const written = readFileSync(file);
    expect(written.subarray(0, expected.length).toString('hex')).toBe(expected.toString('hex'));
    const start = Math.ceil(expected.length / 32) * 32;
    expect([...written.subarray(expected.length, start)].every((byte) => byte === 0)).toBe(true);
    expect(written.subarray(start).toString('hex')).toBe('09'.repeat(8) + '00'.repeat(24));
  });

  it.each([
    ['twice', [tensor('a', [1], [bytes(4)]), tensor('a', [1], [bytes(4)])]],
    ['name', [tensor('x'.repeat(64), [1], [bytes(4)])]],
    ['rank', [tensor('a', [1, 1, 1, 1, 1], [bytes(4)])]],
    ['empty', [tensor('a', [0], [])]],
    ['blocks', [tensor('a', [33], [bytes(34)], 'Q8_0')]],
    ['too little', [tensor('a', [2], [bytes(4)])]],
    ['too much', [tensor('a', [1], [bytes(4), bytes(4)])]],
  ])('refuses tensors that contradict themselves: %s', (_, tensors) => {
    const file = fresh();
    expect(() => writeGguf(file, new Map(), tensors)).toThrow(expect.objectContaining({ code: 'NIFT_GGUF_TENSOR' }));
    expect(existsSync(file)).toBe(false);
  });

  it('leaves the alignment to itself', () => {
    expect(() => writeGguf(fresh(), new Map([['general.alignment', u32(64)]]), [])).toThrow(
      expect.objectContaining({ code: 'NIFT_GGUF_KEY' }),
    );
  });

  it('is shown by inspect', async () => {
    const file = fresh();
    writeGguf(file, metadata, [tensor('a', [2, 3], [bytes(24)])]);
    expect(await inspectPath(file)).toMatchObject({
      kind: 'gguf',
      tensors: 1,
      parameters: 6,
      bytes: 24,
      bytesByDtype: { F32: 24 },
      metadata: { 'a.u64': '18446744073709551615', 'a.texts': '3 values of type string', 'a.f32': 0.5 },
      list: [{ name: 'a', dtype: 'F32', shape: [2, 3], bytes: 24 }],
    });
  });
});

/** Builds headers by hand. */
class Header {
  private parts: Buffer[] = [];
  u32(...values: number[]): this {
    for (const value of values) {
      const part = Buffer.alloc(4);
      part.writeUInt32LE(value);
      this.parts.push(part);
    }
    return this;
  }
  u64(...values: (number | bigint)[]): this {
    for (const value of values) {
      const part = Buffer.alloc(8);
      part.writeBigUInt64LE(BigInt(value));
      this.parts.push(part);
    }
    return this;
  }
  raw(...values: number[]): this {
    this.parts.push(Buffer.from(values));
    return this;
  }
  string(value: string): this {
    this.u64(Buffer.byteLength(value));
    this.parts.push(Buffer.from(value));
    return this;
  }
  key(name: string, value: number): this {
    return this.string(name).u32(4, value);
  }
  tensor(name: string, shape: (number | bigint)[], type: number, offset: number): this {
    return this.string(name)
      .u32(shape.length)
      .u64(...shape)
      .u32(type)
      .u64(offset);
  }
  /** Pads to 32 and adds data. */
  data(length: number): this {
    const size = this.bytes().length;
    this.parts.push(Buffer.alloc((32 - (size % 32)) % 32), Buffer.alloc(length));
    return this;
  }
  bytes(): Buffer {
    return Buffer.concat(this.parts);
  }
}

const MAGIC = 0x46554747;
const start = (tensors: number | bigint, keys: number | bigint): Header => new Header().u32(MAGIC, 3).u64(tensors, keys);

describe('lies', () => {
  const lies: [string, string, Buffer][] = [
    ['NIFT_GGUF_TRUNCATED', 'an empty file', Buffer.alloc(0)],
    ['NIFT_GGUF_MAGIC', 'another format', Buffer.from('not a gguf file at all, but long enough')],
    ['NIFT_GGUF_VERSION', 'version 1', new Header().u32(MAGIC, 1).u64(0, 0).bytes()],
    [
      'NIFT_GGUF_VERSION',
      'big-endian',
      new Header()
        .u32(MAGIC, 3 << 24)
        .u64(0, 0)
        .bytes(),
    ],
    ['NIFT_GGUF_TRUNCATED', 'tensors that are not there', start(2n ** 60n, 0).bytes()],
    ['NIFT_GGUF_TRUNCATED', 'keys that are not there', start(0, 2n ** 63n).bytes()],
    [
      'NIFT_GGUF_TRUNCATED',
      'a key longer than the file',
      start(0, 1)
        .u64(2n ** 40n)
        .data(64)
        .bytes(),
    ],
    [
      'NIFT_GGUF_TRUNCATED',
      'a list longer than the file',
      start(0, 1)
        .string('k')
        .u32(9, 4)
        .u64(2n ** 61n)
        .bytes(),
    ],
    ['NIFT_GGUF_TRUNCATED', 'a value that is cut off', start(0, 1).string('some.key').u32(10).raw(1, 2).bytes()],
    ['NIFT_GGUF_UTF8', 'a key that is no text', start(0, 1).u64(2).raw(0xff, 0xfe).u32(4, 1).bytes()],
    ['NIFT_GGUF_UTF8', 'a value that is no text', start(0, 1).string('k').u32(8).u64(1).raw(0x80).data(32).bytes()],
    ['NIFT_GGUF_KEY', 'an empty key', start(0, 1).key('', 1).bytes()],
    ['NIFT_GGUF_KEY', 'a key given twice', start(0, 2).key('k', 1).key('k', 1).bytes()],
    ['NIFT_GGUF_VALUE', 'an unknown type of value', start(0, 1).string('k').u32(13, 0).bytes()],
    ['NIFT_GGUF_VALUE', 'a list of lists', start(0, 1).string('k').u32(9, 9).u64(0).bytes()],
    ['NIFT_GGUF_VALUE', 'a boolean of 2', start(0, 1).string('k').u32(7).raw(2).bytes()],
    ['NIFT_GGUF_ALIGNMENT', 'alignment 0', start(0, 1).key('general.alignment', 0).bytes()],
    ['NIFT_GGUF_ALIGNMENT', 'alignment 33', start(0, 1).key('general.alignment', 33).bytes()],
    ['NIFT_GGUF_ALIGNMENT', 'alignment as text', start(0, 1).string('general.alignment').u32(8).string('32').bytes()],
    ['NIFT_GGUF_TENSOR', 'a long name', start(1, 0).tensor('x'.repeat(64), [1], 0, 0).data(32).bytes()],
    ['NIFT_GGUF_TENSOR', 'a name given twice', start(2, 0).tensor('a', [8], 0, 0).tensor('a', [8], 0, 32).data(64).bytes()],
    ['NIFT_GGUF_TENSOR', 'five axes', start(1, 0).tensor('a', [1, 1, 1, 1, 1], 0, 0).data(32).bytes()],
    ['NIFT_GGUF_TENSOR', 'half a block', start(1, 0).tensor('a', [33], 8, 0).data(64).bytes()],
    [
      'NIFT_GGUF_TENSOR',
      'a shape beyond 2^53',
      start(1, 0)
        .tensor('a', [2n ** 32n, 2n ** 32n], 0, 0)
        .data(64)
        .bytes(),
    ],
    ['NIFT_GGUF_DTYPE', 'an unknown dtype', start(1, 0).tensor('a', [8], 99, 0).data(32).bytes()],
    ['NIFT_GGUF_DTYPE', 'a withdrawn dtype', start(1, 0).tensor('a', [32], 4, 0).data(32).bytes()],
    ['NIFT_GGUF_OFFSET', 'overlapping tensors', start(2, 0).tensor('a', [8], 0, 0).tensor('b', [8], 0, 0).data(64).bytes()],
    ['NIFT_GGUF_OFFSET', 'a hole', start(2, 0).tensor('a', [8], 0, 0).tensor('b', [8], 0, 64).data(96).bytes()],
    ['NIFT_GGUF_OFFSET', 'an odd offset', start(1, 0).tensor('a', [8], 0, 4).data(64).bytes()],
    ['NIFT_GGUF_TRUNCATED', 'missing data', start(1, 0).tensor('a', [9], 0, 0).data(32).bytes()],
    ['NIFT_GGUF_TRAILING', 'bytes that belong to nobody', start(1, 0).tensor('a', [8], 0, 0).data(33).bytes()],
    ['NIFT_GGUF_TRAILING', 'bytes without tensors', start(0, 0).data(40).bytes()],
  ];

  it.each(lies)('%s: %s', (code, _, content) => {
    const file = fresh();
    writeFileSync(file, content);
    expect(() => openGguf(file)).toThrow(expect.objectContaining({ code }));
  });

  it('reads what it refuses only for a single lie', () => {
    const file = fresh();
    writeFileSync(file, start(2, 1).key('k', 1).tensor('a', [8], 0, 0).tensor('b', [4], 0, 32).data(48).bytes());
    expect([...openGguf(file).tensors.keys()]).toEqual(['a', 'b']);
  });

  it('fails with a code of its own wherever a file is cut', () => {
    const whole = fresh();
    writeGguf(whole, new Map([['k', list('string', ['ab', 'c'])]]), [tensor('a', [2, 3], [bytes(24)])]);
    const content = readFileSync(whole);
    const end = content.length - 8; // the padding after the last tensor may be missing
    for (let length = 0; length < end; length++) {
      const file = path.join(folder, 'cut.gguf');
      writeFileSync(file, content.subarray(0, length));
      expect(() => openGguf(file), String(length)).toThrow(expect.objectContaining({ code: 'NIFT_GGUF_TRUNCATED' }));
    }
  });
});
