/** A folder that goes away after the test file. */
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterAll } from 'vitest';

export function tempFolder(): string {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'nift-test-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}
