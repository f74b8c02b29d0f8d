/** Tensors of a model as the files of the ecosystem hold them. */
import { addon } from '../backend/addon.js';
import { DTYPE_CODE, type StorageDtype } from '../backend/dtype.js';
import type { Tensor } from '../backend/tf.js';
import type { SafetensorsDtype } from '../formats/safetensors.js';
import type { TensorToWrite } from '../formats/safetensorsWriter.js';
import { roundValues } from '../ops/rounding.js';

const FILE_DTYPE: Record<StorageDtype, SafetensorsDtype> = { float32: 'F32', bfloat16: 'BF16', float16: 'F16' };

/** Describes tensors for a writer; values are read, and rounded once to `dtype`, when their turn comes. */
export function* tensorsToWrite(tensors: Iterable<[string, Tensor]>, dtype: StorageDtype): Generator<TensorToWrite> {
  for (const [name, tensor] of tensors) {
    yield {
      name,
      dtype: FILE_DTYPE[dtype],
      shape: tensor.shape,
      data: () => encode(tensor.dataSync() as Float32Array, dtype),
    };
  }
}

/** `config.json` for weights stored as `dtype`: the keys that name it, in the spelling that the file uses. */
export function configWithDtype(raw: Record<string, unknown>, dtype: StorageDtype): Record<string, unknown> {
  const keys = ['torch_dtype', 'dtype'].filter((key) => key in raw);
  return { ...raw, ...Object.fromEntries((keys.length > 0 ? keys : ['torch_dtype']).map((key) => [key, dtype])) };
}

function encode(values: Float32Array, dtype: StorageDtype): Float32Array | Uint16Array {
  if (dtype === 'float32') return values;
  const bits = new Uint16Array(values.length);
  const native = addon();
  if (native) native.floatToHalf(values, DTYPE_CODE[dtype] as 1 | 2, bits);
  else encodeRounded(roundValues(values, dtype), dtype, bits);
  return bits;
}

/** Bits of values that the 16-bit type represents exactly. */
function encodeRounded(values: Float32Array, dtype: StorageDtype, out: Uint16Array): void {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < words.length; i++) {
    const word = words[i]!;
    if (dtype === 'bfloat16') {
      // A NaN whose payload lies in the lower half must not become an infinity.
      out[i] = (word >>> 16) | ((word & 0x7fffffff) > 0x7f800000 ? 0x40 : 0);
      continue;
    }
    const sign = (word >>> 16) & 0x8000;
    const magnitude = Math.abs(values[i]!);
    if (Number.isNaN(magnitude)) out[i] = sign | 0x7e00;
    else if (magnitude === Infinity) out[i] = sign | 0x7c00;
    else if (magnitude < 2 ** -14) out[i] = sign | (magnitude * 2 ** 24);
    else out[i] = sign | ((((word >>> 23) & 0xff) - 112) << 10) | ((word >>> 13) & 0x3ff);
  }
}
