/** Whole or not at all: every system call of a write fails in turn, a process is killed, the disk is full. */
import { spawnSync } from 'node:child_process';
import * as realFs from 'node:fs';
import path from 'node:path';
import { buildSync } from 'esbuild';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { NiftError } from '../../src/errors.js';
import { atomicFile, atomicFolder, atomicFolderSync, sha256File } from '../../src/formats/atomic.js';
import { Journal } from '../../src/formats/jsonl.js';
import { tempFolder } from './tempFolder.js';

/** Counts down; the call that reaches zero fails with `code`. */
const fault = vi.hoisted(() => ({ countdown: Infinity, code: 'EIO', torn: false }));

vi.mock('node:fs', async (original) => {
  const fs = await original<typeof realFs>();
  const failing =
    <A extends unknown[], R>(call: (...args: A) => R, syscall: string) =>
    (...args: A): R => {
      if (--fault.countdown === 0) {
        // A write that fails half way.
        if (fault.torn && syscall === 'write') fs.writeSync(args[0] as number, (args[1] as Uint8Array).subarray(0, 3));
        throw Object.assign(new Error(`${fault.code}: injected, ${syscall}`), { code: fault.code, syscall });
      }
      return call(...args);
    };
  return {
    ...fs,
    openSync: failing(fs.openSync, 'open'),
    writeSync: failing(fs.writeSync as (fd: number, data: Uint8Array) => number, 'write'),
    fsyncSync: failing(fs.fsyncSync, 'fsync'),
    renameSync: failing(fs.renameSync, 'rename'),
    mkdirSync: failing(fs.mkdirSync as (name: string) => string | undefined, 'mkdir'),
  };
});

const folder = tempFolder();
const at = (name: string): string => path.join(folder, name);
const read = (file: string): string => realFs.readFileSync(file, 'utf8');
const leftovers = (dir = folder): string[] => realFs.readdirSync(dir).filter((name) => /\.(tmp|old)-/.test(name));

afterEach(() => {
  fault.countdown = Infinity;
  fault.code = 'EIO';
});

/** Runs `action` with its first, second, third ... system call failing, until one run needs no more calls. */
function failEachCall(action: () => void, check: (failed: boolean, error: unknown) => void): number {
  for (let n = 1; ; n++) {
    fault.countdown = n;
    let error: unknown;
    try {
      action();
    } catch (caught) {
      error = caught;
    }
    const reached = fault.countdown <= 0;
    fault.countdown = Infinity;
    check(reached, error);
    if (!reached) return n - 1;
  }
}

describe('atomicFile', () => {
  it('writes text, bytes and streams', () => {
    atomicFile(at('text'), 'grüße');
    atomicFile(at('bytes'), new Uint8Array([1, 2]));
    atomicFile(at('stream'), (fd) => void realFs.writeSync(fd, 'x'));
    expect([read(at('text')), realFs.statSync(at('bytes')).size, read(at('stream'))]).toEqual(['grüße', 2, 'x']);
    expect(sha256File(at('stream'))).toBe('2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881');
  });

  it('leaves the old content or the new one whichever system call fails', () => {
    let version = 0;
    atomicFile(at('file'), 'version 0');
    let last = 'version 0';
    const calls = failEachCall(
      () => atomicFile(at('file'), `version ${++version}`),
      (_, error) => {
        const found = read(at('file'));
        expect([last, `version ${version}`]).toContain(found);
        if (!error) expect(found).toBe(`version ${version}`);
        else expect(error).toBeInstanceOf(NiftError);
        expect(leftovers()).toEqual([]);
        last = found;
      },
    );
    expect(calls).toBeGreaterThanOrEqual(5);
  });

  it.each(['ENOSPC', 'EDQUOT'])('calls %s a full disk', (code) => {
    fault.code = code;
    failEachCall(
      () => atomicFile(at('full'), 'x'),
      (failed, error) => {
        if (failed && error) expect(error).toMatchObject({ code: 'NIFT_DISK_FULL', exitCode: 1 });
      },
    );
  });

  it('passes the errors of the caller through', () => {
    expect(() => atomicFile(at('own'), () => { throw new TypeError('mine'); })).toThrow(TypeError); // prettier-ignore
    expect(realFs.existsSync(at('own'))).toBe(false);
  });

  it('says which folder is missing', () => {
    expect(() => atomicFile(at('no/such/file'), '')).toThrow(expect.objectContaining({ code: 'NIFT_FILE_NOT_FOUND' }) as Error);
  });

  it('removes what a dead process left, and nothing else', () => {
    const dead = spawnSync(process.execPath, ['-e', '0']).pid;
    for (const name of [`f.tmp-${dead}`, `f.tmp-${process.ppid}`, `g.tmp-${dead}`, 'f.tmp-x']) realFs.writeFileSync(at(name), '');
    atomicFile(at('f'), 'new');
    expect(leftovers().sort()).toEqual([`f.tmp-${process.ppid}`, 'f.tmp-x', `g.tmp-${dead}`].sort());
    for (const name of leftovers()) realFs.rmSync(at(name));
  });
});

describe('atomicFolder', () => {
  const fill = (content: string) => (dir: string) => {
    realFs.writeFileSync(path.join(dir, 'a'), content);
    realFs.mkdirSync(path.join(dir, 'sub'));
    realFs.writeFileSync(path.join(dir, 'sub', 'b'), content);
  };

  it('makes a folder, parents included, and refuses to fill one that holds something', async () => {
    expect(await atomicFolder(at('new/deep'), async (dir) => (fill('1')(dir), 'result'))).toBe('result');
    expect(read(at('new/deep/sub/b'))).toBe('1');
    await expect(atomicFolder(at('new/deep'), fill('2'))).rejects.toMatchObject({ code: 'NIFT_OUTPUT_DIR' });
    await atomicFolder(at('new/deep'), fill('3'), { replace: true });
    expect(read(at('new/deep/a'))).toBe('3');
    realFs.mkdirSync(at('empty'));
    await atomicFolder(at('empty'), fill('4'));
    expect(read(at('empty/a'))).toBe('4');
    expect([...leftovers(), ...leftovers(at('new'))]).toEqual([]);
  });

  it('leaves nothing when filling fails', async () => {
    await expect(
      atomicFolder(at('failed'), (dir) => {
        fill('1')(dir);
        throw new TypeError('mine');
      }),
    ).rejects.toThrow(TypeError);
    expect(realFs.existsSync(at('failed'))).toBe(false);
    expect(leftovers()).toEqual([]);
  });

  it('holds the old content or the new one whichever system call fails', () => {
    let version = 0;
    atomicFolderSync(at('state'), fill('0'));
    let last = '0';
    const calls = failEachCall(
      () => atomicFolderSync(at('state'), fill(String(++version)), { replace: true }),
      (_, error) => {
        const found = read(at('state/a'));
        expect([last, String(version)]).toContain(found);
        expect(read(at('state/sub/b'))).toBe(found);
        if (!error) expect(found).toBe(String(version));
        last = found;
        // The new folder stands although syncing its parent failed: the old one may lie beside it until the next write.
        expect(leftovers().filter((name) => name.includes('.tmp-'))).toEqual([]);
      },
    );
    expect(leftovers()).toEqual([]);
    expect(calls).toBeGreaterThanOrEqual(10);
  });

  it('puts the old folder back when a process died between the two renames', () => {
    const dead = spawnSync(process.execPath, ['-e', '0']).pid;
    realFs.mkdirSync(at(`lost.old-${dead}`));
    realFs.writeFileSync(at(`lost.old-${dead}/a`), 'old');
    expect(() => atomicFolderSync(at('lost'), () => undefined)).toThrow(
      expect.objectContaining({ code: 'NIFT_OUTPUT_DIR' }) as Error,
    );
    expect(read(at('lost/a'))).toBe('old');
  });
});

describe('Journal', () => {
  it('takes back half a row when the disk is full', () => {
    const journal = Journal.open<number>(at('journal'));
    journal.append(1);
    fault.code = 'ENOSPC';
    fault.torn = true;
    fault.countdown = 1;
    expect(() => journal.append(22222)).toThrow(expect.objectContaining({ code: 'NIFT_DISK_FULL' }) as Error);
    fault.torn = false;
    journal.append(3);
    journal.close();
    expect(read(at('journal'))).toBe('1\n3\n');
  });
});

describe('a real process', () => {
  const bundle = at('bundle.mjs');
  buildSync({
    stdin: {
      contents: `export * from './src/formats/atomic.js'; export * from './src/formats/safetensorsWriter.js';`,
      resolveDir: path.resolve(import.meta.dirname, '../..'),
    },
    bundle: true,
    platform: 'node',
    format: 'esm',
    outfile: bundle,
    logLevel: 'error',
  });
  const run = (script: string, limit = 'unlimited'): ReturnType<typeof spawnSync> =>
    spawnSync('sh', ['-c', `ulimit -f ${limit}; exec "$0" --input-type=module -e "$1"`, process.execPath, `import * as nift from ${JSON.stringify(bundle)};${script}`], { encoding: 'utf8' }); // prettier-ignore

  it.skipIf(process.platform === 'win32')('meets the file size limit and leaves nothing', () => {
    const target = at('limit/model.safetensors');
    realFs.mkdirSync(at('limit'));
    const result = run(
      `try { nift.writeSafetensors(${JSON.stringify(target)}, [1, 2, 3].map((i) => ({ name: 't' + i, dtype: 'U8', shape: [300000], data: new Uint8Array(300000) }))); console.log('written') }
       catch (error) { console.log(error.code) }`,
      '1000',
    );
    expect(String(result.stdout).trim()).toBe('NIFT_DISK_FULL');
    expect(realFs.readdirSync(at('limit'))).toEqual([]);
  });

  it('killed while writing, leaves the old file, and the next write cleans up', () => {
    const target = at('killed');
    atomicFile(target, 'old');
    const result = run(`nift.atomicFile(${JSON.stringify(target)}, () => process.kill(process.pid, 'SIGKILL'))`);
    expect(result.signal).toBe('SIGKILL');
    expect(read(target)).toBe('old');
    expect(leftovers()).toEqual([`killed.tmp-${result.pid}`]);
    atomicFile(target, 'new');
    expect([read(target), leftovers()]).toEqual(['new', []]);
  });
});
