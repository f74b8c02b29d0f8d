// Bundles a TypeScript entry so that a plain `node` can run it, with every module still believing in its own place
// (files are found relative to import.meta.url). The result lies below node_modules, where packages resolve from.
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'esbuild';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');

/**
 * @param {string} entry path of a .ts file
 * @returns {Promise<string>} the file to run
 */
export async function bundle(entry) {
  const outfile = path.join(root, 'node_modules', '.cache', 'nift', `${path.basename(entry, '.ts')}-${process.pid}.mjs`);
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
