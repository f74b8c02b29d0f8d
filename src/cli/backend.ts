/** Starts a backend and says once what it lacks. */
import { addon, addonFailure } from '../backend/addon.js';
import { useBackend } from '../backend/index.js';
import { warn } from './io.js';

let told = false;

export async function startBackend(name: string, threads?: number): Promise<void> {
  await useBackend(name, threads === undefined ? {} : { threads });
  if (name !== 'native' || addon() || told) return;
  told = true;
  warn(`the native addon is not in use (${addonFailure()}); composed TF.js ops run instead, many times slower.`);
  warn('to build it, install a C++17 compiler, make and python3, then run: npm run build:addon');
}
