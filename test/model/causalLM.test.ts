/** The whole model against plain loops, and the properties that no reference file shows. */
import { beforeAll, describe, expect, it } from 'vitest';
import { addon } from '../../src/backend/addon.js';
import { storageOf, useBackend } from '../../src/backend/index.js';
import { tf, type Tensor, type Variable } from '../../src/backend/tf.js';
import { collate, type PackedBatch } from '../../src/data/batch.js';
import { CausalLM, type ModelOptions } from '../../src/model/causalLM.js';
import { parseModelConfig } from '../../src/model/config.js';
import { generate } from '../../src/model/generate.js';
import { Random } from '../../src/random.js';
import { expectClose } from '../expectClose.js';
import { BACKENDS, tinyQwen3 } from './fixtures.js';
import { referenceLogits, referenceNll } from './reference.js';

const LORA = { r: 3, alpha: 6, targetModules: 'all' } as const;

/** Configs that between them reach every branch of the layer. */
const VARIANTS: Record<string, Record<string, unknown>> = {
  'Qwen3, q/k norms and head_dim': {},
  'Qwen3, attention biases, tied': { attention_bias: true, tie_word_embeddings: true },
  'Qwen3, window in the last layer only': { use_sliding_window: true, sliding_window: 3, max_window_layers: 2 },
  'Qwen2, window in all layers': {
    architectures: ['Qwen2ForCausalLM'],
    use_sliding_window: true,
    sliding_window: 4,
    max_window_layers: 0,
  },
  'Llama, all biases, one kv head': {
    architectures: ['LlamaForCausalLM'],
    attention_bias: true,
    mlp_bias: true,
    num_key_value_heads: 1,
  },
  'Llama, linear scaling': { architectures: ['LlamaForCausalLM'], rope_scaling: { type: 'linear', factor: 3 } },
  'Llama, dynamic scaling past its context': {
    architectures: ['LlamaForCausalLM'],
    rope_scaling: { rope_type: 'dynamic', factor: 4 },
    max_position_embeddings: 8,
  },
};

function build(overrides: Record<string, unknown>, options: ModelOptions = {}): CausalLM {
  return CausalLM.fromConfig(parseModelConfig(tinyQwen3(overrides)), { dtype: 'float32', seed: 7, ...options });
}

/** Fresh norms are 1 and biases 0, which would hide mistakes. */
function disturb(model: CausalLM): Map<string, Float32Array> {
  const random = new Random(5);
  const values = new Map<string, Float32Array>();
  for (const [name, tensor] of model.baseTensors()) {
    const data = (tensor.dataSync() as Float32Array).slice();
    if (tensor.rank === 1) for (let i = 0; i < data.length; i++) data[i] = data[i]! + 0.3 * random.normal();
    tf.tidy(() => (tensor as Variable).assign(tf.tensor(data, tensor.shape)));
    values.set(name, data);
  }
  return values;
}

function randomRows(lengths: readonly number[], vocab = 61): PackedBatch {
  const random = new Random(3);
  return collate(
    lengths.map((length) => {
      const inputIds = Int32Array.from({ length }, () => random.integer(vocab));
      return { inputIds, labels: inputIds.map((id, t) => (t % 4 === 3 ? -100 : id)) };
    }),
  );
}

const rowsOf = (batch: PackedBatch): PackedBatch[] =>
  Array.from({ length: batch.cuSeqlens.length - 1 }, (_, b) => {
    const [from, to] = [batch.cuSeqlens[b], batch.cuSeqlens[b + 1]];
    return collate([{ inputIds: batch.inputIds.slice(from, to), labels: batch.labels.slice(from, to) }]);
  });

function read(make: () => Tensor): Float32Array {
  const tensor = make();
  const values = (tensor.dataSync() as Float32Array).slice();
  tensor.dispose();
  return values;
}

function gradients(model: CausalLM, batch: PackedBatch, dropoutSeed?: number): Map<string, Float32Array> {
  const variables = model.trainable();
  const loss = (): tf.Scalar => tf.sum(model.nll(batch, dropoutSeed === undefined ? {} : { dropoutSeed }));
  const { value, grads } = tf.variableGrads(loss, [...variables.values()]);
  const of = ({ name }: Variable): Float32Array => (grads[name]!.dataSync() as Float32Array).slice();
  const result = new Map([...variables].map(([key, variable]) => [key, of(variable)]));
  tf.dispose([value, grads]);
  return result;
}

describe.each(BACKENDS)('model on %s', (backend) => {
  beforeAll(async () => {
    await useBackend(backend);
  });

  it.each(Object.entries(VARIANTS))('equals plain float64 loops: %s', async (_, overrides) => {
    const model = build(overrides, { train: 'full' });
    const weights = disturb(model);
    const batch = randomRows([13, 1, 6, 20]);
    const expected = rowsOf(batch).map(({ inputIds }) => referenceLogits(model.config, weights, [...inputIds]));
    const flat = Float64Array.from(expected.flatMap((rows) => rows.flatMap((row) => [...row])));
    // Measured on both backends: logits 1.9e-6 of the largest, nll 7.4e-6.
    expectClose(
      read(() => model.logits(batch)),
      flat,
      { relToMax: 1e-5, label: 'logits' },
    );
    const everywhere = { ...batch, labels: batch.inputIds };
    const nll = expected.flatMap((rows, b) => [...referenceNll(rows, [...rowsOf(batch)[b]!.inputIds]), 0]);
    expectClose(
      read(() => model.nll(everywhere)),
      nll,
      { abs: 2e-5, label: 'nll' },
    );
    model.dispose();
  });

  it.each([
    ['Qwen3', { attention_bias: true, use_sliding_window: true, sliding_window: 4, max_window_layers: 1 }],
    ['Llama, tied', { architectures: ['LlamaForCausalLM'], tie_word_embeddings: true, mlp_bias: true }],
  ])('has the slopes of the float64 loops: %s', (_, overrides) => {
    const model = build({ num_hidden_layers: 2, ...overrides }, { train: 'full' });
    const weights = new Map([...disturb(model)].map(([name, values]) => [name, Float64Array.from(values)]));
    const row = randomRows([7]);
    const ids = [...row.inputIds];
    const found = gradients(model, { ...row, labels: row.inputIds });
    const loss = (): number => referenceNll(referenceLogits(model.config, weights, ids), ids).reduce((a, b) => a + b, 0);
    const random = new Random(17);
    for (const [name, values] of weights) {
      const got = found.get(name)!;
      const largest = got.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
      expect(largest, name).toBeGreaterThan(1e-3);
      // An embedding row that no token uses says little.
      const offset = name.includes('embed_tokens') ? ids[2]! * model.config.hiddenSize : 0;
      for (const i of [0, 1].map(() => (offset + random.integer(24)) % values.length)) {
        const kept = values[i]!;
        const at = (value: number): number => {
          values[i] = value;
          return loss();
        };
        const slope = (at(kept + 1e-5) - at(kept - 1e-5)) / 2e-5;
        values[i] = kept;
        // Measured: 2.8e-6 of the tensor's largest gradient.
        expect(Math.abs(got[i]! - slope) / largest, `${name}[${i}]`).toBeLessThan(5e-5);
      }
    }
    model.dispose();
  });

  it('gives a sequence the same values alone and packed with others', () => {
    const model = build({}, { train: 'lora', lora: LORA });
    const batch = randomRows([5, 17, 1, 9]);
    const packed = read(() => model.logits(batch));
    const alone = rowsOf(batch).flatMap((row) => [...read(() => model.logits(row))]);
    // Measured: logits 1.3e-7, gradients 2.1e-7 of the largest on native, 0 on cpu.
    expectClose(packed, alone, { relToMax: 2e-6, label: 'logits' });
    const together = gradients(model, batch);
    const separate = rowsOf(batch).map((row) => gradients(model, row));
    for (const [key, values] of together) {
      const total = values.map((_, i) => separate.reduce((sum, part) => sum + part.get(key)![i]!, 0));
      expectClose(values, total, { relToMax: 1e-5, label: key });
    }
    model.dispose();
  });

  it('predicts the same with a cache as without', () => {
    const model = build({ use_sliding_window: true, sliding_window: 5, max_window_layers: 1 });
    const [first, second] = rowsOf(randomRows([12, 7]));
    const cache = model.createCache(2, 4);
    const stepped: number[] = [];
    for (const [from, to] of [
      [0, 4],
      [4, 5],
      [5, 7],
    ] as const) {
      const tokens = Int32Array.of(...first!.inputIds.slice(from, to), ...second!.inputIds.slice(from, to));
      const count = to - from;
      const logits = model.step(tokens, Int32Array.of(count, count), cache, Int32Array.of(count - 1, 2 * count - 1))!;
      stepped.push(...logits.dataSync());
      logits.dispose();
    }
    cache.select([0]);
    const tail = model.step(first!.inputIds.subarray(7), Int32Array.of(5), cache, Int32Array.of(4))!;
    stepped.push(...tail.dataSync());
    tail.dispose();
    cache.dispose();
    const at = (row: PackedBatch, position: number): number[] => [...read(() => model.logits(row, Int32Array.of(position)))];
    const whole = [3, 4, 6].flatMap((position) => [...at(first!, position), ...at(second!, position)]);
    // Measured: 5.3e-7 of the largest on native, 0 on cpu.
    expectClose(stepped, [...whole, ...at(first!, 11)], { relToMax: 5e-6, label: 'logits' });
    model.dispose();
  });

  it.each([
    ['lora', { train: 'lora', lora: { ...LORA, dropout: 0.25 } }],
    ['full', { train: 'full' }],
  ] as const)('gives bitwise equal gradients with gradient checkpointing: %s', (_, options) => {
    const batch = randomRows([9, 4, 11]);
    const runs = [false, true].map((gradientCheckpointing) => {
      const model = build({ tie_word_embeddings: true, attention_bias: true }, { ...options, gradientCheckpointing });
      // B is zero in a fresh adapter, and then A has no gradient.
      for (const [key, variable] of model.trainable()) {
        if (key.includes('lora_B')) variable.assign(tf.randomNormal(variable.shape, 0, 0.1, 'float32', 11));
      }
      const before = tf.memory().numTensors;
      const result = gradients(model, batch, 99);
      expect(tf.memory().numTensors).toBe(before);
      model.dispose();
      return result;
    });
    for (const [key, values] of runs[0]!) {
      expect(
        values.some((value) => value !== 0),
        key,
      ).toBe(true);
      expectClose(runs[1]!.get(key)!, values, { abs: 0, label: key });
    }
  });

  it('draws dropout from the seed of the pass, and none without', () => {
    const model = build({}, { train: 'lora', lora: { ...LORA, dropout: 0.5 } });
    for (const variable of model.trainable().values()) variable.assign(tf.ones(variable.shape));
    const batch = randomRows([8]);
    const run = (dropoutSeed?: number): Float32Array =>
      read(() => model.nll(batch, dropoutSeed === undefined ? {} : { dropoutSeed }));
    expect(run(1)).toEqual(run(1));
    expect(run(1)).not.toEqual(run(2));
    expect(run(1)).not.toEqual(run());
    model.dispose();
  });

  it('holds as many tensors and bytes after any number of calls', async () => {
    const model = build({}, { train: 'lora', lora: LORA });
    const batch = randomRows([7, 3]);
    const use = async (): Promise<{ numTensors: number; numBytes: number }> => {
      read(() => model.nll(batch));
      read(() => model.logits(batch, Int32Array.of(2)));
      gradients(model, batch);
      await generate(model, [Int32Array.of(1, 2), Int32Array.of(3)], { maxNewTokens: 5, temperature: 1 });
      const { numTensors, numBytes } = tf.memory();
      return { numTensors, numBytes };
    };
    const before = await use();
    for (let i = 0; i < 3; i++) expect(await use()).toEqual(before);
    const all = tf.memory().numTensors;
    const own = model.baseTensors().size + model.adapterTensors().size;
    model.dispose();
    expect(tf.memory().numTensors).toBe(all - own);
  });
});

describe('random weights', () => {
  it('are those of transformers in distribution, the same for a seed', async () => {
    await useBackend('native');
    const overrides = { attention_bias: true, pad_token_id: 3, hidden_size: 64, initializer_range: 0.02 };
    const models = [7, 7, 8].map((seed) => build(overrides, { seed, dtype: 'float32' }));
    const [first, again, other] = models.map(
      (model) => new Map([...model.baseTensors()].map(([name, t]) => [name, t.dataSync()])),
    );
    expect(again).toEqual(first);
    for (const [name, tensor] of models[0]!.baseTensors()) {
      const values = first!.get(name)! as Float32Array;
      if (tensor.rank === 1) expect(new Set(values), name).toEqual(new Set([name.endsWith('.bias') ? 0 : 1]));
      else {
        const deviation = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
        expect(deviation / 0.02, name).toBeGreaterThan(0.93);
        expect(deviation / 0.02, name).toBeLessThan(1.07);
        expect(other!.get(name), name).not.toEqual(values);
      }
    }
    expect(first!.get('model.embed_tokens.weight')!.slice(3 * 64, 4 * 64)).toEqual(new Float32Array(64));
    for (const model of models) model.dispose();
  });

  it.skipIf(!addon())('are stored as the config or the caller says', async () => {
    await useBackend('native');
    const kinds = (['auto', 'float32', 'float16'] as const).map((dtype) => {
      const model = build({ torch_dtype: 'bfloat16' }, { dtype });
      const result = [storageOf(model.baseTensors().get('lm_head.weight')!), model.compute];
      model.dispose();
      return result;
    });
    expect(kinds).toEqual([
      ['bfloat16', 'bfloat16'],
      ['float32', 'float32'],
      ['float16', 'float16'],
    ]);
  });
});

describe('what a model refuses', () => {
  let model: CausalLM;
  beforeAll(async () => {
    await useBackend('native');
    model = build({ max_position_embeddings: 8 });
  });

  it('ids outside the vocabulary, by sequence and position', () => {
    const batch = collate([
      { inputIds: Int32Array.of(1, 2, 3), labels: Int32Array.of(1, 2, 3) },
      { inputIds: Int32Array.of(4, 61), labels: Int32Array.of(4, 5) },
    ]);
    expect(() => model.nll(batch)).toThrow(
      expect.objectContaining({ code: 'NIFT_TOKEN_ID', message: expect.stringContaining('61 at position 1 of sequence 1') }),
    );
    batch.inputIds[4] = -1;
    expect(() => model.hidden(batch)).toThrow(expect.objectContaining({ code: 'NIFT_TOKEN_ID' }));
    batch.inputIds[4] = 5;
    batch.labels[4] = 61;
    expect(() => model.nll(batch)).toThrow(expect.objectContaining({ code: 'NIFT_TOKEN_ID' }));
  });

  it('steps beyond the context, but not training rows', () => {
    const ids = new Int32Array(9);
    const cache = model.createCache(1, 9);
    expect(() => model.step(ids, Int32Array.of(9), cache, Int32Array.of(8))).toThrow(
      expect.objectContaining({ code: 'NIFT_CONTEXT_LENGTH', message: expect.stringContaining('9 tokens') }),
    );
    cache.dispose();
    expect(read(() => model.nll(collate([{ inputIds: ids, labels: ids }])))).toHaveLength(9);
  });

  it('training without anything to train, and full training under an adapter', () => {
    expect(() => build({}, { train: 'lora' })).toThrow(expect.objectContaining({ code: 'NIFT_USAGE' }));
    expect(() => build({}, { train: 'full', lora: LORA })).toThrow(expect.objectContaining({ code: 'NIFT_USAGE' }));
  });
});
