/** The first mistakes of a user: each must end with exit code 2, one clear line on stderr and nothing on stdout. */
import { describe, expect, it } from 'vitest';
import { nift } from './run.js';

const mistakes: [name: string, args: string[], says: RegExp][] = [
  ['misspelled command', ['trian'], /Did you mean train/],
  ['misspelled flag of a command', ['generate', '--modl', 'x'], /Did you mean --model/],
  ['missing option', ['score', '--input', 'x.jsonl'], /--model/],
  ['recipe that is not there', ['train', 'nope.yaml'], /\[NIFT_FILE_NOT_FOUND\] nope.yaml/],
  ['no recipe', ['train'], /needs a recipe: nift train RECIPE\.yaml/],
  ['unknown recipe key', ['train', '--lora-rnak', '8'], /unknown key "lora-rnak"\. Did you mean "lora_rank"/],
  ['two recipes', ['train', 'a.yaml', 'b.yaml'], /takes one recipe, got also "b.yaml"/],
  ['model folder that is not there', ['generate', '--model', '/nonexistent', '--prompt', 'x'], /\/nonexistent: no such folder/],
  ['neither prompt nor input', ['generate', '--model', '.'], /either --prompt TEXT or --input/],
  ['unknown dtype', ['generate', '--model', '.', '--prompt', 'x', '--dtype', 'int8'], /bfloat16/],
  ['number that is none', ['generate', '--model', '.', '--prompt', 'x', '--max-new-tokens', 'many'], /whole number/],
  ['folder without a checkpoint', ['generate', '--model', 'src', '--prompt', 'x'], /config\.json/],
  ['unknown template', ['chat', '--model', '.', '--template', 'vanila'], /Did you mean "vanilla"/],
  ['nothing to inspect', ['inspect', '/nonexistent'], /\/nonexistent/],
];

describe('mistakes', () => {
  it.each(mistakes)('%s', async (_name, args, says) => {
    const { code, stdout, stderr } = await nift(args);
    expect(stderr).toMatch(says);
    expect(stderr).not.toMatch(/NIFT_INTERNAL|\n\s+at /);
    expect(stdout).toBe('');
    expect(code).toBe(2);
  });
});

describe('help and doctor', () => {
  it('prints help with exit code 0', async () => {
    for (const args of [[], ['--help'], ['train', '--help']]) {
      const { code, stdout } = await nift(args);
      expect(code).toBe(0);
      expect(stdout).toContain('Usage: nift');
    }
  });

  it('lists every recipe key as a flag', async () => {
    const { recipeKeys } = await import('../../src/config/recipe.js');
    const { stdout } = await nift(['train', '--help']);
    for (const key of recipeKeys()) if (!key.noticed && !key.refused) expect(stdout).toContain(key.flag);
  });

  it('doctor --json is one JSON document', async () => {
    const { code, stdout } = await nift(['doctor', '--json']);
    expect(code).toBe(0);
    const report = JSON.parse(stdout) as { nift: string; addon: { loaded: boolean }; problems: string[] };
    expect(report.nift).toMatch(/^\d+\.\d+\.\d+/);
    expect(report.addon.loaded || report.problems.length > 0).toBe(true);
  });

  it('doctor says how to get the addon when it is absent', async () => {
    const { stdout } = await nift(['doctor'], { env: { NIFT_NO_ADDON: '1' } });
    expect(stdout).toContain('npm run build:addon');
  });
});
