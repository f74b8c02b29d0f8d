/**
 * float32 rows to the storage types that we write.
 *
 *   Q8_0   blocks of 32 values: fp16 d = max |x| / 127, then 32 int8 q = round(x / d), halves away from zero;  x ~ d q
 *
 * Numerics: every intermediate is float32, 1/d from the d before its rounding to fp16, as in ggml.
 * Source: ggml-quants.c, quantize_row_q8_0_ref.
 */
import { addon } from '../../backend/addon.js';
import { floatToHalf } from '../../formats/half.js';

/** What tensors are exported as. */
export const EXPORT_TYPES = ['F32', 'F16', 'BF16', 'Q8_0'] as const;
export type ExportType = (typeof EXPORT_TYPES)[number];

export const BLOCK = 32;
const BLOCK_BYTES = 34;
/** Bits of the exponent: all set means infinite or NaN. */
const EXPONENT = { F16: 0x7c00, BF16: 0x7f80 } as const;

/**
 * Rounds `values` (whole rows; Q8_0: a multiple of 32) to `type`.
 * @returns the bytes, or null when a value is not finite in that type
 */
export function encode(values: Float32Array, type: ExportType): Uint8Array | null {
  if (type === 'Q8_0') return quantizeQ8(values);
  if (type === 'F32') return values.every(Number.isFinite) ? bytesOf(values) : null;
  const bits = new Uint16Array(values.length);
  const native = addon();
  if (native) native.floatToHalf(values, type === 'BF16' ? 1 : 2, bits);
  else floatToHalf(values, type, bits);
  const mask = EXPONENT[type];
  for (let i = 0; i < bits.length; i++) if ((bits[i]! & mask) === mask) return null;
  return bytesOf(bits);
}

const bytesOf = (data: ArrayBufferView): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

function quantizeQ8(values: Float32Array): Uint8Array | null {
  const native = addon();
  if (!native) return quantizeQ8Reference(values);
  const out = new Uint8Array((values.length / BLOCK) * BLOCK_BYTES);
  return native.quantizeQ8(values, out) ? out : null;
}

/** Without the addon; the definition. */
export function quantizeQ8Reference(values: Float32Array): Uint8Array | null {
  const blocks = values.length / BLOCK;
  const scales = new Float32Array(blocks);
  const out = new Uint8Array(blocks * BLOCK_BYTES);
  const quants = new Int8Array(out.buffer);
  for (let block = 0; block < blocks; block++) {
    const start = block * BLOCK;
    let largest = 0;
    // A sum keeps what a maximum loses: NaN and infinities.
    let finite = 0;
    for (let i = start; i < start + BLOCK; i++) {
      const magnitude = Math.abs(values[i]!);
      finite += magnitude * 0;
      if (magnitude > largest) largest = magnitude;
    }
    if (finite !== 0) return null;
    const scale = Math.fround(largest / 127);
    scales[block] = scale;
    // A scale whose inverse overflows is zero in fp16 as well.
    const inverse = scale < 3e-39 ? 0 : Math.fround(1 / scale);
    const target = block * BLOCK_BYTES + 2 - start;
    for (let i = start; i < start + BLOCK; i++) {
      const scaled = Math.fround(values[i]! * inverse);
      quants[target + i] = scaled < 0 ? Math.ceil(scaled - 0.5) : Math.floor(scaled + 0.5);
    }
  }
  const half = new Uint16Array(blocks);
  floatToHalf(scales, 'F16', half);
  const view = new DataView(out.buffer);
  for (let block = 0; block < blocks; block++) {
    if ((half[block]! & EXPONENT.F16) === EXPONENT.F16) return null;
    view.setUint16(block * BLOCK_BYTES, half[block]!, true);
  }
  return out;
}
