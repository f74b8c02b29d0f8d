/** What the README shows must work: every command's flags exist, the recipe parses, the library example runs. */
import { mkdtempSync, readFileSync, rmSync, symlinkSync, mkdirSync, writeFileSync } from 'node:fs';
import { execFileSync } from 'node:child_process';
import os from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseRecipe } from '../src/config/recipe.js';
import { nift, root } from './cli/run.js';
import { hasShared, shared } from './golden.js';

const readme = readFileSync(path.join(root, 'README.md'), 'utf8');
const blocks = [...readme.matchAll(/```(\w+)\n([\s\S]*?)```/g)].map(([, language, text]) => ({ language, text: text! }));
const inline = [...readme.matchAll(/`((?:npx )?nift [^`\n]+)`/g)].map(([, command]) => command!);
const fenced = blocks.filter(({ language }) => language === 'bash').flatMap(({ text }) => text.trim().split('\n'));
const manifest = JSON.parse(readFileSync(path.join(root, 'package.json'), 'utf8')) as { scripts: Record<string, string> };

describe('README', () => {
  it('names commands and flags that exist', async () => {
    const commands = [...inline, ...fenced.flatMap((line) => line.split('&&'))]
      .map((command) => command.trim().replace(/^npx /, ''))
      .filter((command) => command.startsWith('nift '));
    expect(commands.length).toBeGreaterThan(5);
    for (const command of new Set(commands)) {
      const [, name = '', ...rest] = command.replaceAll(/[[\]]/g, '').split(/\s+/);
      const { code, stdout } = await nift([name, '--help']);
      expect(code, command).toBe(0);
      for (const flag of rest.filter((word) => word.startsWith('--'))) expect(stdout, command).toContain(flag);
    }
  });

  it('names npm scripts that exist', () => {
    for (const line of [...fenced, readFileSync(path.join(root, 'CONTRIBUTING.md'), 'utf8')])
      for (const [, script] of line.matchAll(/npm run ([\w:-]+)/g)) expect(manifest.scripts).toHaveProperty([script!]);
  });

  it('shows a recipe that is read without a problem', () => {
    const { text } = blocks.find(({ language }) => language === 'yaml')!;
    const recipe = parseRecipe({ text, path: 'recipe.yaml', env: {} });
    expect(recipe.values.learning_rate).toBe(5e-5);
    expect(recipe.notices).toEqual([]);
  });

  it.skipIf(!hasShared)('shows a library example that runs', () => {
    const { text } = blocks.find(({ language }) => language === 'ts')!;
    const folder = mkdtempSync(path.join(os.tmpdir(), 'nift-readme-'));
    mkdirSync(path.join(folder, 'node_modules'));
    symlinkSync(root, path.join(folder, 'node_modules', 'nift'));
    const code = text.replace(/'models\/[^']+'/, JSON.stringify(shared('models', 'stories260k')));
    expect(code).not.toBe(text);
    writeFileSync(path.join(folder, 'example.mjs'), code);
    const output = execFileSync(process.execPath, ['example.mjs'], { cwd: folder, encoding: 'utf8' });
    rmSync(folder, { recursive: true });
    expect(output).toContain('there was a little girl');
  });
});
