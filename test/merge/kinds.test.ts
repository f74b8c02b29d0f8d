/** Every kind of adapter against float64 loops, and what is refused. */
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { useBackend } from '../../src/backend/index.js';
import { openCheckpointTensors } from '../../src/formats/shards.js';
import { readManifest, verifyManifest } from '../../src/formats/manifest.js';
import { merge, type MergeOptions } from '../../src/merge/merge.js';
import { CausalLM } from '../../src/model/causalLM.js';
import { tempFolder } from '../formats/tempFolder.js';
import { HIDDEN, KEY_VALUE, makeAdapter, makeModel, product, valuesOf, VOCAB, type AdapterTensors } from './fixtures.js';

const temp = tempFolder();
let counter = 0;
const fresh = (name: string): string => path.join(temp, `${name}-${counter++}`);
const Q = 'model.layers.1.self_attn.q_proj';
const K = 'model.layers.0.self_attn.k_proj';

const lora = (module: string, r: number, rows: number, columns: number, seed: number): AdapterTensors => ({
  [`${module}.lora_A.weight`]: { shape: [r, columns], seed },
  [`${module}.lora_B.weight`]: { shape: [rows, r], seed: seed + 1 },
});

const deltaOf = (tensors: AdapterTensors, module: string): Float64Array => {
  const [a, b] = [tensors[`${module}.lora_A.weight`]!, tensors[`${module}.lora_B.weight`]!];
  return product(valuesOf(a), valuesOf(b), a.shape[0]!, b.shape[0]!, a.shape[1]!);
};

async function mergeInto(
  model: string,
  adapters: MergeOptions['adapters'],
  options: Partial<MergeOptions> = {},
): Promise<string> {
  const out = fresh('out');
  await merge({ model, adapters, out, sync: false, ...options });
  return out;
}

const tensor = (folder: string, name: string): Float32Array => {
  const tensors = openCheckpointTensors(folder);
  const values = tensors.readFloat32(name).slice();
  tensors.close();
  return values;
};

function expectNear(found: Float32Array, expected: ArrayLike<number>, tolerance = 2e-6): void {
  expect(found.length).toBe(expected.length);
  for (let i = 0; i < found.length; i++)
    if (!(Math.abs(found[i]! - expected[i]!) <= tolerance)) expect.fail(`element ${i}: ${found[i]}, expected ${expected[i]}`);
}

const plus = (base: Float32Array, ...terms: [factor: number, delta: ArrayLike<number>][]): Float64Array =>
  Float64Array.from(base, (value, i) => terms.reduce((sum, [factor, delta]) => sum + factor * delta[i]!, value));

beforeAll(() => useBackend('native'));

describe('kinds of adapters', () => {
  it('rsLoRA with rank and alpha patterns, on some layers only', async () => {
    const model = makeModel(fresh('model'));
    const tensors = { ...lora(Q, 3, HIDDEN, HIDDEN, 1), ...lora(K, 9, KEY_VALUE, HIDDEN, 3) };
    const config = {
      use_rslora: true,
      r: 3,
      lora_alpha: 5,
      rank_pattern: { '0.self_attn.k_proj': 9 },
      alpha_pattern: { '.*k_proj': 7 },
      target_modules: ['q_proj', 'k_proj'],
    };
    const out = await mergeInto(model, [{ folder: makeAdapter(fresh('adapter'), config, tensors) }]);
    expectNear(tensor(out, `${Q}.weight`), plus(tensor(model, `${Q}.weight`), [5 / Math.sqrt(3), deltaOf(tensors, Q)]));
    expectNear(tensor(out, `${K}.weight`), plus(tensor(model, `${K}.weight`), [7 / 3, deltaOf(tensors, K)]));
    const other = 'model.layers.0.self_attn.q_proj.weight';
    expect(tensor(out, other)).toEqual(tensor(model, other));
  });

  it('DoRA scales rows to their magnitudes', async () => {
    const model = makeModel(fresh('model'));
    const magnitude = Float32Array.from({ length: HIDDEN }, (_, i) => 1 + i / 7);
    const tensors = {
      ...lora(Q, 4, HIDDEN, HIDDEN, 1),
      [`${Q}.lora_magnitude_vector`]: { shape: [HIDDEN], seed: 0, values: magnitude },
    };
    const folder = makeAdapter(fresh('adapter'), { use_dora: true }, tensors);
    const sum = plus(tensor(model, `${Q}.weight`), [2, deltaOf(tensors, Q)]);
    const dora = (row: Float64Array, r: number): Float64Array => row.map((value) => (value * magnitude[r]!) / Math.hypot(...row));
    const expected = Float64Array.from(
      { length: HIDDEN * HIDDEN },
      (_, i) => dora(sum.slice(i - (i % HIDDEN), i - (i % HIDDEN) + HIDDEN), Math.floor(i / HIDDEN))[i % HIDDEN]!,
    );
    expectNear(tensor(await mergeInto(model, [{ folder }]), `${Q}.weight`), expected, 1e-5);
    // Half of it lies half way.
    const base = tensor(model, `${Q}.weight`);
    expectNear(
      tensor(await mergeInto(model, [{ folder, weight: 0.5 }]), `${Q}.weight`),
      expected.map((value, i) => (value + base[i]!) / 2),
      1e-5,
    );
  });

  it('several adapters with weights add up', async () => {
    const model = makeModel(fresh('model'));
    const [one, two] = [
      lora(Q, 4, HIDDEN, HIDDEN, 1),
      { ...lora(Q, 12, HIDDEN, HIDDEN, 5), ...lora(K, 12, KEY_VALUE, HIDDEN, 7) },
    ];
    const adapters = [
      { folder: makeAdapter(fresh('adapter'), {}, one), weight: 0.7 },
      { folder: makeAdapter(fresh('adapter'), { r: 12, target_modules: ['q_proj', 'k_proj'] }, two), weight: -0.25 },
    ];
    const out = await mergeInto(model, adapters);
    expectNear(
      tensor(out, `${Q}.weight`),
      plus(tensor(model, `${Q}.weight`), [1.4, deltaOf(one, Q)], [(-0.25 * 8) / 12, deltaOf(two, Q)]),
    );
    expectNear(tensor(out, `${K}.weight`), plus(tensor(model, `${K}.weight`), [(-0.25 * 8) / 12, deltaOf(two, K)]));
  });

  it('Conv1D layouts (fan_in_fan_out) are transposed', async () => {
    const model = makeModel(fresh('model'));
    const name = 'model.layers.0.mlp.up_proj';
    // The base matrix [40, 24] is taken as [in, out].
    const tensors = lora(name, 4, HIDDEN, 40, 1);
    const out = await mergeInto(model, [{ folder: makeAdapter(fresh('adapter'), { fan_in_fan_out: true }, tensors) }]);
    const delta = deltaOf(tensors, name);
    const transposed = Float64Array.from({ length: 40 * HIDDEN }, (_, i) => delta[(i % HIDDEN) * 40 + Math.floor(i / HIDDEN)]!);
    expectNear(tensor(out, `${name}.weight`), plus(tensor(model, `${name}.weight`), [2, transposed]));
  });

  it('trained biases replace, biases of B are added', async () => {
    const model = makeModel(fresh('model'), { qkvBias: true });
    const tensors: AdapterTensors = {
      ...lora(Q, 4, HIDDEN, HIDDEN, 1),
      [`${Q}.bias`]: { shape: [HIDDEN], seed: 9 },
      ...lora(K, 4, KEY_VALUE, HIDDEN, 3),
      [`${K}.lora_B.bias`]: { shape: [KEY_VALUE], seed: 10 },
    };
    const out = await mergeInto(model, [
      { folder: makeAdapter(fresh('adapter'), { bias: 'lora_only', lora_bias: true }, tensors) },
    ]);
    expect(tensor(out, `${Q}.bias`)).toEqual(valuesOf(tensors[`${Q}.bias`]!));
    expectNear(tensor(out, `${K}.bias`), plus(tensor(model, `${K}.bias`), [2, valuesOf(tensors[`${K}.lora_B.bias`]!)]));
  });
});

describe('embeddings and the output matrix', () => {
  const embedding: AdapterTensors = {
    'model.embed_tokens.lora_embedding_A': { shape: [4, VOCAB], seed: 1 },
    'model.embed_tokens.lora_embedding_B': { shape: [HIDDEN, 4], seed: 2 },
  };
  const name = 'model.embed_tokens.weight';
  const delta = product(
    valuesOf(embedding['model.embed_tokens.lora_embedding_A']!),
    valuesOf(embedding['model.embed_tokens.lora_embedding_B']!),
    4,
    HIDDEN,
    VOCAB,
  );
  const transposed = Float64Array.from(
    { length: VOCAB * HIDDEN },
    (_, i) => delta[(i % HIDDEN) * VOCAB + Math.floor(i / HIDDEN)]!,
  );
  const config = (folder: string): Record<string, unknown> =>
    JSON.parse(readFileSync(path.join(folder, 'config.json'), 'utf8')) as Record<string, unknown>;

  it('LoRA on a tied embedding unties the output matrix, which keeps its values', async () => {
    const model = makeModel(fresh('model'), { tied: true });
    const out = await mergeInto(model, [
      { folder: makeAdapter(fresh('adapter'), { target_modules: ['embed_tokens'] }, embedding) },
    ]);
    expectNear(tensor(out, name), plus(tensor(model, name), [2, transposed]));
    expect(tensor(out, 'lm_head.weight')).toEqual(tensor(model, name));
    expect(config(out)['tie_word_embeddings']).toBe(false);
    expect(config(model)['tie_word_embeddings']).toBe(true);
    (await CausalLM.load(out)).dispose();
  });

  it('a trained output matrix of a tied model becomes a tensor of its own', async () => {
    const model = makeModel(fresh('model'), { tied: true });
    const head: AdapterTensors = { ...lora(Q, 4, HIDDEN, HIDDEN, 1), 'lm_head.weight': { shape: [VOCAB, HIDDEN], seed: 9 } };
    const out = await mergeInto(model, [{ folder: makeAdapter(fresh('adapter'), { modules_to_save: ['lm_head'] }, head) }]);
    expect(tensor(out, 'lm_head.weight')).toEqual(valuesOf(head['lm_head.weight']!));
    expect(tensor(out, name)).toEqual(tensor(model, name));
    expect(config(out)['tie_word_embeddings']).toBe(false);
  });

  it('equal matrices on both sides stay one', async () => {
    const model = makeModel(fresh('model'), { tied: true });
    const both: AdapterTensors = {
      'lm_head.weight': { shape: [VOCAB, HIDDEN], seed: 9 },
      [name]: { shape: [VOCAB, HIDDEN], seed: 9 },
    };
    const out = await mergeInto(model, [
      { folder: makeAdapter(fresh('adapter'), { modules_to_save: ['lm_head', 'embed_tokens'] }, both) },
    ]);
    expect(tensor(out, name)).toEqual(valuesOf(both[name]!));
    expect(() => tensor(out, 'lm_head.weight')).toThrow(/no tensor/);
    expect(config(out)['tie_word_embeddings']).toBe(true);
  });

  it('an embedding that is not tied changes alone', async () => {
    const model = makeModel(fresh('model'));
    const out = await mergeInto(model, [
      { folder: makeAdapter(fresh('adapter'), { target_modules: ['embed_tokens'] }, embedding) },
    ]);
    expectNear(tensor(out, name), plus(tensor(model, name), [2, transposed]));
    expect(tensor(out, 'lm_head.weight')).toEqual(tensor(model, 'lm_head.weight'));
  });
});

describe('storage', () => {
  const DTYPES = { F32: 'float32', BF16: 'bfloat16', F16: 'float16' } as const;
  const cases = (['F32', 'BF16', 'F16'] as const).flatMap((from) =>
    (['F32', 'BF16', 'F16'] as const).map((to) => [from, to] as const),
  );

  it.each(cases)('%s to %s rounds once, and the config says so', async (from, to) => {
    const model = makeModel(fresh('model'), { dtype: from });
    const tensors = lora(Q, 4, HIDDEN, HIDDEN, 1);
    const out = await mergeInto(model, [{ folder: makeAdapter(fresh('adapter'), {}, tensors) }], { dtype: DTYPES[to] });
    const unit = { F32: 2 ** -24, BF16: 2 ** -8, F16: 2 ** -11 }[to];
    const expected = plus(tensor(model, `${Q}.weight`), [2, deltaOf(tensors, Q)]);
    const found = tensor(out, `${Q}.weight`);
    for (let i = 0; i < found.length; i++)
      expect(Math.abs(found[i]! - expected[i]!)).toBeLessThanOrEqual(unit * Math.abs(expected[i]!) + 1e-6);
    const saved = JSON.parse(readFileSync(path.join(out, 'config.json'), 'utf8')) as Record<string, unknown>;
    expect(saved['torch_dtype']).toBe(DTYPES[to]);
    const opened = openCheckpointTensors(out);
    expect(new Set(opened.names().map((each) => opened.info(each).dtype))).toEqual(new Set([to]));
    opened.close();
  });

  it('names the tensor that overflows float16, and leaves nothing', async () => {
    const model = makeModel(fresh('model'), { dtype: 'BF16' });
    const tensors: AdapterTensors = {
      [`${Q}.lora_A.weight`]: { shape: [4, HIDDEN], seed: 1, scale: 300 },
      [`${Q}.lora_B.weight`]: { shape: [HIDDEN, 4], seed: 2, scale: 300 },
    };
    const folder = makeAdapter(fresh('adapter'), {}, tensors);
    const out = fresh('out');
    await expect(merge({ model, adapters: [{ folder }], out, dtype: 'float16' })).rejects.toMatchObject({
      code: 'NIFT_MERGE_OVERFLOW',
      message: expect.stringMatching(/layers\.1\.self_attn\.q_proj.*does not fit into float16/) as string,
    });
    expect(readdirSync(temp).filter((name) => name.startsWith(path.basename(out)))).toEqual([]);
  });
});

describe('the output folder', () => {
  it('carries side files, and has an index, a card and a manifest that is true', async () => {
    const model = makeModel(fresh('model'), { dtype: 'BF16', maxShardBytes: 6000 });
    writeFileSync(path.join(model, 'pytorch_model.bin'), 'old');
    const folder = makeAdapter(fresh('adapter'), { base_model_name_or_path: model }, lora(Q, 4, HIDDEN, HIDDEN, 1));
    writeFileSync(path.join(folder, 'nift_template.json'), '{}');
    const out = await mergeInto(model, [{ folder }], { maxShardBytes: 5000 });
    const names = readdirSync(out);
    expect(names).toEqual(
      expect.arrayContaining([
        'LICENSE',
        'nift_template.json',
        'config.json',
        'generation_config.json',
        'tokenizer_config.json',
        'model.safetensors.index.json',
      ]),
    );
    expect(names.filter((name) => /partial|journal|tmp|pytorch/.test(name))).toEqual([]);
    expect(names.filter((name) => /-of-/.test(name)).length).toBeGreaterThan(3);
    expect(readFileSync(path.join(out, 'config.json'))).toEqual(readFileSync(path.join(model, 'config.json')));
    expect(readFileSync(path.join(out, 'README.md'), 'utf8')).toContain(folder);
    const manifest = readManifest(out)!;
    expect(Object.keys(manifest.files).sort()).toEqual(names.filter((name) => name !== 'nift_manifest.json').sort());
    expect(verifyManifest(out, manifest)).toEqual([]);
    const shard = path.join(
      out,
      names.find((name) => name.endsWith('.safetensors'))!,
    );
    const bytes = readFileSync(shard);
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(shard, bytes);
    expect(verifyManifest(out, manifest)).toEqual([`${path.basename(shard)} has another content`]);
  });

  it('repeats byte for byte', async () => {
    const model = makeModel(fresh('model'), { dtype: 'BF16' });
    const folder = makeAdapter(fresh('adapter'), {}, lora(Q, 4, HIDDEN, HIDDEN, 1));
    const [one, two] = [await mergeInto(model, [{ folder }]), await mergeInto(model, [{ folder }])];
    expect(readFileSync(path.join(one, 'model.safetensors'))).toEqual(readFileSync(path.join(two, 'model.safetensors')));
  });
});

describe('refused', () => {
  const good = lora(Q, 4, HIDDEN, HIDDEN, 1);
  const half = { [`${Q}.lora_A.weight`]: good[`${Q}.lora_A.weight`]! };
  const cases: [name: string, code: string, message: RegExp, config: object, tensors: AdapterTensors][] = [
    ['A without B', 'NIFT_ADAPTER_MISMATCH', /has lora_A without lora_B/, {}, half],
    [
      'a tensor without meaning',
      'NIFT_ADAPTER_MISMATCH',
      /means nothing/,
      {},
      { ...good, 'model.strange': { shape: [2], seed: 1 } },
    ],
    ['another rank than the config says', 'NIFT_ADAPTER_MISMATCH', /expected rank 8/, { r: 8 }, good],
    [
      'a module the base lacks',
      'NIFT_ADAPTER_MISMATCH',
      /has no model\.layers\.7/,
      {},
      lora('model.layers.7.self_attn.q_proj', 4, HIDDEN, HIDDEN, 1),
    ],
    ['another shape', 'NIFT_ADAPTER_MISMATCH', /is \[24, 24\] in the base, \[24, 25\]/, {}, lora(Q, 4, HIDDEN, 25, 1)],
    [
      'a resized vocabulary',
      'NIFT_ADAPTER_MISMATCH',
      /vocabulary was resized/,
      {},
      { ...good, 'lm_head.weight': { shape: [VOCAB + 2, HIDDEN], seed: 1 } },
    ],
    [
      'saved modules that are not there',
      'NIFT_ADAPTER_MISMATCH',
      /modules_to_save names lm_head/,
      { modules_to_save: ['lm_head'] },
      good,
    ],
    ['DoRA without magnitudes', 'NIFT_ADAPTER_MISMATCH', /lora_magnitude_vector/, { use_dora: true }, good],
    [
      'an initialisation that changed the base',
      'NIFT_ADAPTER_CONFIG',
      /changes the base/,
      { init_lora_weights: 'pissa_niter_4' },
      good,
    ],
    ['another method', 'NIFT_ADAPTER_CONFIG', /only LoRA/, { peft_type: 'IA3' }, good],
    ['what would be lost', 'NIFT_ADAPTER_CONFIG', /trained token embeddings/, { trainable_token_indices: [1] }, good],
    ['another base', 'NIFT_MERGE_BASE', /some-other/, { base_model_name_or_path: 'org/some-other-model' }, good],
  ];

  it.each(cases)('%s', async (_name, code, message, config, tensors) => {
    const model = makeModel(fresh('model'));
    const folder = makeAdapter(fresh('adapter'), config, tensors);
    const out = fresh('out');
    await expect(merge({ model, adapters: [{ folder }], out })).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message) as string,
    });
    expect(existsSync(out)).toBe(false);
  });
});
