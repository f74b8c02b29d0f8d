/**
 * The one door to TensorFlow.js. Importing `@tensorflow/tfjs-core` anywhere else can load a second copy with a second
 * kernel registry (its CommonJS and ES builds do not share state), so a lint rule keeps every other file out.
 */
import * as tf from '@tensorflow/tfjs';

// The stock backend's first write tells Node users to install tfjs-node; ours have backend `native`.
(tf.findBackend('cpu') as unknown as { firstUse: boolean }).firstUse = false;

export { tf };
export type Tensor = tf.Tensor;
export type Tensor1D = tf.Tensor1D;
export type Tensor2D = tf.Tensor2D;
export type Variable = tf.Variable;
