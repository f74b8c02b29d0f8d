/** Strict loading, storage policies, and folders that come back as they were written. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { addon } from '../../src/backend/addon.js';
import { storageOf, useBackend } from '../../src/backend/index.js';
import { tf } from '../../src/backend/tf.js';
import { collate } from '../../src/data/batch.js';
import { openSafetensors } from '../../src/formats/safetensors.js';
import { writeSafetensors, type TensorToWrite } from '../../src/formats/safetensorsWriter.js';
import { CausalLM, type LoadOptions } from '../../src/model/causalLM.js';
import { parseModelConfig } from '../../src/model/config.js';
import { expectClose } from '../expectClose.js';
import { hasShared } from '../golden.js';
import { goldenJson, model as golden, pack, tinyQwen3, type PaddedBatch } from './fixtures.js';

const LORA = { r: 2, alpha: 4, targetModules: ['q_proj', 'down_proj'] } as const;
const ids = Int32Array.of(3, 1, 4, 1, 5, 9, 2, 6);
const batch = collate([{ inputIds: ids, labels: ids }]);

let dir: string;
beforeAll(async () => {
  await useBackend('native');
  dir = mkdtempSync(path.join(tmpdir(), 'nift-model-'));
});
afterAll(() => rmSync(dir, { recursive: true }));

/** Writes a fresh tiny model. */
function folder(name: string, overrides: Record<string, unknown> = {}): string {
  const target = path.join(dir, name);
  mkdirSync(target, { recursive: true });
  const model = CausalLM.fromConfig(parseModelConfig(tinyQwen3(overrides)), { seed: 1 });
  model.saveCheckpoint(target);
  model.dispose();
  return target;
}

/** Rewrites the weights of a folder. */
function edit(target: string, change: (tensors: TensorToWrite[]) => TensorToWrite[]): string {
  const file = path.join(target, 'model.safetensors');
  const source = openSafetensors(file, { map: false });
  const tensors = source.names().map((name): TensorToWrite => {
    const { dtype, shape } = source.info(name);
    return { name, dtype, shape, data: source.bytes(name).slice() };
  });
  source.close();
  writeSafetensors(file, change(tensors));
  return target;
}

async function nll(target: string, options: LoadOptions = {}): Promise<Float32Array> {
  const model = await CausalLM.load(target, options);
  const values = model.nll(batch);
  const result = (values.dataSync() as Float32Array).slice();
  values.dispose();
  model.dispose();
  return result;
}

const failure = async (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(() => undefined).catch((error: unknown) => error);
const zeros = (name: string, shape: number[], dtype: 'F32' | 'I64' = 'F32'): TensorToWrite => {
  const size = shape.reduce((a, b) => a * b, 1);
  return { name, dtype, shape, data: dtype === 'I64' ? new BigInt64Array(size) : new Float32Array(size) };
};

describe('a checkpoint folder', () => {
  it('is written, read back bit for bit, and written the same again', async () => {
    const first = folder('round');
    const model = await CausalLM.load(first);
    const second = path.join(dir, 'round2');
    mkdirSync(second);
    expect(model.saveCheckpoint(second)).toEqual(['config.json', 'model.safetensors']);
    model.dispose();
    expect(readFileSync(path.join(second, 'model.safetensors'))).toEqual(readFileSync(path.join(first, 'model.safetensors')));
    expect(JSON.parse(readFileSync(path.join(second, 'config.json'), 'utf8'))).toEqual(tinyQwen3());
  });

  it('is written in the dtype asked for, and says so', async () => {
    const target = path.join(dir, 'bf16');
    mkdirSync(target);
    const model = await CausalLM.load(folder('to-bf16'));
    model.saveCheckpoint(target, 'bfloat16');
    model.dispose();
    const file = openSafetensors(path.join(target, 'model.safetensors'));
    expect(new Set(file.names().map((name) => file.info(name).dtype))).toEqual(new Set(['BF16']));
    file.close();
    expect(JSON.parse(readFileSync(path.join(target, 'config.json'), 'utf8'))).toMatchObject({ torch_dtype: 'bfloat16' });
  });

  it('names every missing, unexpected and mis-shaped tensor at once', async () => {
    const target = edit(folder('strict'), (tensors) => [
      ...tensors.filter(({ name }) => !name.startsWith('model.layers.1.mlp') && name !== 'model.norm.weight'),
      zeros('model.norm.weight', [23]),
      zeros('model.layers.7.mlp.up_proj.weight', [2, 2]),
    ]);
    expect(await failure(CausalLM.load(target))).toMatchObject({
      code: 'NIFT_CHECKPOINT_MISMATCH',
      details: {
        missing: ['down', 'gate', 'up'].map((name) => `model.layers.1.mlp.${name}_proj.weight`),
        unexpected: ['model.layers.7.mlp.up_proj.weight'],
        misshaped: [{ name: 'model.norm.weight', expected: [24], found: [23] }],
      },
    });
  });

  it('may hold buffers of old versions, but no integers for weights', async () => {
    const clean = folder('extras');
    const expected = await nll(clean);
    const buffered = edit(clean, (tensors) => [...tensors, zeros('model.layers.0.self_attn.rotary_emb.inv_freq', [4])]);
    expect(await nll(buffered)).toEqual(expected);
    const integers = edit(clean, (tensors) => [
      ...tensors.filter(({ name }) => name !== 'model.norm.weight'),
      zeros('model.norm.weight', [24], 'I64'),
    ]);
    expect(await failure(CausalLM.load(integers))).toMatchObject({
      code: 'NIFT_CHECKPOINT_MISMATCH',
      message: expect.stringContaining('I64'),
    });
  });

  it('when tied may lack the output matrix or repeat the embedding, not contradict it', async () => {
    const tied = folder('tied', { tie_word_embeddings: true });
    const expected = await nll(tied);
    const copy = (tensors: TensorToWrite[]): TensorToWrite[] => [
      ...tensors,
      { ...tensors.find(({ name }) => name === 'model.embed_tokens.weight')!, name: 'lm_head.weight' },
    ];
    expect(await nll(edit(tied, copy))).toEqual(expected);
    const other = edit(folder('tied2', { tie_word_embeddings: true }), (tensors) => [
      ...tensors,
      zeros('lm_head.weight', [61, 24]),
    ]);
    expect(await failure(CausalLM.load(other))).toMatchObject({
      code: 'NIFT_CHECKPOINT_MISMATCH',
      message: expect.stringContaining('tie_word_embeddings'),
    });
    const untied = edit(folder('untied'), (tensors) => tensors.filter(({ name }) => name !== 'lm_head.weight'));
    expect(await failure(CausalLM.load(untied))).toMatchObject({ hint: expect.stringContaining('tie_word_embeddings') });
  });
});

describe('an adapter folder', () => {
  it('is written with all keys of PEFT, and read back bit for bit', async () => {
    const base = folder('base');
    const adapter = path.join(dir, 'adapter');
    const fresh = await CausalLM.load(base, { train: 'lora', lora: { ...LORA, rsLora: true, dropout: 0.1 } });
    fresh.saveAdapter(adapter);
    const config = JSON.parse(readFileSync(path.join(adapter, 'adapter_config.json'), 'utf8')) as Record<string, unknown>;
    expect(config).toMatchObject({
      r: 2,
      lora_alpha: 4,
      lora_dropout: 0.1,
      use_rslora: true,
      base_model_name_or_path: base,
      target_modules: ['down_proj', 'q_proj'],
      peft_type: 'LORA',
      task_type: 'CAUSAL_LM',
      inference_mode: true,
      rank_pattern: {},
    });
    const again = await CausalLM.load(base, { adapter, train: 'lora' });
    expect(again.lora).toMatchObject({ r: 2, alpha: 4, rsLora: true, dropout: 0.1 });
    expect([...again.trainable().keys()]).toEqual([...fresh.trainable().keys()]);
    for (const [key, variable] of fresh.trainable())
      expect(again.trainable().get(key)!.dataSync(), key).toEqual(variable.dataSync());
    const copy = path.join(dir, 'adapter2');
    again.saveAdapter(copy);
    expect(readFileSync(path.join(copy, 'adapter_model.safetensors'))).toEqual(
      readFileSync(path.join(adapter, 'adapter_model.safetensors')),
    );
    fresh.dispose();
    again.dispose();
  });

  it('of another model is refused with every difference', async () => {
    const adapter = path.join(dir, 'wide');
    const wide = CausalLM.fromConfig(parseModelConfig(tinyQwen3({ hidden_size: 32, num_hidden_layers: 4 })), {
      train: 'lora',
      lora: LORA,
    });
    wide.saveAdapter(adapter);
    wide.dispose();
    const error = (await failure(CausalLM.load(folder('base3'), { adapter }))) as {
      code: string;
      details: Record<string, unknown[]>;
    };
    expect(error.code).toBe('NIFT_ADAPTER_MISMATCH');
    expect(error.details['unexpected']).toHaveLength(4);
    expect(error.details['misshaped']).toHaveLength(6);
  });

  it.each([
    ['use_dora', true],
    ['bias', 'all'],
    ['modules_to_save', ['lm_head']],
    ['fan_in_fan_out', true],
    ['exclude_modules', ['k_proj']],
    ['peft_type', 'IA3'],
  ])('with %s = %j is refused', async (key, value) => {
    const base = folder('base4');
    const adapter = path.join(dir, 'special');
    const model = await CausalLM.load(base, { train: 'lora', lora: LORA });
    model.saveAdapter(adapter);
    model.dispose();
    const file = path.join(adapter, 'adapter_config.json');
    const config = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
    writeFileSync(file, JSON.stringify({ ...config, [key]: value }));
    expect(await failure(CausalLM.load(base, { adapter }))).toMatchObject({
      code: 'NIFT_ADAPTER_CONFIG',
      message: expect.stringContaining(key),
    });
  });
});

describe.skipIf(!hasShared)('storage policies', () => {
  const EMBED = 'model.embed_tokens.weight';
  const kinds = async (name: string, dtype: LoadOptions['dtype']): Promise<string[]> => {
    const model = await CausalLM.load(golden(name), { dtype });
    const result = [
      storageOf(model.baseTensors().get(EMBED)!),
      storageOf(model.baseTensors().get('model.norm.weight')!),
      model.compute,
    ];
    model.dispose();
    return result;
  };

  it.skipIf(!addon())('keep the file, or convert the matrices', async () => {
    expect(await kinds('tiny-llama3', 'auto')).toEqual(['bfloat16', 'float32', 'bfloat16']);
    expect(await kinds('tiny-llama3', 'float32')).toEqual(['bfloat16', 'float32', 'float32']);
    expect(await kinds('tiny-llama3', 'float16')).toEqual(['float16', 'float32', 'float16']);
    expect(await kinds('tiny-llama2', 'auto')).toEqual(['float16', 'float32', 'float32']);
    expect(await kinds('stories260k', 'auto')).toEqual(['float32', 'float32', 'float32']);
    expect(await kinds('stories260k', 'bfloat16')).toEqual(['bfloat16', 'float32', 'bfloat16']);
  });

  it.skipIf(!addon())('hold 16-bit matrices in two bytes an element, and one copy of everything', async () => {
    const before = tf.memory().numBytes;
    const model = await CausalLM.load(golden('tiny-llama3'), { dtype: 'float32' });
    let expected = 0;
    for (const tensor of model.baseTensors().values()) expected += tensor.size * (tensor.rank === 2 ? 2 : 4);
    expect(tf.memory().numBytes - before).toBe(expected);
    model.dispose();
    expect(tf.memory().numBytes).toBe(before);
  });

  it('stay within twice the error that the same rounding makes on the composed reference', async () => {
    const { batch: padded } = goldenJson<{ batch: PaddedBatch }>('forward', 'tiny-llama3.json');
    const logits = async (backend: string, dtype: LoadOptions['dtype']): Promise<Float32Array> => {
      await useBackend(backend);
      const model = await CausalLM.load(golden('tiny-llama3'), { dtype });
      const tensor = model.logits(pack(padded));
      const values = (tensor.dataSync() as Float32Array).slice();
      tensor.dispose();
      model.dispose();
      return values;
    };
    const exact = await logits('cpu', 'float32');
    const worst = (values: Float32Array): number =>
      values.reduce((most, value, i) => Math.max(most, Math.abs(value - exact[i]!)), 0);
    for (const dtype of ['bfloat16', 'float16'] as const) {
      const reference = worst(await logits('cpu', dtype));
      expect(reference, dtype).toBeGreaterThan(1e-4);
      expect(worst(await logits('native', dtype)), dtype).toBeLessThan(2 * reference);
    }
    expectClose(await logits('native', 'float32'), exact, { abs: 5e-4 });
  });
});
