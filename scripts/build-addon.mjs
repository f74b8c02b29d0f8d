// Builds the native addon with node-gyp. `--debug` adds ASan and UBSan. A lock serialises concurrent builds.
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
const nodeGyp = createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js');

/** Runs node-gyp; returns its exit status and output. */
export function buildAddon({ debug = false, quiet = false } = {}) {
  const args = [nodeGyp, 'configure', 'build', debug ? '--debug' : '--release', `--jobs=${os.availableParallelism()}`];
  if (quiet) args.push('--loglevel=error');
  const result = spawnSync(process.execPath, args, {
    cwd: root,
    stdio: quiet ? 'pipe' : 'inherit',
    encoding: 'utf8',
    maxBuffer: 1 << 28,
  });
  return { status: result.status ?? 1, output: `${result.stdout ?? ''}${result.stderr ?? ''}` };
}

if (process.argv[1] === fileURLToPath(import.meta.url))
  process.exit(buildAddon({ debug: process.argv.includes('--debug') }).status);
