/** Rounding of weights: against float64 definitions, with the addon and without. */
import { afterAll, describe, expect, it } from 'vitest';
import { addon } from '../../src/backend/addon.js';
import { encode, quantizeQ8Reference } from '../../src/export/gguf/encode.js';
import { halfValue } from '../../src/formats/half.js';
import { normalArray } from '../../src/random.js';

interface Block {
  scale: number;
  quants: Int8Array;
}

function blocksOf(bytes: Uint8Array): Block[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: bytes.length / 34 }, (_, i) => ({
    scale: halfValue(view.getUint16(i * 34, true), 'F16'),
    quants: new Int8Array(bytes.slice(i * 34 + 2, i * 34 + 34).buffer),
  }));
}

const single = (values: number[]): Float32Array => Float32Array.from({ length: 32 }, (_, i) => values[i] ?? 0);

describe.each([
  ['in use', (values: Float32Array) => encode(values, 'Q8_0')],
  ['without the addon', quantizeQ8Reference],
])('Q8_0, %s', (_, quantize) => {
  it('rounds halves away from zero, scale 1 for a largest value of 127', () => {
    const [block] = blocksOf(quantize(single([127, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 0.49999997, -127, 126.5]))!);
    expect(block!.scale).toBe(1);
    expect([...block!.quants.subarray(0, 10)]).toEqual([127, 1, -1, 2, -2, 3, -3, 0, -127, 127]);
  });

  it('scales each block by its own largest magnitude', () => {
    const [first, second, zero] = blocksOf(
      quantize(Float32Array.from([...single([-254]), ...single([0, 12.7]), ...single([])]))!,
    );
    expect([first!.scale, first!.quants[0]]).toEqual([2, -127]);
    expect(second!.scale).toBe(halfValue(0x2e66, 'F16')); // 0.1 to nearest
    expect(second!.quants[1]).toBe(127);
    expect([zero!.scale, ...zero!.quants]).toEqual(new Array(33).fill(0));
  });

  it('is within half a step of every value', () => {
    const values = normalArray(32 * 200, 0.02, 1, 0);
    blocksOf(quantize(values)!).forEach(({ scale, quants }, block) => {
      const part = values.subarray(block * 32, block * 32 + 32);
      const step = Math.max(...part.map(Math.abs)) / 127;
      part.forEach((value, i) => {
        expect(Math.abs(value - quants[i]! * step)).toBeLessThanOrEqual(step * 0.50001);
        // The stored scale is that step to fp16: 2^-11 relative.
        expect(Math.abs(scale / step - 1)).toBeLessThan(2 ** -10);
      });
    });
  });

  it('refuses what is not finite, or has no scale in fp16', () => {
    for (const bad of [NaN, Infinity, -Infinity, 65504 * 128]) expect(quantize(single([1, bad]))).toBeNull();
    expect(quantize(single([65504 * 127]))).not.toBeNull();
  });
});

describe.skipIf(!addon())('the addon', () => {
  const { isas = [], isa = '' } = addon()?.runtimeInfo() ?? {};
  afterAll(() => addon()?.setIsa(isa));

  it.each(isas)('quantises like the reference, bit for bit: %s', (name) => {
    addon()!.setIsa(name);
    const values = normalArray(32 * 3000, 1, 2, 0);
    for (let block = 0; block < 3000; block++) {
      const part = values.subarray(block * 32, block * 32 + 32);
      // All magnitudes, and in every third block multiples of half a step.
      const factor = 2 ** ((block % 140) - 130);
      if (block % 3 === 0) part.forEach((_, i) => (part[i] = i === 0 ? 127 : ((i * 7919 + block) % 509) / 2 - 127));
      part.forEach((value, i) => (part[i] = value * factor));
    }
    const expected = quantizeQ8Reference(values)!;
    expect(Buffer.compare(encode(values, 'Q8_0')!, expected)).toBe(0);
    for (const bad of [NaN, Infinity, 65504 * 128]) expect(encode(single([1, bad]), 'Q8_0')).toBeNull();
  });
});

describe('16 and 32 bits', () => {
  it('rounds to nearest even', () => {
    const values = Float32Array.from([1, 1 + 2 ** -11, 1 + 3 * 2 ** -11, -65504, 2 ** -24]);
    const f16 = new Uint16Array(encode(values, 'F16')!.slice().buffer);
    expect([...f16].map((bits) => halfValue(bits, 'F16'))).toEqual([1, 1, 1 + 2 ** -9, -65504, 2 ** -24]);
    const bf16 = new Uint16Array(encode(Float32Array.from([1, 1 + 2 ** -8, 1e38]), 'BF16')!.slice().buffer);
    expect([...bf16].map((bits) => halfValue(bits, 'BF16')).slice(0, 2)).toEqual([1, 1]);
    expect(new Float32Array(encode(values, 'F32')!.slice().buffer)).toEqual(values);
  });

  it('refuses what overflows', () => {
    expect(encode(Float32Array.from([65520]), 'F16')).toBeNull();
    expect(encode(Float32Array.from([65519]), 'F16')).not.toBeNull();
    expect(encode(Float32Array.from([1e38]), 'BF16')).not.toBeNull();
    for (const type of ['F32', 'F16', 'BF16'] as const) expect(encode(Float32Array.from([0, NaN]), type)).toBeNull();
  });
});
