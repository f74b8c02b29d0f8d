// npm run bench -- NAME [arguments]: bundles bench/NAME.ts and runs it in a fresh process. Without a name: what there is.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { bundle } from '../scripts/bundle.mjs';

const folder = path.dirname(fileURLToPath(import.meta.url));
const [name, ...args] = process.argv.slice(2);
const entry = path.join(folder, `${name}.ts`);
if (name === undefined || !existsSync(entry)) {
  const names = readdirSync(folder).filter((file) => file.endsWith('.ts'));
  console.error(
    `usage: npm run bench -- NAME [arguments], NAME one of: ${names.map((file) => path.basename(file, '.ts')).join(', ')}`,
  );
  console.error('Each file says in its header what it measures and which arguments it takes.');
  process.exit(2);
}
mkdirSync(path.join(folder, 'results'), { recursive: true });
const file = await bundle(entry);
const { status } = spawnSync(process.execPath, [file, ...args], { stdio: 'inherit', cwd: path.join(folder, '..') });
rmSync(file, { force: true });
process.exit(status ?? 1);
