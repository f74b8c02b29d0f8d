/** Environment variables that set recipe keys: NIFT_<KEY>. The backend's own switches are read in src/backend/addon.ts. */
import { KEY_NAMES } from './keys.js';
import type { KeyName } from './keys.js';

export const environmentName = (key: KeyName): string => `NIFT_${key.toUpperCase()}`;

/** The keys that the environment sets; an empty variable counts as unset. */
export function recipeEnvironment(env: NodeJS.ProcessEnv = process.env): Partial<Record<KeyName, string>> {
  const found: Partial<Record<KeyName, string>> = {};
  for (const key of KEY_NAMES) {
    const value = env[environmentName(key)];
    if (value !== undefined && value !== '') found[key] = value;
  }
  return found;
}

/** NIFT_CHECK=1: search every kernel's outputs for NaN and infinity. */
export function checkKernels(env: NodeJS.ProcessEnv = process.env): boolean {
  return env['NIFT_CHECK'] === '1';
}
