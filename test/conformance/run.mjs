// Runs tfjs-core's own published specs on stock `cpu` and on our backend; a spec that passes on `cpu` must pass on ours.
//   node test/conformance/run.mjs [--backend NAME] [--verbose]
import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { build } from 'esbuild';

const here = path.dirname(fileURLToPath(import.meta.url));
// Two levels below the root, like src/backend: the bundled src/backend/addon.ts finds the addon from there.
const folder = path.resolve(here, '..', '..', 'build', 'conformance');
const { values: options } = parseArgs({
  options: { backend: { type: 'string', default: 'native' }, verbose: { type: 'boolean' } },
});

async function bundleSpecs() {
  const outfile = path.join(folder, 'specs.mjs');
  await build({
    entryPoints: [path.join(here, 'specs.mjs')],
    outfile,
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node20',
    mainFields: ['module', 'main'],
    // One tfjs-core: specs, stock kernels and our sources all get its ES modules.
    alias: { '@tensorflow/tfjs': path.join(here, 'tfjs.mjs') },
    external: ['jasmine-core', 'node-fetch', '@tensorflow/tfjs-backend-wasm'],
    // The specs' side effects are declared away by tfjs-core's package.json.
    ignoreAnnotations: true,
    logLevel: 'error',
    banner: { js: "import { createRequire as nodeRequire } from 'node:module'; const require = nodeRequire(import.meta.url);" },
  });
  return outfile;
}

function runSpecs(bundle, backend, name = backend) {
  const output = path.join(folder, `${backend}-as-${name}.json`);
  rmSync(output, { force: true });
  const env = { ...process.env, NIFT_CONFORMANCE_BACKEND: backend, NIFT_CONFORMANCE_NAME: name };
  const child = spawn(process.execPath, [path.join(here, 'child.mjs'), bundle, output], {
    env,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let stderr = '';
  child.stderr.on('data', (chunk) => (stderr = (stderr + chunk).slice(-4000)));
  return new Promise((resolve, reject) => {
    child.on('exit', (code, signal) => {
      if (code === 0) resolve(JSON.parse(readFileSync(output, 'utf8')));
      else reject(new Error(`specs on "${backend}" ended with ${signal ?? `exit code ${code}`}:\n${stderr}`));
    });
  });
}

const count = (result, status) => Object.values(result.specs).filter((value) => value === status).length;

mkdirSync(folder, { recursive: true });
const started = Date.now();
const bundle = await bundleSpecs();
const backend = options.backend;
// Under its own name, and in the place of `cpu`, for which two specs are declared alone.
const [stock, ours] = await Promise.all([runSpecs(bundle, 'cpu'), runSpecs(bundle, backend)]);
const standIn = backend === 'cpu' ? ours : await runSpecs(bundle, backend, 'cpu');

const expected = Object.keys(stock.specs).filter((name) => stock.specs[name] === 'passed');
const broken = (result, name) => result.specs[name] !== 'passed';
const regressions = expected.filter((name) => broken(standIn, name) || (name in ours.specs && broken(ours, name)));
for (const name of regressions) {
  const failure = ours.failures[name] ?? standIn.failures[name] ?? 'not run';
  console.log(`REGRESSION ${name}`);
  console.log(
    `    ${failure
      .split('\n')
      .slice(0, options.verbose ? 40 : 3)
      .join('\n    ')}`,
  );
}
const summary = (name, result) => `${name} ${count(result, 'passed')} of ${Object.keys(result.specs).length}`;
const seconds = ((Date.now() - started) / 1000).toFixed(0);
const runs = [summary('cpu', stock), summary(backend, ours), summary(`${backend} as cpu`, standIn)].join(', ');
console.log(`conformance: ${runs}: ${regressions.length} regressions (${ours.isa}, ${seconds} s)`);
// tfjs-core 4.22 declares 4,232; far fewer means that nothing was tested.
const ran = Math.min(expected.length, count(ours, 'passed'));
if (ran < 4000) console.log(`Only ${ran} specs passed: the harness itself is broken.`);
if (regressions.length > 0 || ran < 4000) process.exitCode = 1;
