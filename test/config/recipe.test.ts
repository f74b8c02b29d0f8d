/** Guards against flags that reach nothing, keys that are misspelled in silence, and errors told one at a time. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseRecipe, parseRecipeArguments, recipeKeys } from '../../src/config/recipe.js';
import type { Recipe, RecipeInput } from '../../src/config/recipe.js';
import { NiftError } from '../../src/errors.js';
import { Random } from '../../src/random.js';

const REQUIRED = 'model_name_or_path: m\ndataset: d\noutput_dir: o\n';
const parse = (text: string, more: RecipeInput = {}): Recipe =>
  parseRecipe({ path: 'train.yaml', env: {}, text: REQUIRED + text, ...more });

function problems(run: () => unknown): string[] {
  try {
    run();
  } catch (error) {
    expect(error).toBeInstanceOf(NiftError);
    expect((error as NiftError).code).toBe('NIFT_RECIPE');
    return (error as NiftError).message.split('\n');
  }
  throw new Error('expected NIFT_RECIPE');
}

/** A value that is not the default, as text. Keys whose kind does not decide it. */
const SAMPLES: Record<string, string> = {
  dtype: 'float32',
  finetuning_type: 'full',
  gradient_accumulation_mode: 'micro_mean',
  lr_scheduler_type: 'linear',
  adam_beta1: '0.5',
  adam_beta2: '0.5',
  lora_dropout: '0.5',
  warmup_ratio: '0.5',
  max_steps: '17',
  resume_from_checkpoint: 'somewhere',
};

function sample(key: ReturnType<typeof recipeKeys>[number]): { text: string; value: unknown } {
  const text = SAMPLES[key.name];
  if (text !== undefined) return { text, value: key.kind === 'number' || key.kind === 'integer' ? Number(text) : text };
  if (key.kind === 'integer') return { text: '7', value: 7 };
  if (key.kind === 'number') return { text: '7.5', value: 7.5 };
  if (key.kind === 'boolean') return { text: String(!key.default), value: !key.default };
  if (key.kind === 'list') return { text: 'a,b', value: ['a', 'b'] };
  if (key.kind === 'choice') return { text: key.choices![0]!, value: key.choices![0]! };
  return { text: 'some-text', value: 'some-text' };
}

/** train_from_scratch is refused with LoRA. */
const companions = (name: string): string => (name === 'train_from_scratch' ? 'finetuning_type: full\n' : '');

describe('every key', () => {
  const plain = recipeKeys().filter((key) => key.noticed === undefined && key.refused === undefined);

  it.each(plain.map((key) => [key.name, key] as const))('%s arrives from file, environment, override and flag', (name, key) => {
    const { text, value } = sample(key);
    const base = key.required ? REQUIRED.replace(new RegExp(`^${name}: .*\\n`, 'm'), '') : REQUIRED;
    const common = { path: 'train.yaml', env: {}, text: base + companions(name) };
    const flag = parseRecipeArguments([`${key.flag}=${text}`]).flags;
    const override = parseRecipeArguments([`${name}=${text}`]).overrides;
    const recipes: [string, Recipe][] = [
      ['file', parseRecipe({ ...common, text: `${common.text}${name}: ${text}\n` })],
      ['environment', parseRecipe({ ...common, env: { [`NIFT_${name.toUpperCase()}`]: text } })],
      ['override', parseRecipe({ ...common, overrides: override })],
      ['flag', parseRecipe({ ...common, flags: flag })],
    ];
    for (const [source, recipe] of recipes) {
      expect(recipe.values[name], source).toEqual(value);
      expect(recipe.origins[name].source).toBe(source);
    }
  });

  it.each(
    recipeKeys()
      .filter((key) => key.noticed !== undefined)
      .map((key) => [key.name, key.noticed!] as const),
  )('%s is accepted with a notice', (name, reason) => {
    expect(parse(`${name}: 3\n`).notices).toEqual([`${name} is ignored: ${reason}`]);
  });

  it.each(
    recipeKeys()
      .filter((key) => key.refused !== undefined)
      .map((key) => [key.name, key] as const),
  )('%s is refused unless it changes nothing', (name, key) => {
    expect(problems(() => parse(`${name}: wandb7\n`))).toEqual([`train.yaml:4: "${name}" cannot be "wandb7": ${key.refused}`]);
    expect(parse(`${name}: ${key.default === null ? 'null' : key.defaultText}\n`).values[name]).toEqual(key.default);
  });

  it('has a description, a group and a flag', () => {
    for (const key of recipeKeys()) {
      expect(key.description.length, key.name).toBeGreaterThan(4);
      expect(key.flag).toMatch(/^--[a-z0-9-]+$/);
    }
  });
});

describe('values', () => {
  it('follow from others when unset', () => {
    const { values } = parse('lora_rank: 16\nseed: 7\n');
    expect(values.lora_alpha).toBe(32);
    expect(values.data_seed).toBe(7);
    expect(parse('lora_rank: 16\nlora_alpha: 4\ndata_seed: 1\n').values).toMatchObject({ lora_alpha: 4, data_seed: 1 });
  });

  it('are numbers in every spelling of YAML 1.2 and as text', () => {
    for (const text of ['1e-5', '1.0e-5', '0.00001', '"1e-5"', '+1E-5', '.00001']) {
      expect(parse(`learning_rate: ${text}\n`).values.learning_rate, text).toBe(1e-5);
    }
    expect(problems(() => parse('learning_rate: 1e-5x\n'))[0]).toContain('must be a number at least 0, got "1e-5x"');
    expect(problems(() => parse('max_steps: 1.5\n'))[0]).toContain('"max_steps" must be a whole number at least -1, got 1.5');
    expect(problems(() => parse('learning_rate: .nan\n'))[0]).toContain('must be a number');
    expect(problems(() => parse('weight_decay: .inf\n'))[0]).toContain('must be a number');
    expect(problems(() => parse('lora_rank: 0x\n'))[0]).toContain('must be a whole number');
    expect(problems(() => parse('lora_dropout: 1\n'))[0]).toContain('below 1');
  });

  it('take lists as YAML lists and as text, and keep the spelling of names', () => {
    expect(parse('lora_target: [q_proj, v_proj, q_proj]\n').values.lora_target).toEqual(['q_proj', 'v_proj']);
    expect(parse('lora_target: "q_proj, v_proj"\n').values.lora_target).toEqual(['q_proj', 'v_proj']);
    expect(
      parseRecipe({ path: 'x.yaml', env: {}, text: 'model_name_or_path: 007\ndataset: [1e3, yes]\noutput_dir: 2024-01-01\n' })
        .values,
    ).toMatchObject({
      model_name_or_path: '007',
      dataset: ['1e3', 'yes'],
      output_dir: '2024-01-01',
    });
  });

  it('may be null for unset, in the words of YAML 1.1 too for switches', () => {
    expect(parse('max_samples: null\nsave_total_limit: ~\ndata_seed:\nplot_loss: yes\n').values).toMatchObject({
      max_samples: null,
      save_total_limit: null,
      data_seed: 42,
      plot_loss: true,
    });
  });

  it('come from JSON as well, tabs and all', () => {
    const text =
      '{\n\t"model_name_or_path": "m",\n\t"dataset": ["a", "b"],\n\t"output_dir": "o",\n\t"learning_rate": 1e-5, "max_samples": null\n}\n';
    const recipe = parseRecipe({ path: 'train.json', text, env: {} });
    expect(recipe.values).toMatchObject({ dataset: ['a', 'b'], learning_rate: 1e-5, max_samples: null });
    expect(recipe.origins.output_dir.where).toBe('train.json:4');
  });
});

describe('precedence', () => {
  it('is default < file < environment < key=value < flag, with the origin of each', () => {
    const sources = {
      env: { NIFT_SEED: '3', NIFT_LORA_RANK: '3', NIFT_MAX_STEPS: '3' },
      overrides: { lora_rank: '4', max_steps: '4' },
      flags: { 'max-steps': '5' },
    };
    const { values, origins } = parse('seed: 2\nlora_rank: 2\nmax_steps: 2\nlogging_steps: 2\n', sources);
    expect([values.save_steps, values.logging_steps, values.seed, values.lora_rank, values.max_steps]).toEqual([500, 2, 3, 4, 5]);
    expect(origins.save_steps).toEqual({ source: 'default', where: '' });
    expect(origins.logging_steps).toEqual({ source: 'file', where: 'train.yaml:7' });
    expect(origins.seed).toEqual({ source: 'environment', where: 'NIFT_SEED' });
    expect(origins.lora_rank).toEqual({ source: 'override', where: 'lora_rank' });
    expect(origins.max_steps).toEqual({ source: 'flag', where: '--max-steps' });
  });

  it('needs no file at all', () => {
    const flags = { model_name_or_path: 'm', dataset: 'd', output_dir: 'o' };
    expect(parseRecipe({ flags, env: {} }).values.dataset).toEqual(['d']);
  });
});

describe('problems', () => {
  it('are all told at once, with line and nearest name', () => {
    const text = 'model_name_or_path: m\nlora_rnak: 3\nlearning_rate: abc\nfinetuning_type: lroa\nseed: 1\nseed: 2\n';
    const found = problems(() =>
      parseRecipe({
        path: 'r/train.yaml',
        text,
        env: { NIFT_THREADS: 'many' },
        overrides: { save_stesp: '1' },
        flags: { 'fp-16': true },
      }),
    );
    expect(found).toEqual([
      'r/train.yaml:2: unknown key "lora_rnak". Did you mean "lora_rank"?',
      'r/train.yaml:6: key "seed" is given twice, first at r/train.yaml:5',
      'save_stesp: unknown key "save_stesp". Did you mean "save_steps"?',
      '--fp-16: unknown key "fp-16". Did you mean "fp16"?',
      'NIFT_THREADS: "threads" must be a whole number at least 1, got "many"',
      'r/train.yaml:4: "finetuning_type" must be one of lora, full, got "lroa"',
      expect.stringContaining('missing key "dataset"'),
      expect.stringContaining('missing key "output_dir"'),
      'r/train.yaml:3: "learning_rate" must be a number at least 0, got "abc"',
    ]);
  });

  it('of YAML itself name the line', () => {
    expect(problems(() => parse('lora_rank: [1\n'))[0]).toMatch(/^train\.yaml:\d+: /);
    expect(problems(() => parse('lora_rank: *nothing\n')).join()).toMatch(/train\.yaml:4/);
    expect(problems(() => parseRecipe({ path: 'x.yaml', text: '- a\n- b\n', env: {} }))[0]).toMatch(/^x\.yaml:1: /);
    expect(problems(() => parse('lora_rank: {a: 1}\n'))[0]).toContain('"lora_rank" must be a whole number');
  });

  it('survive whatever stands in the file: typed errors only', () => {
    const pieces = [
      'a: &x [1]',
      'b: *x',
      'lora_rank: !!binary x',
      '? [a]\n: b',
      '<<: *y',
      '%YAML 1.1\n---',
      '\u0000',
      'seed: &s 1\ndata_seed: *s',
      '{',
      '"',
      "'",
      '\t',
      '- -',
      'x: |\n y',
      'lora_target: [[a], {b: 1}]',
    ];
    for (const piece of pieces) {
      try {
        parse(`${piece}\n`);
      } catch (error) {
        expect((error as NiftError).code, piece).toBe('NIFT_RECIPE');
      }
    }
    expect(parse('seed: &s 5\ndata_seed: *s\n').values.data_seed).toBe(5);
  });

  it('survive 500 random mutations of a recipe', () => {
    const random = new Random(5);
    const whole = `${REQUIRED}lora_target: [q_proj, "v_proj"]\nlearning_rate: 1.0e-5\nmax_samples: ~\nfp16: true # note\n`;
    const odd = [
      '{',
      '}',
      '[',
      ']',
      ':',
      '&a',
      '*a',
      '!!',
      '|',
      '>',
      '%',
      '"',
      "'",
      '\t',
      '\n',
      '---',
      '? ',
      '\u2028',
      '<<',
      '0x',
      '\\',
    ];
    let refused = 0;
    for (let trial = 0; trial < 500; trial++) {
      let text = whole;
      for (let i = 0; i <= random.integer(4); i++) {
        const at = random.integer(text.length);
        text = text.slice(0, at) + odd[random.integer(odd.length)]! + text.slice(at + random.integer(3));
      }
      try {
        parseRecipe({ path: 'train.yaml', env: {}, text });
      } catch (error) {
        expect((error as NiftError).code, text).toBe('NIFT_RECIPE');
        expect((error as NiftError).message).toContain('train.yaml');
        refused++;
      }
    }
    expect(refused).toBeGreaterThan(100);
  });

  it('of bytes that are no text say so', () => {
    const file = path.join(mkdtempSync(path.join(tmpdir(), 'nift-recipe-')), 'x.yaml');
    writeFileSync(file, Buffer.from([0x61, 0x3a, 0xff]));
    expect(problems(() => parseRecipe({ path: file, env: {} }))).toEqual([`${file}: not valid UTF-8`]);
    rmSync(path.dirname(file), { recursive: true });
  });

  it('of a missing file say so', () => {
    expect(() => parseRecipe({ path: '/nowhere/x.yaml', env: {} })).toThrow(
      expect.objectContaining({ code: 'NIFT_FILE_NOT_FOUND' }),
    );
  });

  it('between keys: dtype and its switches', () => {
    expect(parse('fp16: true\n').values).toMatchObject({ dtype: 'float16', fp16: true, bf16: false });
    expect(parse('bf16: true\n').values.dtype).toBe('bfloat16');
    expect(parse('bf16: true\n').origins.dtype).toEqual({ source: 'file', where: 'train.yaml:4' });
    expect(parse('dtype: bfloat16\n').values).toMatchObject({ fp16: false, bf16: true });
    expect(problems(() => parse('fp16: true\nbf16: true\n'))[0]).toContain(
      'train.yaml:5: "fp16" says float16 and "bf16" says bfloat16',
    );
    expect(problems(() => parse('dtype: float32\nbf16: true\n'))[0]).toContain('keep one of them');
    const stronger = parse('bf16: true\n', { flags: { dtype: 'float32' } });
    expect(stronger.values).toMatchObject({ dtype: 'float32', bf16: false });
    expect(stronger.notices).toEqual(['"dtype" says float32 and "bf16" says bfloat16; --dtype wins']);
  });

  it('between keys: method, checkpointing, schedule', () => {
    expect(problems(() => parse('train_from_scratch: true\n'))[0]).toContain('needs finetuning_type: full');
    expect(problems(() => parse('finetuning_type: full\nadapter_name_or_path: a\n'))[0]).toContain('needs finetuning_type: lora');
    expect(problems(() => parse('adapter_name_or_path: a,b\n'))[0]).toContain('one adapter');
    expect(problems(() => parse('lora_target: all,q_proj\n'))[0]).toContain('not both');
    expect(parse('finetuning_type: full\nlora_rank: 4\n').notices[0]).toContain('lora_rank: no effect');
    expect(parse('disable_gradient_checkpointing: false\n').values.gradient_checkpointing).toBe(true);
    expect(parse('disable_gradient_checkpointing: true\n').values.gradient_checkpointing).toBe(false);
    expect(problems(() => parse('gradient_checkpointing: true\ndisable_gradient_checkpointing: true\n'))[0]).toContain(
      'contradict',
    );
    expect(parse('lr_scheduler_type: constant\nwarmup_steps: 3\n').notices[0]).toContain('constant_with_warmup');
    expect(parse('warmup_ratio: 0.1\nwarmup_steps: 3\n').notices[0]).toContain('warmup_steps replaces');
    expect(parse('max_steps: 3\nnum_train_epochs: 2\n').notices).toEqual(['max_steps replaces num_train_epochs']);
    expect(parse('min_loss_scale: 2\n').notices[0]).toContain('no effect unless dtype is float16');
    expect(parse('fp16: true\nmin_loss_scale: 1e-10\n')).toMatchObject({ values: { min_loss_scale: 1e-10 }, notices: [] });
  });
});

describe('command line', () => {
  it('is split into flags, overrides and the rest', () => {
    const argv = [
      'r.yaml',
      '--plot-loss',
      '--lora_rank=3',
      '--max-steps',
      '-1',
      'seed=3',
      '--dry-run',
      '--no-fp16',
      '--bf16',
      'false',
      '--resume-from-checkpoint',
      '--json',
      'a/b=c.yaml',
    ];
    expect(parseRecipeArguments(argv)).toEqual({
      overrides: { seed: '3' },
      flags: { plot_loss: true, lora_rank: '3', max_steps: '-1', fp16: false, bf16: 'false', resume_from_checkpoint: true },
      rest: ['r.yaml', '--dry-run', '--json', 'a/b=c.yaml'],
    });
  });

  it('reports a flag without its value', () => {
    const { flags } = parseRecipeArguments(['--learning-rate', '--fp16']);
    expect(problems(() => parse('', { flags }))).toEqual([
      '--learning-rate: "learning_rate" must be a number at least 0, got ""',
    ]);
  });
});

describe('paths', () => {
  let folder = '';
  beforeAll(() => {
    folder = mkdtempSync(path.join(tmpdir(), 'nift-recipe-'));
    for (const name of ['work/model', 'work/data', 'recipes/model', 'recipes/only', 'recipes/data'])
      mkdirSync(path.join(folder, name), { recursive: true });
    writeFileSync(path.join(folder, 'recipes/train.yaml'), 'model_name_or_path: only\ndataset: d\noutput_dir: only\n');
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  it('are relative to the current directory, then to the recipe', () => {
    const file = path.join(folder, 'recipes/train.yaml');
    const cwd = path.join(folder, 'work');
    const { values } = parseRecipe({ path: file, env: {}, cwd });
    expect(values.model_name_or_path).toBe(path.join(folder, 'recipes/only'));
    expect(values.dataset_dir).toBe('data');
    expect(values.output_dir).toBe('only');
    expect(parseRecipe({ path: file, env: {}, cwd, flags: { model_name_or_path: 'model' } }).values.model_name_or_path).toBe(
      'model',
    );
    expect(parseRecipe({ path: file, env: {}, cwd: folder }).values.dataset_dir).toBe(path.join(folder, 'recipes/data'));
  });
});
