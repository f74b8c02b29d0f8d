/** The commands as a user runs them: output, exit codes, the first mistakes. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { nift } from '../cli/run.js';
import { tempFolder } from '../formats/tempFolder.js';
import { hasShared, shared } from '../golden.js';
import { makeAdapter, MODULES } from './fixtures.js';

const root = tempFolder();
const at = (name: string): string => path.join(root, name);
const A = makeAdapter(root, 'a', { modules: MODULES, r: 2, alpha: 2, seed: 1 });
const B = makeAdapter(root, 'b', { modules: MODULES, r: 3, alpha: 3, seed: 2 });

describe('nift adapter', () => {
  it('combine, scale, resize and convert write folders and report', async () => {
    const combined = await nift(['adapter', 'combine', `${A}@0.5`, `${B}@-1`, '--out', at('sum')]);
    expect([combined.code, combined.stdout]).toEqual([0, '']);
    expect(combined.stderr).toMatch(/4 modules of rank 5; exact/);
    const scaled = await nift(['adapter', 'scale', at('sum'), '--by', '-2', '--out', at('scaled'), '--json']);
    expect(JSON.parse(scaled.stdout)).toMatchObject({ modules: [{ rank: 5 }, { rank: 5 }, { rank: 5 }, { rank: 5 }] });
    const resized = await nift(['adapter', 'resize', at('scaled'), '--rank', '1', '--out', at('small'), '--dtype', 'bfloat16']);
    expect(resized.stderr).toMatch(/rank 1; least energy kept: \d/);
    const converted = await nift(['adapter', 'convert', at('small'), '--out', at('converted'), '--dry-run', '--json']);
    expect(JSON.parse(converted.stdout)).toMatchObject({ from: 'peft', rank: 1, scaling: 1 });
    expect(existsSync(at('converted'))).toBe(false);
  });

  const mistakes: [string, string[], RegExp][] = [
    ['misspelled sub-command', ['adapter', 'combin'], /Did you mean combine/],
    ['no sub-command', ['adapter'], /combine/],
    ['missing out', ['adapter', 'combine', A], /--out DIR is missing/],
    ['bad weight', ['adapter', 'combine', `${A}@much`, '--out', 'x'], /behind the @/],
    ['missing rank', ['adapter', 'resize', A, '--out', 'x'], /--rank R is missing/],
    ['missing factor', ['adapter', 'scale', A, '--out', 'x'], /--by X is missing/],
    ['no adapter there', ['adapter', 'convert', at('nowhere'), '--out', 'x'], /no such folder/],
    ['extract without base', ['extract', '--model', A], /--base DIR is missing/],
    ['method with adapter', ['merge', '--method', 'ties', '--adapter', A, '--out', 'x'], /exclude each other/],
    ['unknown method', ['merge', '--method', 'tie', '--out', 'x'], /Did you mean ties/],
    ['option of a method without one', ['merge', '--density', '0.5', '--model', A], /--density needs --method/],
    ['nothing to compare', ['diff', A, at('nowhere')], /no such file/],
  ];
  it.each(mistakes)('%s', async (_name, args, says) => {
    const { code, stdout, stderr } = await nift(args);
    expect(stderr).toMatch(says);
    expect(stderr).not.toMatch(/NIFT_INTERNAL|\n\s+at /);
    expect([code, stdout]).toEqual([2, '']);
  });
});

describe.skipIf(!hasShared)('with checkpoints', () => {
  const base = shared('models', 'stories260k');
  const model = shared('models', 'stories260k-instruct');

  it('diff exits with 0, and with 1 on request; merge --method and extract do what they plan', async () => {
    const different = await nift(['diff', base, model, '--top', '1']);
    expect([different.code, different.stdout.includes('47 of 47 tensors differ')]).toEqual([0, true]);
    expect((await nift(['diff', base, model, '--exit-code', '-q'])).code).toBe(1);
    expect(await nift(['diff', base, base, '--exit-code'])).toMatchObject({
      code: 0,
      stdout: expect.stringContaining('equal: 47') as string,
    });

    const flags = [
      'merge',
      '--method',
      'dare_ties',
      '--base',
      base,
      '--model',
      `${model}@0.8`,
      '--density',
      '0.6',
      '--seed',
      '3',
      '--no-normalize',
    ];
    const plan = await nift([...flags, '--out', at('merged'), '--dry-run', '--json']);
    expect(JSON.parse(plan.stdout)).toMatchObject({
      method: 'dare_ties',
      density: 0.6,
      seed: 3,
      normalize: false,
      models: [{ weight: 0.8 }],
    });
    expect(existsSync(at('merged'))).toBe(false);
    expect((await nift([...flags, '--out', at('merged'), '--dtype', 'bfloat16'])).code).toBe(0);
    expect(JSON.parse(readFileSync(path.join(at('merged'), 'config.json'), 'utf8'))).toMatchObject({ torch_dtype: 'bfloat16' });
    expect((await nift([...flags, '--out', base])).code).toBe(2);

    const extracted = await nift([
      'extract',
      '--base',
      base,
      '--model',
      model,
      '--rank',
      '4',
      '--targets',
      'q_proj,v_proj',
      '--out',
      at('lora'),
    ]);
    expect(extracted.stderr).toMatch(/10 modules of rank 4; \d\d\.\d+ % of the energy/);
    const text = await nift(['generate', '--model', base, '--adapter', at('lora'), '--prompt', 'Once', '--max-new-tokens', '4']);
    expect(text.code).toBe(0);
  });
});
