import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { tf } from '../../src/backend/tf.js';
import { roundGradient, roundTo } from '../../src/ops/rounding.js';
import { hasShared, shared } from '../golden.js';

/** Reads one array of the fixture; the real reader has its own tests. */
function fixture(name: 'float32' | 'bfloat16' | 'float16'): Uint32Array | Uint16Array {
  const bytes = readFileSync(shared('golden', 'units', 'rounding.safetensors'));
  const headerLength = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + headerLength)) as Record<string, { data_offsets: [number, number] }>;
  const [begin, end] = header[name]?.data_offsets ?? [0, 0];
  const data = new Uint8Array(bytes.subarray(8 + headerLength + begin, 8 + headerLength + end)).buffer;
  return name === 'float32' ? new Uint32Array(data) : new Uint16Array(data);
}

function float16ToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const mantissa = bits & 0x3ff;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return exponent === 0 ? sign * mantissa * 2 ** -24 : sign * (1024 + mantissa) * 2 ** (exponent - 25);
}

describe('roundTo', () => {
  beforeAll(async () => {
    await tf.setBackend('cpu');
  });

  describe.skipIf(!hasShared)('golden values', () => {
    for (const dtype of ['bfloat16', 'float16'] as const) {
      it(`rounds to ${dtype} exactly as the reference`, () => {
        const input = new Float32Array(fixture('float32').buffer as ArrayBuffer);
        const expected = Array.from(fixture(dtype), (bits) =>
          dtype === 'float16' ? float16ToNumber(bits) : (new Float32Array(Uint32Array.of(bits << 16).buffer)[0] ?? NaN),
        );
        const actual = Array.from(roundTo(tf.tensor1d(input), dtype).dataSync());
        expect(actual.length).toBe(448);
        actual.forEach((value, i) => expect(Object.is(value, expected[i]), `[${i}] ${value} vs ${expected[i]}`).toBe(true));
      });
    }
  });

  it('is the identity for float32', () => {
    const x = tf.tensor1d([1.00001]);
    expect(roundTo(x, 'float32')).toBe(x);
  });

  it('passes the gradient straight through, and roundGradient rounds it', () => {
    const weights = tf.tensor1d([1.00001, 70000]);
    const through = tf.grad((x: tf.Tensor) => tf.sum(tf.mul(roundTo(x, 'float16'), weights)));
    expect(Array.from(through(tf.tensor1d([0.3, 4])).dataSync())).toEqual([Math.fround(1.00001), 70000]);
    const rounded = tf.grad((x: tf.Tensor) => tf.sum(tf.mul(roundGradient(x, 'float16'), weights)));
    expect(Array.from(rounded(tf.tensor1d([0.3, 4])).dataSync())).toEqual([1, Infinity]);
  });
});
