/** Where the reference data lies (beside the checkout), and the one line that says when it is absent. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const SHARED = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..', '..', 'shared');
export const hasShared = existsSync(path.join(SHARED, 'golden'));
export const shared = (...parts: string[]): string => path.join(SHARED, ...parts);

if (!hasShared) console.warn(`skipped: reference data not found at ${SHARED}`);
