/** Adapters of other tools: what mlx-lm computes is what the converted adapter adds. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { convertAdapter } from '../../src/adapter/convert.js';
import { readAdapter, readAdapterConfig, readAdapterJson } from '../../src/formats/adapter.js';
import { openSafetensors } from '../../src/formats/safetensors.js';
import { writeSafetensors, type TensorToWrite } from '../../src/formats/safetensorsWriter.js';
import { openMergeAdapter } from '../../src/merge/adapterFile.js';
import { normalArray } from '../../src/random.js';
import { expectClose } from '../expectClose.js';
import { tempFolder } from '../formats/tempFolder.js';
import { changesOf, makeAdapter, MODULES } from './fixtures.js';

const root = tempFolder();
let count = 0;
const next = (): string => path.join(root, `out-${count++}`);

const IN = 5;
const OUT = 7;
const R = 3;
const Q = 'model.layers.14.self_attn.q_proj';
const V = 'model.layers.15.self_attn.v_proj';
const a = normalArray(IN * R, 1, 1);
const b = normalArray(R * OUT, 1, 2);

/** scale (x lora_a) lora_b, as a matrix on x: [out, in]. */
const mlxChange = (scale: number): Float64Array =>
  Float64Array.from({ length: OUT * IN }, (_, at) => {
    const [o, i] = [Math.floor(at / IN), at % IN];
    let sum = 0;
    for (let k = 0; k < R; k++) sum += a[i * R + k]! * b[k * OUT + o]!;
    return scale * sum;
  });

function mlx(lora: object, options: { config?: object; extra?: TensorToWrite[]; modules?: string[] } = {}): string {
  const folder = next();
  mkdirSync(folder);
  const tensors = (options.modules ?? [Q, V]).flatMap((module): TensorToWrite[] => [
    { name: `${module}.lora_a`, dtype: 'F32', shape: [IN, R], data: a },
    { name: `${module}.lora_b`, dtype: 'F32', shape: [R, OUT], data: b },
  ]);
  writeSafetensors(path.join(folder, 'adapters.safetensors'), [...tensors, ...(options.extra ?? [])], {});
  const config = { fine_tune_type: 'lora', model: 'org/base', num_layers: 2, lora_parameters: lora, ...options.config };
  writeFileSync(path.join(folder, 'adapter_config.json'), JSON.stringify(config));
  return folder;
}

describe('mlx-lm', () => {
  it('is transposed and rescaled', () => {
    const out = next();
    const report = convertAdapter({ source: mlx({ rank: R, scale: 20, dropout: 0.25 }), out });
    expect(report).toMatchObject({ from: 'mlx-lm', modules: 2, rank: R, scaling: 20, notes: [] });
    const changes = changesOf(out);
    expect([...changes.keys()].sort()).toEqual([Q, V]);
    for (const values of changes.values()) expectClose(values, mlxChange(20), { relToMax: 1e-14 });
    expect(readAdapterConfig(out)).toMatchObject({
      r: R,
      lora_alpha: 60,
      lora_dropout: 0.25,
      base_model_name_or_path: 'org/base',
      // Each is in one layer only: short names would adapt too much.
      target_modules: [Q, V],
    });
    readAdapter(out).close();
  });

  it('lists the layers when only the last ones were trained', () => {
    const modules = [14, 15].flatMap((layer) => ['q_proj', 'v_proj'].map((name) => `model.layers.${layer}.self_attn.${name}`));
    const out = next();
    convertAdapter({ source: mlx({ rank: R, scale: 2 }, { modules }), out });
    expect(readAdapterJson(out)).toMatchObject({ target_modules: ['q_proj', 'v_proj'], layers_to_transform: [14, 15] });
  });

  it('of the early kind multiplies scale with alpha / rank, and says so; --base takes the name', () => {
    const out = next();
    const report = convertAdapter({ source: mlx({ rank: R, alpha: 6, scale: 10 }), out, base: 'other/base' });
    expect(report.scaling).toBe(20);
    expect(report.notes.join()).toMatch(/alpha 6/);
    expectClose(changesOf(out).get(Q)!, mlxChange(20), { relToMax: 1e-14 });
    expect(readAdapterJson(out)).toMatchObject({ base_model_name_or_path: 'other/base' });
  });

  it('keeps embeddings and DoRA what they are', () => {
    const embed = 'model.embed_tokens';
    const out = next();
    convertAdapter({ source: mlx({ rank: R, scale: 1 }, { modules: [embed] }), out });
    const adapter = openMergeAdapter(out, 1);
    // lora_a [V, r]: PEFT's A is [r, V].
    expect(adapter.parts).toMatchObject([{ module: embed, transposed: true, r: R }]);
    expect(adapter.tensors.info('base_model.model.model.embed_tokens.lora_embedding_A').shape).toEqual([R, IN]);
    adapter.tensors.close();
    const magnitude: TensorToWrite = { name: `${Q}.m`, dtype: 'F32', shape: [OUT], data: new Float32Array(OUT).fill(2) };
    const dora = next();
    convertAdapter({
      source: mlx({ rank: R, scale: 1 }, { modules: [Q], extra: [magnitude], config: { fine_tune_type: 'dora' } }),
      out: dora,
    });
    const read = openMergeAdapter(dora, 1);
    expect(read.parts[0]!.magnitude).toBe(`base_model.model.${Q}.lora_magnitude_vector`);
    read.tensors.close();
  });

  it('refuses whole weights, experts, wrong ranks and halves, all named', () => {
    const run = (source: string): void => void convertAdapter({ source, out: next() });
    expect(() => run(mlx({ rank: R, scale: 1 }, { config: { fine_tune_type: 'full' } }))).toThrow(/whole weights/);
    expect(() => run(mlx({ rank: R }))).toThrow(/neither "scale" nor "alpha"/);
    expect(() => run(mlx({ rank: 4, scale: 1 }))).toThrow(/lora_a \[5, 3\].*expected \[in, 4\]/);
    const extra: TensorToWrite[] = [
      { name: 'x.lora_a', dtype: 'F32', shape: [1, R], data: new Float32Array(R) },
      { name: 'model.norm.weight', dtype: 'F32', shape: [1], data: new Float32Array(1) },
    ];
    expect(() => run(mlx({ rank: R, scale: 1 }, { extra }))).toThrow(/model\.norm\.weight is no part of LoRA; x lacks lora_b/);
  });
});

describe('PEFT', () => {
  it('fills in what older configs lack and renames tensors', () => {
    const source = makeAdapter(root, 'old', { modules: MODULES, r: 2, alpha: 6, seed: 1 });
    const file = openSafetensors(path.join(source, 'adapter_model.safetensors'));
    const tensors = file.names().map((name): TensorToWrite => ({
      name: name.replace('.weight', '.default.weight'),
      dtype: 'F32',
      shape: file.info(name).shape,
      data: Float32Array.from(file.readFloat32(name)),
    }));
    file.close();
    writeSafetensors(path.join(source, 'adapter_model.safetensors'), tensors);
    writeFileSync(
      path.join(source, 'adapter_config.json'),
      JSON.stringify({ peft_type: 'LORA', r: 2, lora_alpha: 6, task_type: 'CAUSAL_LM' }),
    );
    const out = next();
    const report = convertAdapter({ source, out });
    expect(report).toMatchObject({ from: 'peft', modules: 4, rank: 2, scaling: 3 });
    expect(report.notes.join()).toContain('rank_pattern');
    const plain = makeAdapter(root, 'plain', { modules: MODULES, r: 2, alpha: 6, seed: 1 });
    expect(changesOf(out)).toEqual(changesOf(plain));
    expect(readAdapterConfig(out)).toMatchObject({ target_modules: ['down_proj', 'q_proj'], use_rslora: false });
    const weights = (folder: string): Buffer => readFileSync(path.join(folder, 'adapter_model.safetensors'));
    expect(weights(out).equals(weights(plain))).toBe(true);
  });

  it('refuses pickles, with the way out', () => {
    const source = next();
    mkdirSync(source);
    writeFileSync(path.join(source, 'adapter_config.json'), '{"peft_type":"LORA","r":2,"lora_alpha":2}');
    writeFileSync(path.join(source, 'adapter_model.bin'), 'x');
    expect(() => convertAdapter({ source, out: next() })).toThrow(
      expect.objectContaining({ hint: expect.stringContaining('pickle') as string }) as Error,
    );
  });
});
