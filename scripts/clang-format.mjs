// Formats (--write) or checks (--check) every C++ and CUDA source with the pinned clang-format package.
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const clangFormat = createRequire(import.meta.url).resolve('clang-format/index.js');
const files = ['native', 'kernels']
  .flatMap((folder) =>
    readdirSync(path.join(root, folder), { recursive: true }).map((name) => path.join(root, folder, String(name))),
  )
  .filter((file) => /\.(cpp|h|cu|cuh)$/.test(file));
const mode = process.argv.includes('--write') ? ['-i'] : ['--dry-run', '-Werror'];
const result = spawnSync(process.execPath, [clangFormat, ...mode, ...files], { cwd: root, stdio: 'inherit' });
process.exit(result.status ?? 1);
