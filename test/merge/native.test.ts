/** The native pass against its definition in JavaScript: every instruction set, storage, rank and odd size; and the checksums. */
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { addon, type LowRankChange } from '../../src/backend/addon.js';
import { combineCrc32, crc32, crc32File } from '../../src/formats/crc32.js';
import { floatToHalf, halfToFloat } from '../../src/formats/half.js';
import { decode, encode, mergeRows } from '../../src/merge/mergeTensor.js';
import { normalArray } from '../../src/random.js';
import { tempFolder } from '../formats/tempFolder.js';

const temp = tempFolder();
const native = addon();

describe('CRC-32', () => {
  const bytes = new Uint8Array(normalArray(3000, 1, 1).buffer);

  it('of parts gives that of the whole', () => {
    expect(crc32(new TextEncoder().encode('123456789'))).toBe(0xcbf43926);
    for (const cut of [0, 1, 63, 64, 1000, 4097, bytes.length])
      expect(combineCrc32(crc32(bytes.subarray(0, cut)), crc32(bytes.subarray(cut)), bytes.length - cut)).toBe(crc32(bytes));
    const file = path.join(temp, 'bytes');
    writeFileSync(file, bytes);
    expect(Number.parseInt(crc32File(file), 16)).toBe(crc32(bytes));
    expect(Number.parseInt(crc32File(file, 5), 16)).toBe(crc32(bytes.subarray(5)));
  });
});

describe('16-bit rounding without the addon', () => {
  it.skipIf(native === null)('equals that of the addon for all halves, their neighbours and odd values', () => {
    const words = new Uint32Array(1 << 19);
    for (let i = 0; i < words.length; i++) words[i] = (i << 13) + [0, 1, 0xfff, 0x1000, 0x1001, 0x7fff][i % 6]!;
    const values = new Float32Array(words.buffer);
    for (const [dtype, code] of [
      ['BF16', 1],
      ['F16', 2],
    ] as const) {
      const [ours, theirs] = [new Uint16Array(values.length), new Uint16Array(values.length)];
      floatToHalf(values, dtype, ours);
      native!.floatToHalf(values, code, theirs);
      expect(Buffer.from(ours.buffer).equals(Buffer.from(theirs.buffer))).toBe(true);
      const back = new Float32Array(values.length);
      halfToFloat(ours, dtype, back);
      const again = new Uint16Array(values.length);
      floatToHalf(back, dtype, again);
      expect(Buffer.from(again.buffer).equals(Buffer.from(ours.buffer))).toBe(true);
    }
  });
});

const CODES = { F32: 0, BF16: 1, F16: 2 } as const;
type Dtype = keyof typeof CODES;

function changeOf(rows: number, columns: number, rank: number, seed: number, dora: boolean): LowRankChange {
  return {
    a: normalArray(rank * columns, 0.3, seed, 1),
    b: normalArray(rows * rank, 0.3, seed, 2),
    rank,
    scaling: 0.7,
    weight: dora ? 0.8 : 1,
    magnitude: dora ? normalArray(rows, 1, seed, 3).map(Math.abs) : null,
  };
}

/** Runs one tensor through files, with a few bytes before it on both sides. */
async function rewrite(
  values: Float32Array,
  rows: number,
  columns: number,
  from: Dtype,
  to: Dtype,
  changes: LowRankChange[],
): Promise<Float32Array> {
  const [source, target] = [path.join(temp, 'source'), path.join(temp, 'target')];
  const before = Buffer.from('before ');
  writeFileSync(source, Buffer.concat([before, encode(values, from)]));
  writeFileSync(target, before);
  const [input, output] = [openSync(source, 'r'), openSync(target, 'r+')];
  const result = await native!.rewriteTensor(input, 7, CODES[from], output, 7, CODES[to], rows, columns, changes);
  closeSync(input);
  closeSync(output);
  const written = new Uint8Array(readFileSync(target).subarray(7));
  expect(result.crc32).toBe(crc32(written));
  return decode(written.slice(), to);
}

describe.skipIf(native === null)('rewriteTensor', () => {
  const isas = native?.runtimeInfo().isas ?? [];
  const best = native?.runtimeInfo().isa ?? 'portable';
  afterAll(() => native?.setIsa(best));
  const sizes = [
    [1, 1],
    [3, 7],
    [40, 1030],
    [700, 130],
    [5, 3001],
  ] as const;

  const storages: [Dtype, Dtype][] = [
    ['F32', 'F32'],
    ['BF16', 'BF16'],
    ['F16', 'F16'],
    ['BF16', 'F16'],
    ['F16', 'F32'],
  ];
  const kinds = { none: [], one: [8], two: [16, 8], dora: [8, 8] };
  const cases = sizes.flatMap((size) =>
    storages.flatMap((storage) => Object.entries(kinds).map((kind) => ({ size, storage, kind }))),
  );

  it.each(isas)('is mergeRows on %s', async (isa) => {
    native!.setIsa(isa);
    for (const { size, storage, kind } of cases) {
      const [[rows, columns], [from, to], [name, ranks]] = [size, storage, kind];
      const changes = ranks.map((rank, k) => changeOf(rows, columns, rank, k, name === 'dora' && k === 1));
      const base = decode(encode(normalArray(rows * columns, 1, 9), from), from).slice();
      const found = await rewrite(base, rows, columns, from, to, changes);
      const expected = base.slice();
      mergeRows(expected, 0, columns, changes);
      expect(found.length).toBe(expected.length);
      // Half a unit of rounding, plus the order of float32 sums.
      const unit = { F32: 2 ** -22, BF16: 2 ** -7, F16: 2 ** -10 }[to];
      const wrong = expected.findIndex((value, i) => !(Math.abs(found[i]! - value) <= (Math.abs(value) * unit) / 2 + 3e-6));
      expect(wrong, `${name} ${from} ${to} [${rows}, ${columns}]`).toBe(-1);
    }
  });

  it('reports the largest magnitude, and NaN above all', async () => {
    const file = path.join(temp, 'largest');
    for (const [last, bits] of [
      [-70000, 0x4788b800],
      [Infinity, 0x7f800000],
      [NaN, 0x7fc00000],
    ] as const) {
      writeFileSync(file, new Uint8Array(Float32Array.of(1, -2, 3, last).buffer));
      const fd = openSync(file, 'r');
      const { largest } = await native!.rewriteTensor(fd, 0, 0, -1, 0, 2, 2, 2, []);
      closeSync(fd);
      expect(largest).toBe(bits);
    }
  });

  it('rejects a source that is too short with a sentence, and wrong arguments with their names', async () => {
    const file = path.join(temp, 'short');
    writeFileSync(file, 'abc');
    const fd = openSync(file, 'r');
    await expect(native!.rewriteTensor(fd, 0, -1, -1, 0, -1, 8, 1, [])).rejects.toThrow(/shorter/);
    await expect(native!.rewriteTensor(9999, 0, -1, -1, 0, -1, 3, 1, [])).rejects.toMatchObject({ errno: -9 });
    const change = changeOf(2, 2, 8, 1, false);
    const call = (changes: unknown): unknown => native!.rewriteTensor(fd, 0, 0, -1, 0, 0, 2, 2, changes as LowRankChange[]);
    expect(() => call([{ ...change, rank: 3 }])).toThrow(/rank: expected a multiple of 8/);
    expect(() => call([{ ...change, a: new Float32Array(3) }])).toThrow(/a: expected a Float32Array of 16/);
    expect(() => call([{ ...change, b: [1] }])).toThrow(/b: expected a Float32Array of 16/);
    expect(() => call('x')).toThrow(/expected a list/);
    closeSync(fd);
  });
});
