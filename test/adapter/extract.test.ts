/** Adapters out of weight differences: a merged adapter comes back, truncation is reported truly, and what cannot be held is named. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { extractAdapter } from '../../src/adapter/extract.js';
import { readAdapterJson } from '../../src/formats/adapter.js';
import { openCheckpoint, writeCheckpoint } from '../../src/formats/checkpoint.js';
import { openSafetensors, type SafetensorsDtype } from '../../src/formats/safetensors.js';
import { openCheckpointTensors } from '../../src/formats/shards.js';
import { openMergeAdapter } from '../../src/merge/adapterFile.js';
import { planMerge, runMerge } from '../../src/merge/merge.js';
import { normalArray } from '../../src/random.js';
import { expectClose } from '../expectClose.js';
import { tempFolder } from '../formats/tempFolder.js';
import { hasShared, shared } from '../golden.js';
import { changesOf } from './fixtures.js';

const root = tempFolder();
let count = 0;
const next = (): string => path.join(root, `out-${count++}`);

interface Case {
  adapter: string;
  merge_into: string;
}

describe.skipIf(!hasShared)('golden merges', () => {
  it.each(['stories260k-fp32', 'stories260k-rslora-fp32'])(
    '%s: the adapter comes back from the merged checkpoint',
    async (name) => {
      const info = JSON.parse(readFileSync(shared('golden', 'merge', name, 'case.json'), 'utf8')) as Case;
      const base = shared('models', info.merge_into);
      const adapter = shared('golden', ...info.adapter.split('/'));
      const rank = (readAdapterJson(adapter) as unknown as { r: number }).r;
      // The checkpoint with the golden merged tensors in the place of its own.
      const merged = openSafetensors(shared('golden', 'merge', name, 'merged.safetensors'));
      const source = openCheckpoint(base);
      const model = next();
      writeCheckpoint(model, {
        config: source.config,
        tensors: source.tensors.names().map((tensor) => {
          const from = merged.has(tensor) ? merged : source.tensors;
          return { name: tensor, dtype: from.info(tensor).dtype, shape: from.info(tensor).shape, data: from.bytes(tensor) };
        }),
      });
      merged.close();
      source.close();
      const out = next();
      const report = await extractAdapter({ base, model, rank, out });
      const [expected, actual] = [changesOf(adapter), changesOf(out)];
      expect([...actual.keys()].sort()).toEqual([...expected.keys()].sort());
      // W + D is rounded to float32 once, 2^-24 of |W| up to 4: D returns to within 1.2e-7, the products of the SVD add about as much.
      for (const [module, values] of actual) expectClose(values, expected.get(module)!, { abs: 1e-6, label: module });
      for (const { keptEnergy } of report.modules) expect(keptEnergy).toBeGreaterThan(1 - 1e-6);
      expect(report.lost).toEqual([]);
      // One rank less does not hold it.
      const less = await extractAdapter({ base, model, rank: rank - 1, out: next(), dryRun: true });
      expect(less.keptEnergy).toBeLessThan(1 - 1e-5);
    },
  );
});

const SHAPES: Record<string, number[]> = {
  'model.embed_tokens.weight': [30, 8],
  'model.layers.0.self_attn.q_proj.weight': [12, 8],
  'model.layers.0.self_attn.q_proj.bias': [12],
  'model.layers.0.mlp.down_proj.weight': [8, 20],
  'model.layers.0.input_layernorm.weight': [8],
  'model.layers.1.self_attn.q_proj.weight': [12, 8],
  'model.layers.1.self_attn.q_proj.bias': [12],
  'model.layers.1.mlp.down_proj.weight': [8, 20],
  'model.layers.1.input_layernorm.weight': [8],
  'model.norm.weight': [8],
  'lm_head.weight': [30, 8],
};
const CONFIG = {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: 8,
  intermediate_size: 20,
  num_attention_heads: 2,
  num_hidden_layers: 2,
  vocab_size: 30,
};

/** Random weights; those of `changed` get noise on top. */
function checkpoint(name: string, changed: readonly string[], dtype: SafetensorsDtype = 'F32', scale = 0.1): string {
  const folder = path.join(root, name);
  const tensors = Object.entries(SHAPES).map(([tensor, shape], i) => {
    const length = shape.reduce((a, b) => a * b, 1);
    const data = normalArray(length, 1, 1, i);
    if (changed.includes(tensor)) normalArray(length, scale, 2, i).forEach((noise, k) => (data[k]! += noise));
    return { name: tensor, dtype, shape, data };
  });
  writeCheckpoint(folder, { config: CONFIG, tensors });
  return folder;
}

const BASE = checkpoint('base', []);
const Q0 = 'model.layers.0.self_attn.q_proj';
const D1 = 'model.layers.1.mlp.down_proj';
const EVERYTHING = checkpoint('everything', Object.keys(SHAPES));

const weightsOf = (folder: string): Map<string, Float32Array> => {
  const tensors = openCheckpointTensors(folder);
  const result = new Map(tensors.names().map((name) => [name, Float32Array.from(tensors.readFloat32(name))]));
  tensors.close();
  return result;
};

async function mergeBack(adapter: string): Promise<Map<string, Float32Array>> {
  const plan = planMerge({ model: BASE, adapters: [{ folder: adapter, weight: 1 }] });
  const out = next();
  try {
    await runMerge(plan, { out, verify: 0, sync: false });
  } finally {
    plan.close();
  }
  return weightsOf(out);
}

describe('extract', () => {
  it('with full rank holds everything that it targets, and names what it does not', async () => {
    const out = next();
    const report = await extractAdapter({ base: BASE, model: EVERYTHING, rank: 12, out });
    expect(report.modules.map(({ module }) => module)).toHaveLength(4);
    expect(report.keptEnergy).toBeGreaterThan(1 - 1e-6);
    expect(report.lost.map(({ name }) => name).sort()).toEqual(
      Object.keys(SHAPES)
        .filter((name) => !/q_proj\.weight|down_proj/.test(name))
        .sort(),
    );
    for (const { relativeChange } of [...report.modules, ...report.lost]) expect(relativeChange).toBeGreaterThan(0.03);
    const [merged, wanted] = [await mergeBack(out), weightsOf(EVERYTHING)];
    for (const { module } of report.modules)
      expectClose(merged.get(`${module}.weight`)!, wanted.get(`${module}.weight`)!, { abs: 2e-6 });
    expect(readAdapterJson(out)).toMatchObject({
      r: 12,
      lora_alpha: 12,
      target_modules: ['down_proj', 'q_proj'],
      base_model_name_or_path: BASE,
      modules_to_save: null,
    });
  });

  it('saves norms whole on request, so that the merged model has them', async () => {
    const out = next();
    const report = await extractAdapter({
      base: BASE,
      model: EVERYTHING,
      rank: 12,
      out,
      saveModules: ['norm', 'input_layernorm'],
    });
    expect(report.saved.sort()).toEqual([
      'model.layers.0.input_layernorm.weight',
      'model.layers.1.input_layernorm.weight',
      'model.norm.weight',
    ]);
    expect(readAdapterJson(out)).toMatchObject({ modules_to_save: ['input_layernorm', 'norm'] });
    const [merged, wanted] = [await mergeBack(out), weightsOf(EVERYTHING)];
    expect(merged.get('model.norm.weight')).toEqual(wanted.get('model.norm.weight'));
    const all = await extractAdapter({ base: BASE, model: EVERYTHING, rank: 12, out: next(), saveModules: 'all', dryRun: true });
    expect(all.lost.map(({ name }) => name)).toEqual([`${Q0}.bias`, 'model.layers.1.self_attn.q_proj.bias']);
  });

  it('takes embeddings and the output matrix as LoRA when they are named', async () => {
    const out = next();
    const targets = ['embed_tokens', 'lm_head'];
    await extractAdapter({ base: BASE, model: EVERYTHING, rank: 8, out, targets });
    const adapter = openMergeAdapter(out, 1);
    expect(adapter.parts.map((part) => [part.module, part.transposed]).sort()).toEqual([
      ['lm_head', false],
      ['model.embed_tokens', true],
    ]);
    adapter.tensors.close();
    const [merged, wanted] = [await mergeBack(out), weightsOf(EVERYTHING)];
    for (const name of targets.map((target) => (target === 'lm_head' ? 'lm_head.weight' : 'model.embed_tokens.weight')))
      expectClose(merged.get(name)!, wanted.get(name)!, { abs: 2e-6, label: name });
  });

  it('leaves out what is equal, and lists layers accordingly', async () => {
    const model = checkpoint('partly', [`${D1}.weight`]);
    const out = next();
    const report = await extractAdapter({ base: BASE, model, rank: 2, out });
    expect(report.unchanged).toHaveLength(3);
    expect(report.modules.map(({ module }) => module)).toEqual([D1]);
    expect(report.keptEnergy).toBeLessThan(0.9);
    expect(readAdapterJson(out)).toMatchObject({ target_modules: ['down_proj'], layers_to_transform: [1] });
  });

  it('rank, targets, dtype and dry run change what is written; equal runs write equal bytes', async () => {
    const bytes = async (options: object): Promise<string> => {
      const out = next();
      await extractAdapter({ base: BASE, model: EVERYTHING, rank: 3, out, ...options });
      return existsSync(out) ? readFileSync(path.join(out, 'adapter_model.safetensors')).toString('base64') : '';
    };
    const plain = await bytes({});
    expect(await bytes({})).toBe(plain);
    for (const change of [
      { rank: 4 },
      { targets: ['q_proj'] },
      { dtype: 'float16' },
      { dryRun: true },
      { saveModules: ['norm'] },
    ])
      expect(await bytes(change)).not.toBe(plain);
  });

  it('refuses nothing to extract, wrong names, and models that do not fit', async () => {
    const run = (options: object): Promise<unknown> =>
      extractAdapter({ base: BASE, model: EVERYTHING, rank: 2, out: next(), ...options });
    await expect(run({ model: BASE })).rejects.toMatchObject({
      code: 'NIFT_CHECKPOINT_MISMATCH',
      message: expect.stringContaining('equal') as string,
    });
    await expect(run({ targets: ['q_prj'] })).rejects.toMatchObject({ code: 'NIFT_USAGE', hint: 'Did you mean "q_proj"?' });
    await expect(run({ rank: 0 })).rejects.toMatchObject({ code: 'NIFT_USAGE' });
    const norms = checkpoint('norms', ['model.norm.weight']);
    await expect(run({ model: norms, saveModules: 'all' })).rejects.toMatchObject({
      message: expect.stringContaining('no linear layer differs') as string,
    });
    await expect(run({ out: BASE, overwrite: true })).rejects.toMatchObject({ code: 'NIFT_OUTPUT_DIR' });
    const abort = new AbortController();
    abort.abort();
    await expect(run({ signal: abort.signal })).rejects.toMatchObject({ code: 'NIFT_INTERRUPTED' });
  });
});
