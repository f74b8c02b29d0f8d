/** Folders where output goes: made with their parents, or refused at once. */
import { existsSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { makeFolder } from '../../src/formats/io.js';
import { tempFolder } from './tempFolder.js';

describe('makeFolder', () => {
  it('makes all parents, and says nothing when they are there', () => {
    const folder = path.join(tempFolder(), 'a', 'b', 'c');
    makeFolder(folder);
    makeFolder(folder);
    expect(existsSync(folder)).toBe(true);
  });

  it('fails below a file', () => {
    const file = path.join(tempFolder(), 'file');
    writeFileSync(file, '');
    expect(() => makeFolder(path.join(file, 'a', 'b'))).toThrow('ENOTDIR');
  });

  // fs.mkdirSync with `recursive` runs for ever here.
  it.skipIf(!existsSync('/proc/self'))('fails where the system allows none', () => {
    expect(() => makeFolder('/proc/nift/out')).toThrow('ENOENT');
  });
});
