// npm's install step. It never fails: without a compiler nift runs on composed TF.js ops and says so once.
import { buildAddon } from './build-addon.mjs';

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
