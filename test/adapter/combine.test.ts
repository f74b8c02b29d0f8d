/** Adapter arithmetic against the sums of the products it stands for. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { combineAdapters, resizeAdapter, scaleAdapter } from '../../src/adapter/combine.js';
import { jacobiSvd } from '../../src/adapter/factor.js';
import { describeTargets } from '../../src/adapter/targets.js';
import { readAdapter, readAdapterJson } from '../../src/formats/adapter.js';
import { readManifest, verifyManifest } from '../../src/formats/manifest.js';
import { expectClose } from '../expectClose.js';
import { tempFolder } from '../formats/tempFolder.js';
import { changesOf, makeAdapter, MODULES } from './fixtures.js';

const root = tempFolder();
const Q0 = 'model.layers.0.self_attn.q_proj';
const D1 = 'model.layers.1.mlp.down_proj';
const A = makeAdapter(root, 'a', { modules: MODULES, r: 4, alpha: 8, seed: 1 });
const B = makeAdapter(root, 'b', {
  modules: MODULES,
  r: 2,
  alpha: 5,
  seed: 2,
  ranks: { [Q0]: 3 },
  config: { use_rslora: true, alpha_pattern: { 'layers.1.mlp.down_proj': 7 } },
});
const PART = makeAdapter(root, 'part', {
  modules: { [D1]: [8, 20] },
  r: 6,
  alpha: 6,
  seed: 3,
  config: { layers_to_transform: [1] },
});

let count = 0;
const next = (): string => path.join(root, `out-${count++}`);

/** Largest measured difference: 4e-6 of values up to 60. */
const CLOSE = { relToMax: 1e-6 };

describe('combine', () => {
  it('is the weighted sum, with the ranks added up', () => {
    const out = next();
    const report = combineAdapters({
      adapters: [
        { folder: A, weight: 0.5 },
        { folder: B, weight: -2 },
        { folder: PART, weight: 1 },
      ],
      out,
    });
    const [a, b, part, sum] = [A, B, PART, out].map(changesOf) as [Changes, Changes, Changes, Changes];
    expect([...sum.keys()].sort()).toEqual(Object.keys(MODULES).sort());
    for (const [module, values] of sum) {
      const expected = values.map((_, i) => 0.5 * a.get(module)![i]! - 2 * b.get(module)![i]! + (part.get(module)?.[i] ?? 0));
      expectClose(values, expected, { ...CLOSE, label: module });
    }
    expect(Object.fromEntries(report.modules.map(({ module, rank }) => [module, rank]))).toEqual({
      [Q0]: 7,
      'model.layers.0.mlp.down_proj': 6,
      'model.layers.1.self_attn.q_proj': 6,
      [D1]: 12,
    });
    expect(readAdapterJson(out)).toMatchObject({
      r: 6,
      lora_alpha: 6,
      use_rslora: false,
      rank_pattern: { 'layers.0.self_attn.q_proj': 7, 'layers.1.mlp.down_proj': 12 },
      target_modules: ['down_proj', 'q_proj'],
    });
    // The trainer's own reader accepts it too, and the manifest holds.
    readAdapter(out).close();
    expect(verifyManifest(out, readManifest(out)!)).toEqual([]);
  });

  type Changes = Map<string, Float64Array>;

  it('with --rank is the best approximation of the sum', () => {
    const out = next();
    const adapters = [A, B].map((folder) => ({ folder, weight: 1 }));
    const report = combineAdapters({ adapters, out, rank: 3 });
    const [a, b, sum] = [A, B, out].map(changesOf) as [Changes, Changes, Changes];
    for (const { module, rank, keptEnergy } of report.modules) {
      const [rows, columns] = MODULES[module]!;
      const whole = a.get(module)!.map((value, i) => value + b.get(module)![i]!);
      const svd = jacobiSvd(
        Array.from({ length: columns }, (_, j) => Float64Array.from({ length: rows }, (_, i) => whole[i * columns + j]!)),
      );
      const best = svd.values.slice(3).reduce((total, value) => total + value * value, 0);
      const error = sum.get(module)!.reduce((total, value, i) => total + (value - whole[i]!) ** 2, 0);
      expect(rank).toBe(3);
      expect(error / best).toBeCloseTo(1, 4);
      expect(1 - keptEnergy).toBeCloseTo(best / svd.energy, 7);
    }
  });

  it('a dry run writes nothing; dtype and overwrite do what they say', () => {
    const out = next();
    const adapters = [{ folder: A, weight: 1 }];
    expect(combineAdapters({ adapters, out, dryRun: true }).modules).toHaveLength(4);
    expect(existsSync(out)).toBe(false);
    combineAdapters({ adapters, out, dtype: 'bfloat16' });
    const adapter = readAdapter(out);
    expect(adapter.tensors.info(adapter.tensors.names()[0]!).dtype).toBe('BF16');
    adapter.close();
    expect(() => combineAdapters({ adapters, out })).toThrow(/not empty/);
    combineAdapters({ adapters, out, overwrite: true });
    for (const run of [
      () => combineAdapters({ adapters, out: A, overwrite: true }),
      () => scaleAdapter({ adapter: A, by: 2, out: A, overwrite: true }),
      () => resizeAdapter({ adapter: A, rank: 1, out: path.join(A, 'inside'), overwrite: true }),
    ])
      expect(run).toThrow(/in the input/);
  });

  it('refuses adapters of other shapes, DoRA and whole modules', () => {
    const other = makeAdapter(root, 'other', { modules: { [Q0]: [12, 9] }, r: 2, alpha: 2, seed: 4 });
    const both = [A, other].map((folder) => ({ folder, weight: 1 }));
    expect(() => combineAdapters({ adapters: both, out: next() })).toThrow(/q_proj is \[12, 9\].*\[12, 8\] before/);
    const magnitude = {
      name: `base_model.model.${Q0}.lora_magnitude_vector`,
      dtype: 'F32' as const,
      shape: [12],
      data: new Float32Array(12),
    };
    const dora = makeAdapter(root, 'dora', {
      modules: { [Q0]: [12, 8] },
      r: 2,
      alpha: 2,
      seed: 4,
      config: { use_dora: true },
      extra: [magnitude],
    });
    for (const run of [
      () => combineAdapters({ adapters: [{ folder: dora, weight: 1 }], out: next() }),
      () => scaleAdapter({ adapter: dora, by: 2, out: next() }),
      () => resizeAdapter({ adapter: dora, rank: 1, out: next() }),
    ])
      expect(run).toThrow(/it is DoRA/);
    expect(() => combineAdapters({ adapters: [{ folder: WHOLE, weight: 1 }], out: next() })).toThrow(/replaces 1 whole tensors/);
  });

  it('notes different bases', () => {
    const [x, y] = ['x', 'y'].map((base) =>
      makeAdapter(root, `base-${base}`, {
        modules: { [Q0]: [12, 8] },
        r: 1,
        alpha: 1,
        seed: 1,
        config: { base_model_name_or_path: base },
      }),
    );
    const adapters = [x!, y!].map((folder) => ({ folder, weight: 1 }));
    expect(combineAdapters({ adapters, out: next() }).notes.join()).toMatch(/different bases: x, y/);
  });
});

const WHOLE = makeAdapter(root, 'whole', {
  modules: { [Q0]: [12, 8] },
  r: 2,
  alpha: 2,
  seed: 4,
  config: { modules_to_save: ['lm_head'] },
  extra: [
    {
      name: 'base_model.model.lm_head.weight',
      dtype: 'F32',
      shape: [2, 8],
      data: Float32Array.from({ length: 16 }, (_, i) => i),
    },
  ],
});

describe('scale', () => {
  it.each([0.5, 3, -1, -0.25])('by %s multiplies every change, exactly', (by) => {
    for (const folder of [A, B]) {
      const out = next();
      scaleAdapter({ adapter: folder, by, out });
      const before = changesOf(folder);
      for (const [module, values] of changesOf(out))
        expectClose(
          values,
          before.get(module)!.map((value) => by * value),
          { relToMax: 1e-14 },
        );
    }
  });

  it('touches alpha only, and refuses 0', () => {
    const out = next();
    scaleAdapter({ adapter: B, by: 3, out });
    expect(readAdapterJson(out)).toMatchObject({
      lora_alpha: 15,
      alpha_pattern: { 'layers.1.mlp.down_proj': 21 },
      use_rslora: true,
    });
    const weights = (folder: string): Buffer => readFileSync(path.join(folder, 'adapter_model.safetensors'));
    expect(weights(out).equals(weights(B))).toBe(true);
    expect(() => scaleAdapter({ adapter: A, by: 0, out: next() })).toThrow(/other than 0/);
  });
});

describe('resize', () => {
  it('to a smaller rank is the best approximation; to a larger one nothing changes', () => {
    for (const rank of [1, 2, 4, 9]) {
      const out = next();
      const { modules } = resizeAdapter({ adapter: B, rank, out });
      const [before, after] = [changesOf(B), changesOf(out)];
      for (const { module, keptEnergy } of modules) {
        const whole = before.get(module)!;
        const norm = whole.reduce((sum, value) => sum + value * value, 0);
        const error = after.get(module)!.reduce((sum, value, i) => sum + (value - whole[i]!) ** 2, 0);
        expect(Math.abs(error / norm - (1 - keptEnergy))).toBeLessThan(1e-9);
        if (rank >= 3) expectClose(after.get(module)!, whole, CLOSE);
        else if (rank === 1) expect(keptEnergy).toBeLessThan(0.99);
      }
      expect(readAdapterJson(out)).toMatchObject({ r: rank, lora_alpha: rank, rank_pattern: {}, use_rslora: false });
    }
  });

  it('carries whole modules over', () => {
    const out = next();
    resizeAdapter({ adapter: WHOLE, rank: 1, out });
    expect(readAdapterJson(out)).toMatchObject({ modules_to_save: ['lm_head'] });
    const changed = changesOf(out);
    expect([...changed.keys()]).toEqual([Q0]);
  });
});

describe('describeTargets', () => {
  const modules = Object.keys(MODULES);
  it('is short when short says it all', () => {
    expect(describeTargets(modules, false)).toEqual({ target_modules: ['down_proj', 'q_proj'], layers_to_transform: null });
    expect(describeTargets(modules, true)).toMatchObject({ layers_to_transform: [0, 1] });
  });
  it('lists layers or full names when it does not', () => {
    expect(describeTargets([D1], false)).toEqual({ target_modules: ['down_proj'], layers_to_transform: [1] });
    expect(describeTargets([Q0, D1], false)).toMatchObject({ target_modules: [Q0, D1].sort(), layers_to_transform: null });
    expect(describeTargets([...modules, 'lm_head'], false)).toMatchObject({ target_modules: ['down_proj', 'lm_head', 'q_proj'] });
    expect(describeTargets([...modules, 'lm_head'], true)).toMatchObject({ target_modules: [...modules, 'lm_head'].sort() });
  });
});
