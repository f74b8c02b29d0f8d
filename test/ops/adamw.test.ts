import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { addon } from '../../src/backend/addon.js';
import { useBackend } from '../../src/backend/index.js';
import { tf, type Variable } from '../../src/backend/tf.js';
import { openSafetensors } from '../../src/formats/safetensors.js';
import { adamw, adamwReference, createAdamWState, disposeAdamWState, type AdamWHyper } from '../../src/ops/adamw.js';
import { expectClose } from '../expectClose.js';
import { hasShared, shared } from '../golden.js';
import { randomFloats } from './floats.js';

const HYPER: AdamWHyper = {
  lr: 1e-2,
  beta1: 0.9,
  beta2: 0.999,
  eps: 1e-8,
  weightDecay: 0.1,
  step: 1,
  maxGradNorm: 1,
  gradScale: 1,
};
const SIZES = [1, 15, 16, 17, 1000, 16_384, 40_001];

/** One parameter list in float64 loops. */
class Float64AdamW {
  readonly m: Float64Array[];
  readonly v: Float64Array[];
  constructor(readonly p: Float64Array[]) {
    this.m = p.map((values) => new Float64Array(values.length));
    this.v = p.map((values) => new Float64Array(values.length));
  }
  step(grads: Float32Array[], h: AdamWHyper): number {
    let sum = 0;
    for (const g of grads) for (const value of g) sum += (value * h.gradScale) ** 2;
    const norm = Math.sqrt(sum);
    const clip = h.maxGradNorm > 0 ? Math.min(1, h.maxGradNorm / (norm + 1e-6)) : 1;
    grads.forEach((grad, t) =>
      grad.forEach((value, i) => {
        const g = value * h.gradScale * clip;
        const [p, m, v] = [this.p[t]!, this.m[t]!, this.v[t]!];
        m[i] = h.beta1 * m[i]! + (1 - h.beta1) * g;
        v[i] = h.beta2 * v[i]! + (1 - h.beta2) * g * g;
        const denominator = Math.sqrt(v[i] / (1 - h.beta2 ** h.step)) + h.eps;
        p[i] = p[i]! * (1 - h.lr * h.weightDecay) - (h.lr * (m[i] / (1 - h.beta1 ** h.step))) / denominator;
      }),
    );
    return norm;
  }
}

describe.each(['native', 'cpu', 'wasm'])('adamw on %s', (backend) => {
  beforeAll(() => useBackend(backend));

  it.each([
    { maxGradNorm: 0, weightDecay: 0, gradScale: 1 },
    { maxGradNorm: 1, weightDecay: 0.1, gradScale: 1 / 1024 },
    { maxGradNorm: 1e9, weightDecay: 0.01, gradScale: 3 },
  ])('equals float64 loops over four steps: $maxGradNorm $weightDecay $gradScale', (change) => {
    const start = SIZES.map((size, i) => randomFloats(size, i + 1));
    const run = (update: typeof adamw): void => {
      const reference = new Float64AdamW(start.map((values) => Float64Array.from(values)));
      const params = start.map((values) => tf.variable(tf.tensor1d(values.slice())));
      const state = createAdamWState(params);
      for (let step = 1; step <= 4; step++) {
        const grads = SIZES.map((size, i) => randomFloats(size, 100 * step + i, 10 ** -(i % 4)));
        const tensors = grads.map((values) => tf.tensor1d(values));
        const { gradNorm, finite } = update(params, tensors, state, { ...HYPER, ...change, step });
        const expected = reference.step(grads, { ...HYPER, ...change, step });
        expect(finite).toBe(true);
        expect(Math.abs(gradNorm - expected)).toBeLessThan(1e-6 * expected);
      }
      params.forEach((param, i) => {
        expectClose(param.dataSync(), reference.p[i]!, { abs: 1e-6, label: `parameter ${i}` });
        expectClose(state.m[i]!.dataSync(), reference.m[i]!, { relToMax: 1e-6, label: `m ${i}` });
        expectClose(state.v[i]!.dataSync(), reference.v[i]!, { relToMax: 1e-6, label: `v ${i}` });
      });
    };
    run(adamw);
    run(adamwReference);
  });

  it.each([NaN, Infinity, -Infinity])('changes nothing when one gradient is %f', (bad) => {
    const params = [tf.variable(tf.tensor1d([1, 2, 3])), tf.variable(tf.tensor1d(new Float32Array(20_000).fill(5)))];
    const state = createAdamWState(params);
    const grads = [tf.tensor1d([1, 1, 1]), tf.tensor1d(new Float32Array(20_000).fill(1))];
    adamw(params, grads, state, HYPER);
    const everything = (): number[][] => [...params, ...state.m, ...state.v].map((tensor) => Array.from(tensor.dataSync()));
    const before = everything();
    const spoiled = new Float32Array(20_000).fill(1);
    spoiled[19_999] = bad;
    const result = adamw(params, [grads[0]!, tf.tensor1d(spoiled)], state, { ...HYPER, step: 2 });
    expect(result.finite).toBe(false);
    expect(Number.isFinite(result.gradNorm)).toBe(false);
    expect(everything()).toEqual(before);
  });

  it('never writes into an array or a tensor that somebody else holds', () => {
    const values = Float32Array.of(1, 2, 3);
    const initial = tf.tensor1d(values);
    const param = tf.variable(initial);
    const state = createAdamWState([param]);
    const grad = tf.tensor1d([1, 1, 1]);
    adamw([param], [grad], state, HYPER);
    const snapshot = tf.clone(param);
    const seen = Array.from(snapshot.dataSync());
    adamw([param], [grad], state, { ...HYPER, step: 2 });
    expect([Array.from(values), Array.from(initial.dataSync()), Array.from(snapshot.dataSync())]).toEqual([
      [1, 2, 3],
      [1, 2, 3],
      seen,
    ]);
    expect(param.dataSync()[0]).toBeLessThan(seen[0]!);
  });

  it('keeps memory flat and frees its state', () => {
    const param = tf.variable(tf.ones([8, 8]));
    const before = tf.memory().numTensors;
    const state = createAdamWState([param]);
    const grad = tf.ones([8, 8]);
    const during = tf.memory().numTensors;
    for (let step = 1; step < 5; step++) adamw([param], [grad], state, { ...HYPER, step });
    expect(tf.memory().numTensors).toBe(during);
    disposeAdamWState(state);
    grad.dispose();
    expect(tf.memory().numTensors).toBe(before);
  });

  it('refuses lists and shapes that disagree', () => {
    const param = tf.variable(tf.ones([2]));
    const state = createAdamWState([param]);
    expect(() => adamw([param], [], state, HYPER)).toThrow(/1, 0, 1, 1 parameters/);
    expect(() => adamw([param], [tf.ones([3])], state, HYPER)).toThrow(/is \[2\], its gradient or state \[3\]/);
    expect(() => adamw([param], [tf.ones([2])], state, { ...HYPER, step: 0 })).toThrow(/step 0/);
    expect(adamw([], [], createAdamWState([]), HYPER)).toEqual({ gradNorm: 0, finite: true });
  });

  it.skipIf(!hasShared)('equals torch on the golden steps', async () => {
    const spec = JSON.parse(readFileSync(shared('golden', 'units', 'adamw.json'), 'utf8')) as Golden;
    const file = openSafetensors(shared('golden', 'units', 'adamw.safetensors'));
    const floats = (name: string): Float32Array => new Float32Array(file.bytes(name).slice().buffer);
    for (const run of spec.runs) {
      const clip = run.max_grad_norm === null ? 'None' : run.max_grad_norm.toFixed(1);
      const params: Variable[] = ['w', 'b'].map((name) => tf.variable(tf.tensor1d(floats(`init.${name}`))));
      const state = createAdamWState(params);
      spec.lr_per_step.forEach((lr, i) => {
        const grads = ['w', 'b'].map((name) => {
          const all = floats(`grads.${name}`);
          const size = all.length / spec.lr_per_step.length;
          return tf.tensor1d(all.slice(i * size, (i + 1) * size));
        });
        const hyper = { ...HYPER, lr, weightDecay: run.weight_decay, step: i + 1, maxGradNorm: run.max_grad_norm ?? 0 };
        const { gradNorm } = adamw(params, grads, state, hyper);
        if (run.max_grad_norm !== null) expect(Math.abs(gradNorm / run.grad_norms[i]! - 1)).toBeLessThan(1e-5);
        ['w', 'b'].forEach((name, t) =>
          expectClose(params[t]!.dataSync(), floats(`wd${run.weight_decay.toFixed(1)}.clip${clip}.step${i + 1}.${name}`), {
            abs: 1e-5,
          }),
        );
      });
    }
    file.close();
  });
});

interface Golden {
  lr_per_step: number[];
  runs: { weight_decay: number; max_grad_norm: number | null; grad_norms: number[] }[];
}

describe.skipIf(!addon())('adamw kernel', () => {
  it('gives the same bits for every number of threads', async () => {
    await useBackend('native');
    const native = addon()!;
    const { threads } = native.runtimeInfo();
    const run = (count: number): number[] => {
      native.setNumThreads(count);
      const params = SIZES.map((size, i) => tf.variable(tf.tensor1d(randomFloats(size, i))));
      const grads = SIZES.map((size, i) => tf.tensor1d(randomFloats(size, i + 50)));
      const { gradNorm } = adamw(params, grads, createAdamWState(params), HYPER);
      return [gradNorm, ...params.flatMap((param) => Array.from(param.dataSync()))];
    };
    const one = run(1);
    expectClose(run(3), one, { abs: 0 });
    native.setNumThreads(threads);
  });
});
