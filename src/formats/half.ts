/** 16-bit floats to float32 without the addon. Exact: every half value is a float32 value. */

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
