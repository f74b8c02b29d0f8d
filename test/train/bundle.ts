/** Bundles a TypeScript entry so that a plain `node` can run it, with every module still believing in its own place. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'esbuild';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..', '..');

/** @returns the file to run; it lies below node_modules, where packages resolve from */
export async function bundle(entry: string): Promise<string> {
  const outfile = path.join(root, 'node_modules', '.cache', 'nift-test', `${path.basename(entry, '.ts')}-${process.pid}.mjs`);
  await build({
    entryPoints: [entry],
    bundle: true,
    platform: 'node',
    format: 'esm',
    packages: 'external',
    outfile,
    plugins: [
      {
        name: 'own-place',
        setup: (builder) => {
          builder.onLoad({ filter: /\/(src|test|bench)\/.*\.ts$/ }, ({ path: file }) => ({
            contents: readFileSync(file, 'utf8').replaceAll('import.meta.url', JSON.stringify(pathToFileURL(file).href)),
            loader: 'ts',
          }));
        },
      },
    ],
  });
  return outfile;
}
