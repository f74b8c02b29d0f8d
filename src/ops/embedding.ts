/**
 * Embedding: y[n,c] = table[ids[n],c].
 *
 * Shapes: ids int32 [N], table [V,C] -> y [N,C].
 * Saved for backward: ids (and the table's shape).
 * Gradient: dtable[v,c] = sum over n with ids[n] = v of dy[n,c], summed in the order of n: the same bits every time.
 * Numerics: the table may be stored in 16 bits; rows are upcast exactly. A table tied to the LM head gets both gradients,
 * because TF.js's tape adds what reaches the same variable.
 */
import { addon } from '../backend/addon.js';
import { DTYPE_CODE } from '../backend/dtype.js';
import { tf, type Tensor, type Tensor1D, type Tensor2D } from '../backend/tf.js';
import { NiftError } from '../errors.js';
import { registerNativeKernel } from './nativeKernel.js';
import { usesKernel } from './registry.js';

/**
 * Looks up rows of a table.
 * @param ids int32 [N], each in 0 ... V-1
 * @param table float32 [V,C] (any storage)
 * @throws NIFT_OP_SHAPE for wrong ranks or a non-integer `ids`; NIFT_TOKEN_ID (native kernel) for an id outside the table
 */
export function embedding(ids: Tensor1D, table: Tensor2D): Tensor2D {
  if (ids.rank !== 1 || ids.dtype !== 'int32' || table.rank !== 2)
    throw new NiftError(
      'NIFT_OP_SHAPE',
      `embedding: ids ${ids.dtype} [${ids.shape}] and table [${table.shape}], expected int32 [N] and [V,C]`,
    );
  if (!usesKernel('Embedding')) return embeddingReference(ids, table);
  return tf.engine().runKernel('Embedding', { ids, table });
}

/** The definition of {@link embedding} in stock TF.js ops. */
export function embeddingReference(ids: Tensor1D, table: Tensor2D): Tensor2D {
  // Differs: tf.gather's own gradient compares every id with every row (V * N * C); scatterND adds in the order of n.
  const lookup = tf.customGrad((...args) => {
    const [x, save] = args as unknown as [Tensor2D, tf.GradSaveFunc];
    save([ids]);
    const gradFunc = (dy: Tensor, saved: Tensor[]): Tensor => tf.scatterND(tf.expandDims(saved[0]!, 1), dy, x.shape);
    return { value: tf.gather(x, ids), gradFunc };
  });
  return lookup(table);
}

interface GradAttrs {
  shape: [number, number];
}

let registered = false;

/** Registers the native kernels (when the addon is there) and the gradient; idempotent. */
export function registerEmbedding(): void {
  if (registered) return;
  registered = true;
  tf.registerGradient({
    kernelName: 'Embedding',
    inputsToSave: ['ids', 'table'],
    gradFunc: (dy, saved) => {
      const [ids, table] = saved as [Tensor, Tensor];
      const attrs = { shape: table.shape };
      return { table: () => tf.engine().runKernel<Tensor>('EmbeddingGrad', { dy: dy as Tensor, ids }, attrs) };
    },
  });
  const native = addon();
  if (!native) return;
  registerNativeKernel<'ids' | 'table'>('Embedding', ({ inputs: { ids, table }, backend }) => {
    const [vocab, columns] = table.shape as [number, number];
    const stored = backend.stored(table);
    const output = backend.output([ids.shape[0]!, columns]);
    const values = backend.ints(ids);
    const bad = native.embedding(values, stored.data, DTYPE_CODE[stored.dtype], vocab, columns, output.data);
    if (bad >= 0) {
      backend.disposeData(output.info.dataId);
      throw new NiftError('NIFT_TOKEN_ID', `token id ${values[bad]} at position ${bad} is outside 0 ... ${vocab - 1}`);
    }
    return output.info;
  });
  registerNativeKernel<'dy' | 'ids', GradAttrs>('EmbeddingGrad', ({ inputs: { dy, ids }, backend, attrs }) => {
    const [vocab, columns] = attrs.shape;
    const output = backend.output([vocab, columns]);
    native.embeddingGrad(backend.ints(ids), backend.floats(dy), vocab, columns, output.data);
    return output.info;
  });
}
