// npm's install step. It never fails: without a compiler nift runs on composed TF.js ops and says so once.
import { existsSync, rmSync, symlinkSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildAddon } from './build-addon.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');

/** In a checkout `npx nift` would pack and install the project anew each time; a link to its own command ends that. */
function linkOwnCommand() {
  const folder = path.join(root, 'node_modules', '.bin');
  if (!existsSync(folder) || process.platform === 'win32') return;
  const link = path.join(folder, 'nift');
  rmSync(link, { force: true });
  symlinkSync(path.join('..', '..', 'bin', 'nift.mjs'), link);
}

try {
  linkOwnCommand();
} catch (error) {
  console.log(`nift: npx nift will be slow (${error.message}).`);
}

if (process.env.NIFT_SKIP_ADDON === '1') {
  console.log('nift: native addon skipped (NIFT_SKIP_ADDON=1); composed TF.js ops will be used.');
} else {
  const { status, output } = buildAddon({ quiet: true });
  if (status === 0) console.log('nift: native addon built.');
  else {
    console.log(output.split('\n').slice(-15).join('\n'));
    console.log('nift: the native addon was not built, so nift will run on composed TF.js ops, many times slower.');
    console.log('nift: to get it, install a C++17 compiler, make and python3, then run: npm run build:addon');
  }
}
