/** `nift merge` as users run it. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseAdapter, parseSize } from '../../src/cli/merge.js';
import { openCheckpointTensors } from '../../src/formats/shards.js';
import { nift } from '../cli/run.js';
import { tempFolder } from '../formats/tempFolder.js';
import { HIDDEN, makeAdapter, makeModel } from './fixtures.js';

const temp = tempFolder();
const Q = 'model.layers.0.self_attn.q_proj';
const tensors = {
  [`${Q}.lora_A.weight`]: { shape: [4, HIDDEN], seed: 1 },
  [`${Q}.lora_B.weight`]: { shape: [HIDDEN, 4], seed: 2 },
};
const model = makeModel(path.join(temp, 'base'), { dtype: 'BF16' });
const adapter = makeAdapter(path.join(temp, 'adapter'), { base_model_name_or_path: 'org/base' }, tensors);
const foreign = makeAdapter(path.join(temp, 'foreign'), { base_model_name_or_path: 'org/other' }, tensors);
const out = (name: string): string => path.join(temp, name);

describe('options', () => {
  it('reads sizes', () => {
    expect([parseSize('5GB'), parseSize('1.5 gb'), parseSize('2GiB'), parseSize('77')]).toEqual([5e9, 1.5e9, 2 ** 31, 77]);
    for (const text of ['', 'GB', '5XB', '-1GB', '0']) expect(() => parseSize(text)).toThrow(/size like 5GB/);
  });

  it('reads adapters with weights', () => {
    expect(parseAdapter('a@0.5', parseAdapter('b'))).toEqual([
      { folder: 'b', weight: 1 },
      { folder: 'a', weight: 0.5 },
    ]);
    expect(parseAdapter('a@-1e-2')[0]).toEqual({ folder: 'a', weight: -0.01 });
    expect(() => parseAdapter('a@much')).toThrow(/number behind the @/);
  });
});

const mistakes: [name: string, args: string[], says: RegExp][] = [
  ['no model', ['--adapter', adapter, '--out', out('x')], /--model DIR is missing/],
  ['no adapter', ['--model', model, '--out', out('x')], /--adapter DIR is missing/],
  ['no output', ['--model', model, '--adapter', adapter], /--out DIR is missing/],
  ['a folder that is not there', ['--model', '/nonexistent', '--adapter', adapter, '--out', out('x')], /NIFT_FILE_NOT_FOUND/],
  ['adapter and model mixed up', ['--model', adapter, '--adapter', model, '--out', out('x')], /Give it as the model/],
  ['another base', ['--model', model, '--adapter', foreign, '--out', out('x')], /NIFT_MERGE_BASE.*org\/other[^]*--lora-base/],
  ['the model as output', ['--model', model, '--adapter', adapter, '--out', model], /NIFT_OUTPUT_DIR/],
  ['an unknown dtype', ['--model', model, '--adapter', adapter, '--out', out('x'), '--dtype', 'int8'], /bfloat16/],
];

describe('nift merge', () => {
  it.each(mistakes)('%s', async (_name, args, says) => {
    const { code, stdout, stderr } = await nift(['merge', ...args]);
    expect(stderr).toMatch(says);
    expect(stderr).not.toMatch(/NIFT_INTERNAL|\n\s+at /);
    expect([stdout, code]).toEqual(['', 2]);
    expect(existsSync(out('x'))).toBe(false);
  });

  it('--dry-run prints the plan and writes nothing', async () => {
    const args = ['merge', '--model', model, '--adapter', `${adapter}@0.5`, '--out', out('dry'), '--dry-run'];
    const text = await nift(args);
    expect(text.code).toBe(0);
    expect(text.stdout).toMatch(/1 tensors change[^]*memory[^]*at most/);
    const { stdout } = await nift([...args, '--json']);
    expect(JSON.parse(stdout)).toMatchObject({
      changed: 1,
      dtype: 'keep',
      adapters: [{ weight: 0.5, base: { verdict: 'same' } }],
    });
    expect(readdirSync(temp).filter((name) => name.startsWith('dry'))).toEqual([]);
  });

  it('--json is one document, with the check', async () => {
    const { code, stdout } = await nift(['merge', '--model', model, '--adapter', adapter, '--out', out('json'), '--json']);
    expect(code).toBe(0);
    const result = JSON.parse(stdout) as {
      verify: { untouchedTensors: number; logits: { maxDifference: number; bound: number } };
    };
    expect(result.verify.untouchedTensors).toBe(20);
    expect(result.verify.logits.maxDifference).toBeLessThanOrEqual(result.verify.logits.bound);
  });

  it('--lora-base says what differs, and the card says lora-base', async () => {
    const { code, stderr } = await nift([
      'merge',
      '--model',
      model,
      '--adapter',
      foreign,
      '--out',
      out('sibling'),
      '--lora-base',
    ]);
    expect([code, /trained on "org\/other"/.test(stderr)]).toEqual([0, true]);
    expect(readFileSync(path.join(out('sibling'), 'README.md'), 'utf8')).toContain('lora-base');
  });

  it('writes the same without the addon, up to one unit', async () => {
    const args = (name: string): string[] => ['merge', '--model', model, '--adapter', adapter, '--out', out(name)];
    expect(await nift(args('with'))).toMatchObject({ code: 0 });
    expect(await nift(args('without'), { env: { NIFT_NO_ADDON: '1' } })).toMatchObject({ code: 0 });
    const [a, b] = [openCheckpointTensors(out('with')), openCheckpointTensors(out('without'))];
    expect(a.names()).toEqual(b.names());
    for (const name of a.names()) {
      const [x, y] = [a.typed(name) as Uint16Array, b.typed(name) as Uint16Array];
      const furthest = x.reduce((most, bits, i) => Math.max(most, Math.abs(bits - y[i]!)), 0);
      expect(furthest, name).toBeLessThanOrEqual(name.startsWith(Q) ? 1 : 0);
    }
    a.close();
    b.close();
  });
});
