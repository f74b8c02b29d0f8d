/** 16-bit floats and float32 without the addon. To float32 exactly; to 16 bits rounded to nearest even, as native/dtype.h. */

const word = new Uint32Array(1);
const single = new Float32Array(word.buffer);

let halfTable: Float32Array | undefined;

/** All 65,536 values of IEEE 754 binary16. */
function tableF16(): Float32Array {
  if (halfTable) return halfTable;
  const table = new Float32Array(1 << 16);
  for (let bits = 0; bits < table.length; bits++) {
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    const magnitude =
      exponent === 0
        ? fraction * 2 ** -24
        : exponent === 31
          ? fraction
            ? NaN
            : Infinity
          : (1024 + fraction) * 2 ** (exponent - 25);
    table[bits] = bits & 0x8000 ? -magnitude : magnitude;
  }
  return (halfTable = table);
}

/** Decodes `bits` into `out`, which has at least as many elements. */
export function halfToFloat(bits: Uint16Array, dtype: 'F16' | 'BF16', out: Float32Array): void {
  if (dtype === 'F16') {
    const table = tableF16();
    for (let i = 0; i < bits.length; i++) out[i] = table[bits[i]!]!;
    return;
  }
  const words = new Uint32Array(out.buffer, out.byteOffset, out.length);
  for (let i = 0; i < bits.length; i++) words[i] = bits[i]! << 16;
}

/** One bfloat16 or float16 bit pattern as a number. */
export function halfValue(bits: number, dtype: 'F16' | 'BF16'): number {
  if (dtype === 'F16') return tableF16()[bits & 0xffff]!;
  word[0] = bits << 16;
  return single[0]!;
}

/** Rounds `values` into `out`. NaN stays NaN; what is too large becomes infinite. */
export function floatToHalf(values: Float32Array, dtype: 'F16' | 'BF16', out: Uint16Array): void {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const round = dtype === 'BF16' ? wordToBf16 : wordToF16;
  for (let i = 0; i < words.length; i++) out[i] = round(words[i]!);
}

function wordToBf16(bits: number): number {
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

function wordToF16(bits: number): number {
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Subnormal: float32 arithmetic rounds at 2^-24.
    word[0] = magnitude;
    single[0] = single[0]! + 0.5;
    return sign | (word[0] - 0x3f000000);
  }
  return sign | ((magnitude + 0xfff + ((magnitude >>> 13) & 1) - 0x38000000) >>> 13);
}
