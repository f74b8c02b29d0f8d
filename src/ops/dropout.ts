/**
 * Dropout: y[i] = keep(seed, i) ? x[i] / (1 - rate) : 0.
 *
 * Shapes: any; i is the flat index. Saved for backward: nothing (the mask is a function of seed and index).
 * Gradient: the same op applied to dy.
 * Numerics: the mask comes from 32-bit integer arithmetic that is identical in JavaScript and C++, so a run resumes with the
 * same masks, on any backend, whatever the number of threads.
 * Source: the mixer is C. Wellons' "lowbias32" (exhaustively searched 32-bit bijection), keyed twice.
 */
import { addon } from '../backend/addon.js';
import { tf, type Tensor } from '../backend/tf.js';
import { NiftError } from '../errors.js';
import { registerNativeKernel } from './nativeKernel.js';
import { usesKernel } from './registry.js';

export interface DropoutOptions {
  /** Share of elements set to zero, 0 <= rate < 1. */
  rate: number;
  /** Integer 0 ... 2^53-1; a different one for every use within a step (see {@link placeSeed}). */
  seed: number;
}

/**
 * Zeroes a share of the elements and scales the rest by 1 / (1 - rate).
 * @throws NIFT_USAGE when the rate or the seed is out of range
 */
export function dropout<T extends Tensor>(x: T, { rate, seed }: DropoutOptions): T {
  if (!(rate >= 0 && rate < 1)) throw new NiftError('NIFT_USAGE', `dropout: rate ${rate}, expected 0 <= rate < 1`);
  if (!Number.isSafeInteger(seed) || seed < 0)
    throw new NiftError('NIFT_USAGE', `dropout: seed ${seed}, expected an integer 0 ... 2^53-1`);
  if (rate === 0) return x;
  if (!usesKernel('NiftDropout')) return dropoutReference(x, { rate, seed });
  return tf.engine().runKernel('NiftDropout', { x }, { rate, seed });
}

/** The definition of {@link dropout}: a mask made in JavaScript, then stock TF.js ops. */
export function dropoutReference<T extends Tensor>(x: T, { rate, seed }: DropoutOptions): T {
  return tf.tidy(() => tf.mul<T>(x, tf.tensor(dropoutMask(x.size, { rate, seed }), x.shape)));
}

/** The factors 0 and 1 / (1 - rate) for `size` elements. */
export function dropoutMask(size: number, { rate, seed }: DropoutOptions): Float32Array {
  const mask = new Float32Array(size);
  const { key0, key1, threshold, scale } = dropoutParameters({ rate, seed });
  for (let i = 0; i < size; i++) {
    const high = Math.floor(i / 0x1_0000_0000);
    if (mix(mix((i >>> 0) ^ key0) + key1 + high) >= threshold) mask[i] = scale;
  }
  return mask;
}

/** A seed for one place from the run's seed and the place's coordinates (step, micro-batch, layer, ...). */
export function placeSeed(seed: number, ...path: number[]): number {
  let low = mix((seed >>> 0) ^ 0x243f6a88);
  let high = mix(Math.floor(seed / 0x1_0000_0000) + 0x13198a2e + low);
  for (const part of path) {
    low = mix(low ^ mix((part >>> 0) + 0x9e3779b9));
    high = mix(high + Math.floor(part / 0x1_0000_0000) + low);
  }
  return (high >>> 11) * 0x1_0000_0000 + low;
}

/** What both implementations start from; native/dropout.cpp receives these numbers. */
function dropoutParameters({ rate, seed }: DropoutOptions) {
  const key0 = mix((seed >>> 0) ^ 0x9e3779b9);
  const key1 = mix(Math.floor(seed / 0x1_0000_0000) + 0x85ebca6b + key0);
  const threshold = Math.min(0xffff_ffff, Math.round(rate * 0x1_0000_0000));
  return { key0, key1, threshold, scale: Math.fround(1 / (1 - rate)) };
}

/** lowbias32: a bijection of the 32-bit integers. Takes the value modulo 2^32, returns it unsigned. */
function mix(value: number): number {
  let x = value >>> 0;
  x = Math.imul(x ^ (x >>> 16), 0x7feb352d);
  x = Math.imul(x ^ (x >>> 15), 0x846ca68b);
  return (x ^ (x >>> 16)) >>> 0;
}

let registered = false;

/** Registers the native kernel (when the addon is there) and the gradient; idempotent. */
export function registerDropout(): void {
  if (registered) return;
  registered = true;
  tf.registerGradient({
    kernelName: 'NiftDropout',
    gradFunc: (dy, _saved, attrs) => ({
      x: () => tf.engine().runKernel<Tensor>('NiftDropout', { x: dy as Tensor }, attrs),
    }),
  });
  const native = addon();
  if (!native) return;
  registerNativeKernel<'x', DropoutOptions>('NiftDropout', ({ inputs: { x }, backend, attrs }) => {
    const { key0, key1, threshold, scale } = dropoutParameters(attrs);
    const output = backend.output(x.shape);
    native.dropout(backend.floats(x), key0, key1, threshold, scale, output.data);
    return output.info;
  });
}
