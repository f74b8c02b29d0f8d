/** Checkpoint and adapter folders, tensor matching, manifests, and what `inspect` says about each. */
import { appendFileSync, copyFileSync, cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { NiftError, type ErrorCode } from '../../src/errors.js';
import {
  adapterScaling,
  newAdapterConfig,
  parseAdapterConfig,
  readAdapter,
  readAdapterConfig,
  writeAdapter,
} from '../../src/formats/adapter.js';
import { openCheckpoint, readConfig, writeCheckpoint } from '../../src/formats/checkpoint.js';
import { inspectPath } from '../../src/formats/inspect.js';
import { checkpointIdentity, readManifest, verifyManifest, writeManifest } from '../../src/formats/manifest.js';
import { matchTensors, requireTensors } from '../../src/formats/matchTensors.js';
import { writeSafetensors, type TensorToWrite } from '../../src/formats/safetensorsWriter.js';
import { hasShared, shared } from '../golden.js';
import { tempFolder } from './tempFolder.js';

const folder = tempFolder();
const at = (...names: string[]): string => path.join(folder, ...names);

function errorOf(action: () => unknown): NiftError {
  try {
    action();
  } catch (error) {
    if (error instanceof NiftError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}
const codeOf = (action: () => unknown): ErrorCode => errorOf(action).code;

const tensor = (name: string, shape: number[]): TensorToWrite => ({
  name,
  dtype: 'F32',
  shape,
  data: new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(0.5),
});

function jsonFolder(name: string, files: Record<string, unknown>): string {
  mkdirSync(at(name), { recursive: true });
  for (const [file, value] of Object.entries(files))
    writeFileSync(at(name, file), typeof value === 'string' ? value : JSON.stringify(value));
  return at(name);
}

describe('matchTensors', () => {
  const shapes = (entries: Record<string, number[]>): Map<string, number[]> => new Map(Object.entries(entries));

  it('lists every difference of every kind', () => {
    const mismatch = matchTensors(shapes({ a: [1], b: [2, 3], c: [], d: [4] }), shapes({ b: [3, 2], c: [], e: [1], f: [2] }));
    expect(mismatch).toEqual({
      missing: ['a', 'd'],
      unexpected: ['e', 'f'],
      misshaped: [{ name: 'b', expected: [2, 3], found: [3, 2] }],
    });
    expect(matchTensors(shapes({ a: [1] }), shapes({ a: [1] }))).toBeNull();
    const error = errorOf(() => requireTensors(shapes({ a: [1] }), shapes({ b: [1] }), 'NIFT_ADAPTER_MISMATCH', 'x', 'do this'));
    expect(error.message).toBe('x: tensors do not fit the model: 1 missing: a; 1 unexpected: b');
    expect(error.details).toMatchObject({ missing: ['a'], unexpected: ['b'] });
    expect(error.hint).toBe('do this');
  });
});

describe('checkpoints', () => {
  const config = { architectures: ['LlamaForCausalLM'], vocab_size: 4, tie_word_embeddings: false, rope_theta: 1e6 };

  it('are written whole and read back, tokenizer included', () => {
    const source = jsonFolder('tokenizer', { 'tokenizer.json': '{"a": 1}', 'merges.txt': 'x', 'README.md': 'not ours' });
    const names = writeCheckpoint(at('checkpoint'), {
      config,
      generationConfig: { eos_token_id: [2, 5] },
      tensors: [tensor('lm_head.weight', [4, 2]), tensor('model.norm.weight', [2])],
      tokenizerFrom: source,
      maxShardBytes: 32,
    });
    expect(names.sort()).toEqual(readdirSync(at('checkpoint')).sort());
    expect(names).not.toContain('README.md');
    const checkpoint = openCheckpoint(at('checkpoint'));
    expect(checkpoint.config).toEqual(config);
    expect(checkpoint.generationConfig).toEqual({ eos_token_id: [2, 5] });
    expect(checkpoint.tokenizerFiles).toEqual(['tokenizer.json', 'merges.txt']);
    expect(checkpoint.tensors.files.length).toBe(2);
    checkpoint.close();
    checkpoint.close();
    expect(codeOf(() => writeCheckpoint(at('checkpoint'), { config, tensors: [] }))).toBe('NIFT_OUTPUT_DIR');
  });

  it('say what a folder without config is', () => {
    expect(errorOf(() => readConfig(jsonFolder('bare', {}))).hint).toMatch(/checkpoint/);
    expect(errorOf(() => readConfig(jsonFolder('only-adapter', { 'adapter_config.json': {} }))).hint).toMatch(/adapter/);
    expect(codeOf(() => readConfig(jsonFolder('list', { 'config.json': '[1]' })))).toBe('NIFT_JSON');
    expect(codeOf(() => readConfig(jsonFolder('twice', { 'config.json': '{"a":1,"a":2}' })))).toBe('NIFT_JSON');
  });
});

describe('adapters', () => {
  const config = newAdapterConfig({ r: 2, lora_alpha: 4, target_modules: ['v_proj', 'q_proj'], base_model_name_or_path: 'base' });
  const name = 'base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight';

  it('are written with every key that PEFT writes, and read back', () => {
    expect(writeAdapter(at('adapter'), config, [tensor(name, [2, 3])])).toEqual([
      'adapter_config.json',
      'adapter_model.safetensors',
    ]);
    const text = readFileSync(at('adapter', 'adapter_config.json'), 'utf8');
    expect(text).toContain('"lora_dropout": 0.0,');
    expect(Object.keys(JSON.parse(text))).toEqual(Object.keys(JSON.parse(text)).sort());
    const adapter = readAdapter(at('adapter'));
    expect(adapter.config).toEqual(config);
    expect(adapter.config.target_modules).toEqual(['q_proj', 'v_proj']);
    expect({ ...adapter.tensors.metadata }).toEqual({ format: 'pt' });
    adapter.close();
    adapter.close();
  });

  it('scale by alpha / r, alpha / sqrt(r) with rsLoRA, and by module patterns', () => {
    expect(adapterScaling(config, 'model.layers.0.self_attn.q_proj')).toEqual({ r: 2, alpha: 4, scaling: 2 });
    const patterned = parseAdapterConfig(
      {
        r: 16,
        lora_alpha: 8,
        use_rslora: true,
        rank_pattern: { 'layers.1.self_attn.q_proj': 4 },
        alpha_pattern: { v_proj: 32, '^lm_head': 1 },
      },
      'x',
    );
    expect(adapterScaling(patterned, 'model.layers.1.self_attn.q_proj')).toEqual({ r: 4, alpha: 8, scaling: 4 });
    expect(adapterScaling(patterned, 'model.layers.11.self_attn.q_proj').r).toBe(16);
    expect(adapterScaling(patterned, 'model.layers.0.self_attn.v_proj').scaling).toBe(8);
    expect(adapterScaling(patterned, 'lm_head').alpha).toBe(1);
    expect(adapterScaling(patterned, 'my_v_proj').alpha).toBe(8);
  });

  it.each([
    ['another method', { peft_type: 'IA3' }],
    ['no rank', { r: undefined }],
    ['rank zero', { r: 0 }],
    ['a fractional rank', { r: 1.5 }],
    ['DoRA', { use_dora: true }],
    ['trained biases', { bias: 'all' }],
    ['saved modules', { modules_to_save: ['lm_head'] }],
    ['Conv1D layout', { fan_in_fan_out: true }],
    ['an expression as pattern', { rank_pattern: { '(a+)+$': 4 } }],
    ['a rank of zero in a pattern', { rank_pattern: { q_proj: 0 } }],
    ['replicated layers', { layer_replication: [[0, 4]] }],
  ])('with %s are refused', (_, change) => {
    const changed = JSON.parse(JSON.stringify({ ...config, ...change })) as typeof config;
    expect(codeOf(() => parseAdapterConfig(changed as never, 'x'))).toBe('NIFT_ADAPTER_CONFIG');
  });

  it('report all problems at once', () => {
    const error = errorOf(() => parseAdapterConfig({ r: 'x', lora_alpha: 1, bias: 'all', use_dora: true }, 'f.json'));
    expect(error.message).toMatch(/^f\.json: r: .*bias: trained biases.*use_dora: DoRA/);
    expect(error.details['problems']).toHaveLength(3);
  });

  it('say what is missing', () => {
    expect(errorOf(() => readAdapter(jsonFolder('nothing', {}))).hint).toMatch(/PEFT/);
    expect(errorOf(() => readAdapter(jsonFolder('whole', { 'config.json': {} }))).hint).toMatch(/as the model/);
    const pickled = jsonFolder('pickle', { 'adapter_config.json': { r: 1, lora_alpha: 1 }, 'adapter_model.bin': '' });
    expect(errorOf(() => readAdapter(pickled)).hint).toMatch(/pickle/);
  });

  const cases = hasShared ? readdirSync(shared('golden', 'lora')) : [];
  it.skipIf(!hasShared).each(cases)('of PEFT are written again byte for byte: %s', (name) => {
    const source = shared('golden', 'lora', name);
    const adapter = readAdapter(source);
    const tensors = adapter.tensors
      .names()
      .map((name): TensorToWrite => ({ name, ...adapter.tensors.info(name), data: adapter.tensors.bytes(name) }));
    writeAdapter(at('peft'), readAdapterConfig(source), tensors);
    for (const file of readdirSync(at('peft')))
      expect(readFileSync(at('peft', file)).equals(readFileSync(path.join(source, file)))).toBe(true);
    adapter.close();
  });
});

describe('manifests', () => {
  it('name what made a folder and notice every change to it', () => {
    const base = jsonFolder('base', { 'config.json': { a: 1 } });
    writeSafetensors(path.join(base, 'model.safetensors'), [tensor('x', [1])]);
    const made = jsonFolder('made', { 'a.txt': 'one', 'b.txt': 'two' });
    mkdirSync(path.join(made, 'sub'));
    writeFileSync(path.join(made, 'sub', 'c.txt'), 'three');
    const manifest = writeManifest(made, { command: 'train x.yaml', config: { r: 8 }, base });
    expect(Object.keys(manifest.files)).toEqual(['a.txt', 'b.txt', 'sub/c.txt']);
    expect(readManifest(made)).toEqual(manifest);
    expect(manifest.base).toEqual({ path: base, identity: checkpointIdentity(base) });
    expect(verifyManifest(made, manifest)).toEqual([]);
    writeFileSync(path.join(made, 'a.txt'), 'on');
    writeFileSync(path.join(made, 'b.txt'), 'owt');
    rmSync(path.join(made, 'sub', 'c.txt'));
    expect(verifyManifest(made, manifest)).toEqual([
      'a.txt has 2 bytes, expected 3',
      'b.txt has another content',
      'sub/c.txt is missing',
    ]);
    writeFileSync(path.join(base, 'config.json'), '{"a":2}');
    expect(checkpointIdentity(base)).not.toBe(manifest.base?.identity);
  });

  it('of a later version, or damaged, are refused', () => {
    const made = jsonFolder('later', { x: '' });
    const manifest = writeManifest(made, { command: 'x', config: null });
    expect(readManifest(made)).toEqual(manifest);
    writeFileSync(path.join(made, 'nift_manifest.json'), JSON.stringify({ ...manifest, format: 99, nift: '9.0.0' }));
    expect(errorOf(() => readManifest(made)).hint).toMatch(/9\.0\.0/);
    writeFileSync(path.join(made, 'nift_manifest.json'), JSON.stringify({ ...manifest, files: 3 }));
    expect(codeOf(() => readManifest(made))).toBe('NIFT_JSON');
    expect(readManifest(jsonFolder('none', {}))).toBeNull();
  });
});

describe('inspectPath', () => {
  it('describes a safetensors file', async () => {
    writeSafetensors(at('two.safetensors'), [
      tensor('x', [2, 3]),
      { name: 'y', dtype: 'BF16', shape: [4], data: new Uint16Array(4) },
    ]);
    expect(await inspectPath(at('two.safetensors'))).toMatchObject({
      kind: 'safetensors',
      tensors: 2,
      parameters: 10,
      bytes: 32,
      bytesByDtype: { F32: 24, BF16: 8 },
      metadata: { format: 'pt' },
      list: [
        { name: 'x', dtype: 'F32', shape: [2, 3], bytes: 24 },
        { name: 'y', dtype: 'BF16', shape: [4], bytes: 8 },
      ],
    });
  });

  it('describes datasets, with tokens where rows are ids', async () => {
    writeFileSync(at('rows.jsonl'), '{"input_ids":[1,2,3],"labels":[5,-100,3]}\n\n{"input_ids":[4],"x":1}\n7\n');
    expect(await inspectPath(at('rows.jsonl'))).toMatchObject({
      kind: 'dataset',
      rows: 3,
      rowsThatAreNoObjects: 1,
      keys: { input_ids: 2, labels: 1, x: 1 },
      tokens: 4,
      supervisedTokens: 1,
    });
    writeFileSync(at('lines.json'), '{"a":1}\n{"a":2}\n');
    expect(await inspectPath(at('lines.json'))).toMatchObject({ kind: 'dataset', format: 'jsonl', rows: 2, keys: { a: 2 } });
    writeFileSync(at('rows.json'), '[{"instruction":"a","output":"b"}]');
    expect(await inspectPath(at('rows.json'))).toMatchObject({
      kind: 'dataset',
      format: 'json',
      rows: 1,
      keys: { instruction: 1, output: 1 },
    });
  });

  it('describes a training output with what it holds', async () => {
    const out = jsonFolder('out', {
      'trainer_state.json': {
        global_step: 3,
        max_steps: 3,
        epoch: 1,
        log_history: [
          { step: 1, loss: 3.5 },
          { step: 3, loss: 2.5 },
          { step: 3, train_loss: 3, train_runtime: 9 },
        ],
      },
    });
    for (const step of [10, 9]) mkdirSync(path.join(out, `checkpoint-${step}`));
    const config = newAdapterConfig({ r: 2, lora_alpha: 4, target_modules: ['q_proj'] });
    writeAdapter(out, config, [tensor('base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight', [2, 3])]);
    expect(await inspectPath(out)).toMatchObject({
      kind: 'training',
      step: 3,
      finished: true,
      firstLoss: 3.5,
      lastLoss: 2.5,
      meanLoss: 3,
      checkpoints: ['checkpoint-9', 'checkpoint-10'],
      adapter: { kind: 'adapter', r: 2, scaling: 2, targets: ['q_proj'], adaptedLayers: 1, parameters: 6 },
    });
  });

  it('refuses the rest, and says what it could have been', async () => {
    await expect(inspectPath(jsonFolder('blank', {}))).rejects.toMatchObject({
      code: 'NIFT_USAGE',
      hint: expect.stringContaining('config.json'),
    });
    await expect(inspectPath(at('absent'))).rejects.toMatchObject({ code: 'NIFT_FILE_NOT_FOUND' });
    writeFileSync(at('x.json'), '{"a":1}');
    await expect(inspectPath(at('x.json'))).rejects.toMatchObject({ code: 'NIFT_USAGE' });
    writeFileSync(at('x.bin'), '');
    await expect(inspectPath(at('x.bin'))).rejects.toMatchObject({ code: 'NIFT_USAGE' });
  });

  it.skipIf(!hasShared)('describes the reference models and adapters', async () => {
    expect(await inspectPath(shared('models', 'stories260k-instruct'))).toMatchObject({
      kind: 'checkpoint',
      architecture: 'LlamaForCausalLM',
      tiedEmbeddings: true,
      contextLength: 512,
      bytesByDtype: { BF16: expect.any(Number) },
      parameters: 260032,
      shards: [{}, {}, {}],
    });
    expect(await inspectPath(shared('golden', 'lora', 'stories260k-r16-rslora'))).toMatchObject({
      kind: 'adapter',
      r: 16,
      rsLora: true,
      adaptedLayers: 5,
    });
  });

  it.skipIf(!hasShared)('shows an adapter that was cut short as an error', async () => {
    const source = shared('golden', 'lora', 'tiny-mistral-qv');
    cpSync(source, at('cut'), { recursive: true });
    rmSync(at('cut', 'adapter_model.safetensors'), { force: true });
    copyFileSync(path.join(source, 'adapter_model.safetensors'), at('cut-file'));
    writeFileSync(at('cut', 'adapter_model.safetensors'), readFileSync(at('cut-file')).subarray(0, -1));
    await expect(inspectPath(at('cut'))).rejects.toMatchObject({ code: 'NIFT_SAFETENSORS_TRUNCATED' });
    writeFileSync(at('cut', 'adapter_model.safetensors'), readFileSync(at('cut-file')));
    appendFileSync(at('cut', 'adapter_model.safetensors'), 'x');
    await expect(inspectPath(at('cut'))).rejects.toMatchObject({ code: 'NIFT_SAFETENSORS_TRAILING' });
  });
});
