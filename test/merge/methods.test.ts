/** Merge methods against plain float64 loops over whole tensors, on random small checkpoints; every option must change something. */
import { closeSync, existsSync, openSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { TensorSink } from '../../src/merge/tensorSink.js';
import { writeCheckpoint } from '../../src/formats/checkpoint.js';
import { floatToHalf, halfToFloat } from '../../src/formats/half.js';
import { openCheckpointTensors } from '../../src/formats/shards.js';
import type { TensorToWrite } from '../../src/formats/safetensorsWriter.js';
import { mergeModels, planMergeModels, type MergeModelsOptions } from '../../src/merge/methods/index.js';
import { StoredTensors } from '../../src/merge/methods/blocks.js';
import { writeMergedTensor } from '../../src/merge/methods/mergedTensor.js';
import { resolveMethod } from '../../src/merge/methods/options.js';
import { Trim } from '../../src/merge/methods/trim.js';
import { deriveSeed, normalArray, Random } from '../../src/random.js';
import { expectClose } from '../expectClose.js';
import { tempFolder } from '../formats/tempFolder.js';

const root = tempFolder();
const SHAPES: Record<string, number[]> = {
  'model.embed_tokens.weight': [11, 8],
  'model.layers.0.self_attn.q_proj.weight': [8, 8],
  'model.layers.0.mlp.down_proj.weight': [8, 13],
  'model.norm.weight': [8],
};
const CONFIG = { model_type: 'llama', num_attention_heads: 2, hidden_size: 8, vocab_size: 11, torch_dtype: 'float32' };
type Weights = Record<string, Float32Array>;

const size = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** Base weights plus `spread` times noise. */
function weightsOf(seed: number, base?: Weights, spread = 0.1): Weights {
  return Object.fromEntries(
    Object.entries(SHAPES).map(([name, shape], i) => {
      const noise = normalArray(size(shape), base ? spread : 1, seed, i);
      return [name, base ? noise.map((value, k) => Math.fround(base[name]![k]! + value)) : noise];
    }),
  );
}

function checkpoint(
  name: string,
  weights: Weights,
  options: { config?: object; extra?: TensorToWrite[]; bf16?: boolean } = {},
): string {
  const folder = path.join(root, name);
  const tensors = Object.entries(weights).map(([tensor, data]): TensorToWrite => {
    const shape = [data.length / (SHAPES[tensor]!.at(-1) ?? 1), SHAPES[tensor]!.at(-1)!].slice(
      SHAPES[tensor]!.length === 1 ? 1 : 0,
    );
    if (!options.bf16) return { name: tensor, dtype: 'F32', shape, data };
    const bits = new Uint16Array(data.length);
    floatToHalf(data, 'BF16', bits);
    return { name: tensor, dtype: 'BF16', shape, data: bits };
  });
  writeCheckpoint(
    folder,
    { config: { ...CONFIG, ...options.config }, tensors: [...tensors, ...(options.extra ?? [])] },
    { replace: true },
  );
  return folder;
}

const base = weightsOf(1);
const one = weightsOf(2, base);
const two = weightsOf(3, base);
const three = weightsOf(4, base);
const B = checkpoint('base', base);
const M1 = checkpoint('one', one);
const M2 = checkpoint('two', two);
const M3 = checkpoint('three', three);

let runs = 0;
async function merged(options: MergeModelsOptions): Promise<Weights> {
  const out = path.join(root, `out-${runs++}`);
  await mergeModels(options, { out, sync: false });
  const tensors = openCheckpointTensors(out);
  const result = Object.fromEntries(tensors.names().map((name) => [name, Float32Array.from(tensors.readFloat32(name))]));
  tensors.close();
  return result;
}

// --- The formulas once more: float64, whole tensors, sorted magnitudes.

interface Reference {
  density?: number;
  weights: number[];
  sparsify?: 'trim' | 'drop';
  elect?: boolean;
  normalize?: boolean;
  lambda?: number;
  seed?: number;
}

function trimmed(delta: number[], density: number): number[] {
  const keep = Math.max(1, Math.floor(density * delta.length));
  const order = delta.map((_, i) => i).sort((a, b) => Math.abs(delta[b]!) - Math.abs(delta[a]!) || a - b);
  const stays = new Set(order.slice(0, keep));
  return delta.map((value, i) => (stays.has(i) ? value : 0));
}

function taskReference(name: string, models: Weights[], reference: Reference): number[] {
  const own = base[name]!;
  const { weights, density = 1, lambda = 1 } = reference;
  const deltas = models.map((model, k) => {
    const delta = Array.from(model[name]!, (value, i) => Math.fround(value - own[i]!));
    if (reference.sparsify === 'trim') return trimmed(delta, density);
    if (reference.sparsify !== 'drop') return delta;
    const random = new Random(deriveSeed(reference.seed ?? 0, name), k);
    return delta.map((value) => (random.uniform() < density ? value / density : 0));
  });
  return Array.from(own, (value, i) => {
    const weighted = deltas.map((delta, k) => weights[k]! * delta[i]!);
    const sum = weighted.reduce((a, b) => a + b, 0);
    const agrees = weighted.map((x) => !reference.elect || Math.sign(x) === (sum >= 0 ? 1 : -1));
    const mixed = weighted.reduce((total, x, k) => total + (agrees[k] ? x : 0), 0);
    const divisor = weights.reduce((total, w, k) => total + (agrees[k] ? w : 0), 0);
    return value + (lambda * mixed) / (reference.normalize && divisor !== 0 ? divisor : 1);
  });
}

function slerpReference(a: Float32Array, b: Float32Array, t: number): number[] {
  const norm = (v: Float32Array): number => Math.sqrt(v.reduce((sum, x) => sum + x * x, 0));
  let dot = 0;
  for (let i = 0; i < a.length; i++) dot += (a[i]! / norm(a)) * (b[i]! / norm(b));
  if (Math.abs(dot) > 0.9995) return Array.from(a, (x, i) => (1 - t) * x + t * b[i]!);
  const theta = Math.acos(dot);
  return Array.from(a, (x, i) => (Math.sin(theta - t * theta) * x + Math.sin(t * theta) * b[i]!) / Math.sin(theta));
}

function expectWeights(actual: Weights, expected: (name: string) => ArrayLike<number>): void {
  expect(Object.keys(actual).sort()).toEqual(Object.keys(SHAPES).sort());
  // One rounding to float32 of values up to 4, plus that of a difference: measured 2.4e-7.
  for (const name of Object.keys(SHAPES)) expectClose(actual[name]!, expected(name), { abs: 5e-7, label: name });
}

const pair = [
  { folder: M1, weight: 0.7 },
  { folder: M2, weight: 0.4 },
];
const all = [...pair, { folder: M3, weight: -0.3 }];

describe('methods equal their formulas', () => {
  it.each([true, false])('linear, normalize %s', async (normalize) => {
    const result = await merged({ method: 'linear', models: pair, normalize });
    const divisor = normalize ? 1.1 : 1;
    expectWeights(result, (name) => Array.from(one[name]!, (x, i) => (0.7 * x + 0.4 * two[name]![i]!) / divisor));
  });

  const cases: [string, string, MergeModelsOptions, Reference][] = [
    ['task_arithmetic', '', { method: 'task_arithmetic', models: all }, {} as Reference],
    [
      'task_arithmetic',
      'normalised',
      { method: 'task_arithmetic', models: pair, normalize: true },
      { normalize: true } as Reference,
    ],
    ['task_arithmetic', 'lambda', { method: 'task_arithmetic', models: all, lambda: 0.5 }, { lambda: 0.5 } as Reference],
    ['ties', 'whole', { method: 'ties', models: all }, { elect: true, normalize: true } as Reference],
    ...[0.9, 0.5, 0.2, 0.01].map((density): [string, string, MergeModelsOptions, Reference] => [
      'ties',
      `density ${density}`,
      { method: 'ties', models: all, density },
      { elect: true, normalize: true, sparsify: 'trim', density } as Reference,
    ]),
    [
      'ties',
      'not normalised',
      { method: 'ties', models: all, density: 0.5, normalize: false },
      { elect: true, sparsify: 'trim', density: 0.5 } as Reference,
    ],
    ['dare_linear', '', { method: 'dare_linear', models: all, density: 0.4 }, { sparsify: 'drop', density: 0.4 } as Reference],
    [
      'dare_linear',
      'seed',
      { method: 'dare_linear', models: all, density: 0.4, seed: 9 },
      { sparsify: 'drop', density: 0.4, seed: 9 } as Reference,
    ],
    [
      'dare_ties',
      '',
      { method: 'dare_ties', models: all, density: 0.6, seed: 5 },
      { sparsify: 'drop', density: 0.6, seed: 5, elect: true } as Reference,
    ],
    [
      'dare_ties',
      'normalised',
      { method: 'dare_ties', models: all, density: 0.6, normalize: true },
      { sparsify: 'drop', density: 0.6, elect: true, normalize: true } as Reference,
    ],
  ];

  it.each(cases)('%s %s', async (_method, _what, options, reference) => {
    const models = options.models.map(({ folder }) => ({ [M1]: one, [M2]: two, [M3]: three })[folder]!);
    const weights = options.models.map(({ weight }) => weight!);
    const result = await merged({ ...options, base: B });
    expectWeights(result, (name) => taskReference(name, models, { ...reference, weights }));
  });

  it.each([0, 0.3, 1])('slerp at %s', async (t) => {
    const far = weightsOf(77);
    const other = checkpoint('far', far);
    expectWeights(await merged({ method: 'slerp', base: B, models: [{ folder: other }], t }), (name) =>
      slerpReference(base[name]!, far[name]!, t),
    );
    expect(Math.abs(slerpReference(base['model.norm.weight']!, far['model.norm.weight']!, t)[0]!)).toBeGreaterThan(0);
  });

  it('slerp of nearly colinear tensors is linear, as in mergekit; without a base the first model is t = 0', async () => {
    const near = weightsOf(5, base, 1e-3);
    const folder = checkpoint('near', near);
    const result = await merged({ method: 'slerp', models: [{ folder: B }, { folder }], t: 0.25 });
    expectWeights(result, (name) => Array.from(base[name]!, (x, i) => 0.75 * x + 0.25 * near[name]![i]!));
  });

  it('a weight of 1 is the default, and ties of one model gives it back', async () => {
    expectWeights(await merged({ method: 'ties', base: B, models: [{ folder: M1 }] }), (name) => one[name]!);
  });
});

describe('every option changes something', () => {
  const start: MergeModelsOptions = { method: 'dare_ties', base: B, models: all, density: 0.6, seed: 1 };
  const changed: [string, Partial<MergeModelsOptions>][] = [
    ['density', { density: 0.5 }],
    ['seed', { seed: 2 }],
    ['normalize', { normalize: true }],
    ['lambda', { lambda: 1.1 }],
    ['base', { base: M3 }],
    ['weights', { models: [...pair, { folder: M3, weight: 0.3 }] }],
    ['method', { method: 'dare_linear' }],
    ['dtype', { dtype: 'bfloat16' }],
  ];
  it.each(changed)('%s', async (_name, change) => {
    const name = 'model.layers.0.mlp.down_proj.weight';
    expect(await merged(start).then((result) => result[name])).toEqual(await merged(start).then((result) => result[name]));
    expect((await merged({ ...start, ...change }))[name]).not.toEqual((await merged(start))[name]);
  });
});

describe('blocks', () => {
  it.each(['linear', 'ties', 'dare_ties', 'slerp'])('%s gives the same bytes whatever their size', async (name) => {
    const options = name === 'slerp' ? { t: 0.3 } : name === 'linear' ? {} : { density: 0.5 };
    const models = (name === 'slerp' ? [M1] : [M1, M2]).map((folder) => ({ folder }));
    const method = resolveMethod({ method: name, base: B, models, ...options });
    const sources = [B, ...models.map(({ folder }) => folder)].map((folder) => openCheckpointTensors(folder));
    const readers = sources.map((source) => new StoredTensors(source.files));
    const tensor = 'model.layers.0.mlp.down_proj.weight';
    const results: Buffer[] = [];
    for (const blockElements of [1, 7, 103, 1 << 18]) {
      const file = path.join(root, `blocks-${blockElements}`);
      const fd = openSync(file, 'w');
      const [own, ...others] = readers.map((reader) => reader.stored(tensor));
      const sink = new TensorSink(fd, file, 0, own!.byteLength);
      await writeMergedTensor(method, { base: name === 'linear' ? null : own!, models: others }, 'F32', sink, blockElements);
      closeSync(fd);
      expect(sink.complete).toBe(true);
      results.push(readFileSync(file));
    }
    for (const reader of readers) reader.close();
    for (const source of sources) source.close();
    // The sums under slerp's angle are taken block by block, in one order.
    for (const result of results) expect(result.equals(results[0]!)).toBe(true);
  });
});

describe('storage', () => {
  it('merges bfloat16 in float32 and rounds once; dtype and config follow --dtype', async () => {
    const rounded = (weights: Weights): Weights =>
      Object.fromEntries(
        Object.entries(weights).map(([name, data]) => {
          const bits = new Uint16Array(data.length);
          const back = new Float32Array(data.length);
          floatToHalf(data, 'BF16', bits);
          halfToFloat(bits, 'BF16', back);
          return [name, back];
        }),
      );
    const low = [rounded(one), rounded(two)];
    const folders = [checkpoint('low1', one, { bf16: true }), checkpoint('low2', two, { bf16: true })];
    const models = folders.map((folder) => ({ folder, weight: 0.5 }));
    const mean = (name: string): Float32Array => low[0]![name]!.map((x, i) => (x + low[1]![name]![i]!) / 2);
    const exact = await merged({ method: 'linear', models, dtype: 'float32' });
    for (const name of Object.keys(SHAPES)) expect(exact[name]).toEqual(mean(name));
    const kept = await merged({ method: 'linear', models });
    const expected = rounded(Object.fromEntries(Object.keys(SHAPES).map((name) => [name, mean(name)])));
    expect(kept).toEqual(expected);
    const out = path.join(root, `out-${runs - 2}`);
    expect(JSON.parse(readFileSync(path.join(out, 'config.json'), 'utf8'))).toMatchObject({ torch_dtype: 'float32' });
    expect(readFileSync(path.join(out, 'README.md'), 'utf8')).toContain('method linear');
  });

  it('refuses values that float16 cannot hold, by tensor, and leaves nothing', async () => {
    const huge = checkpoint('huge', { ...one, 'model.norm.weight': new Float32Array(8).fill(2e5) });
    const out = path.join(root, 'overflow');
    const models = [{ folder: M1 }, { folder: huge }];
    await expect(mergeModels({ method: 'linear', models, dtype: 'float16' }, { out, sync: false })).rejects.toMatchObject({
      code: 'NIFT_MERGE_OVERFLOW',
      message: expect.stringContaining('model.norm.weight') as string,
    });
    expect([out, `${out}.partial`].filter(existsSync)).toEqual([]);
  });

  it('carries tensors without floats over from the first model', async () => {
    const extra: TensorToWrite[] = [{ name: 'position_ids', dtype: 'I64', shape: [2], data: BigInt64Array.of(3n, 4n) }];
    const models = [checkpoint('int1', one, { extra }), checkpoint('int2', two, { extra })].map((folder) => ({ folder }));
    const plan = planMergeModels({ method: 'linear', models });
    plan.close();
    expect(plan.carried).toEqual(['position_ids']);
    expect((await merged({ method: 'linear', models }))['position_ids']).toEqual(Float32Array.of(3, 4));
  });
});

describe('interrupted', () => {
  it('a resumed merge writes the bytes of an uninterrupted one; a changed seed is another merge', async () => {
    const options = { method: 'dare_ties', base: B, models: all, density: 0.5, seed: 4, maxShardBytes: 300 };
    const [whole, out] = ['uninterrupted', 'interrupted'].map((name) => path.join(root, name)) as [string, string];
    const run = { sync: false, readme: '' };
    await mergeModels(options, { ...run, out: whole });
    const abort = new AbortController();
    let tensors = 0;
    const stop = (): void => {
      if (++tensors === 3) abort.abort();
    };
    const stopped = mergeModels(options, { ...run, out, signal: abort.signal, onProgress: stop });
    await expect(stopped).rejects.toMatchObject({ code: 'NIFT_INTERRUPTED' });
    expect(existsSync(out)).toBe(false);
    await expect(mergeModels({ ...options, seed: 5 }, { out, resume: true })).rejects.toMatchObject({ code: 'NIFT_RESUME' });
    const result = await mergeModels(options, { ...run, out, resume: true });
    expect(result.resumedShards).toBeGreaterThan(0);
    for (const file of readdirSync(whole))
      expect(readFileSync(path.join(out, file)).equals(readFileSync(path.join(whole, file))), file).toBe(true);
  });
});

describe('models that do not fit', () => {
  const problem = (options: MergeModelsOptions): unknown => {
    try {
      planMergeModels(options).close();
      return null;
    } catch (error) {
      return error;
    }
  };

  it('lists every missing, extra and misshapen tensor at once, and explains vocabularies', () => {
    const other: Weights = { ...two, 'model.embed_tokens.weight': new Float32Array(12 * 8) };
    delete other['model.norm.weight'];
    const folder = checkpoint('resized', other);
    expect(problem({ method: 'linear', models: [{ folder: M1 }, { folder }] })).toMatchObject({
      code: 'NIFT_CHECKPOINT_MISMATCH',
      details: {
        problems: [`${folder} has no model.norm.weight`, `model.embed_tokens.weight is [12, 8] in ${folder}, [11, 8] in ${M1}`],
      },
      hint: expect.stringMatching(/vocabularies have different sizes .*12 tokens.*11/) as string,
    });
  });

  it('refuses equal shapes with another structure, and notes other differences', () => {
    const heads = checkpoint('heads', two, { config: { num_attention_heads: 4 } });
    expect(problem({ method: 'linear', models: [{ folder: M1 }, { folder: heads }] })).toMatchObject({
      message: expect.stringContaining('num_attention_heads is 4') as string,
    });
    const theta = checkpoint('theta', two, { config: { rope_theta: 5e5 } });
    const other = checkpoint('theta2', one, { config: { rope_theta: 1e4 } });
    writeFileSync(path.join(theta, 'tokenizer.json'), '{"a":1}');
    writeFileSync(path.join(other, 'tokenizer.json'), '{"a":2}');
    const plan = planMergeModels({ method: 'linear', models: [{ folder: theta }, { folder: other }] });
    plan.close();
    expect(plan.notes.join('\n')).toMatch(/rope_theta is 10000.*\n.*another tokenizer\.json/);
  });

  const wrong: [string, MergeModelsOptions, RegExp][] = [
    ['unknown method', { method: 'tie', models: pair }, /"tie"/],
    ['no base', { method: 'ties', models: pair }, /ties needs --base/],
    ['no model', { method: 'task_arithmetic', base: B, models: [] }, /at least one --model/],
    ['one model to average', { method: 'linear', models: [{ folder: M1 }] }, /two or more/],
    ['three for slerp', { method: 'slerp', base: B, models: pair, t: 0.5 }, /between two models.*3 were given/],
    ['slerp without t', { method: 'slerp', base: B, models: [{ folder: M1 }] }, /needs --t/],
    ['t outside', { method: 'slerp', base: B, models: [{ folder: M1 }], t: 2 }, /--t 2/],
    ['weight for slerp', { method: 'slerp', base: B, models: [{ folder: M1, weight: 1 }], t: 0 }, /slerp has no weights/],
    ['density outside', { method: 'ties', base: B, models: pair, density: 0 }, /--density 0/],
    ['weights that cancel', { method: 'linear', models: [{ folder: M1 }, { folder: M2, weight: -1 }] }, /sum to 0/],
    [
      'options of other methods',
      { method: 'linear', models: pair, density: 0.5, t: 1 },
      /--density means nothing to linear; --t means/,
    ],
  ];
  it.each(wrong)('%s', (_name, options, says) => {
    expect(problem(options)).toMatchObject({ code: 'NIFT_USAGE', message: expect.stringMatching(says) as string });
  });
});

/** A value for each element out of few, so that many magnitudes are equal; zeros and denormals among them. */
function fewValues(length: number): Float32Array {
  const random = new Random(3);
  return Float32Array.from({ length }, () => (random.integer(7) - 3) * (random.integer(2) ? 1e-40 : 0.5));
}

describe('trim', () => {
  const cases = [1, 7, 1000].flatMap((length) =>
    [1, Math.ceil(length / 3), length].flatMap((keep) => [1, 3, length].map((block) => ({ length, keep, block }))),
  );
  it.each(cases)('keeps the $keep largest of $length, ties in order, in blocks of $block', ({ length, keep, block }) => {
    const values = fewValues(length);
    const trim = new Trim(keep);
    const own = Float32Array.from(values);
    for (const pass of ['countHigh', 'countLow', 'apply'] as const)
      for (let at = 0; at < length; at += block) trim[pass](own.subarray(at, at + block));
    // + 0: a zero's sign means nothing.
    expect([...own].map((x) => x + 0)).toEqual(trimmed([...values], keep / length).map((x) => x + 0));
  });
});
