// Makes the demo's base model from nothing: node examples/demo/makeBase.mjs (from the repository's root, after npm ci)
// Tokenizer, training text, training (minutes), and the result into examples/demo/base.
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync } from 'node:fs';
import path from 'node:path';

const here = import.meta.dirname;
const run = (...args) => {
  const { status } = spawnSync(process.execPath, args, { stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
};

run(path.join(here, 'makeTokenizer.mjs'));
run(path.join(here, 'makeBaseData.mjs'));
run(path.join(here, '..', '..', 'bin', 'nift.mjs'), 'train', path.join(here, 'base.yaml'), ...process.argv.slice(2));
mkdirSync(path.join(here, 'base'), { recursive: true });
for (const name of ['config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'])
  copyFileSync(path.join('tmp', 'demo-base', name), path.join(here, 'base', name));
console.log('examples/demo/base is new');
