/**
 * The addon's mapping: bad arguments are errors, and the mapping goes when the handle and the last view are gone. A leak here would pin
 * gigabytes of address space per model that was loaded and dropped.
 */
import { closeSync, openSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import v8 from 'node:v8';
import vm from 'node:vm';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { addon } from '../../src/backend/addon.js';
import { openSafetensors } from '../../src/formats/safetensors.js';
import { writeSafetensors } from '../../src/formats/safetensorsWriter.js';
import { tempFolder } from './tempFolder.js';

const folder = tempFolder();
const native = addon();

v8.setFlagsFromString('--expose-gc');
const collect = vm.runInNewContext('gc') as () => void;

const mappingsOf = (file: string): number => readFileSync('/proc/self/maps', 'utf8').split(`${file}\n`).length - 1;

/** Finalizers of array buffers run some time after the collection. */
async function collected(done: () => boolean, rounds = 50): Promise<boolean> {
  for (let i = 0; i < rounds && !done(); i++) {
    collect();
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return done();
}

describe.skipIf(!native)('mapFile', () => {
  const file = path.join(folder, 'plain');
  writeFileSync(file, Buffer.from('0123456789'));
  const open = (): object => {
    const fd = openSync(file, 'r');
    try {
      return native!.mapFile(fd, 10);
    } finally {
      closeSync(fd);
    }
  };

  it('gives views that share the mapping and live on', () => {
    const handle = open();
    const view = new Uint8Array(native!.mapView(handle, 2, 3));
    const same = new Uint8Array(native!.mapView(handle, 2, 3));
    view[0] = 0x78;
    expect(Buffer.from(same).toString()).toBe('x34');
    native!.unmapFile(handle);
    native!.unmapFile(handle);
    expect(Buffer.from(view).toString()).toBe('x34');
    expect(readFileSync(file, 'utf8')).toBe('0123456789');
    expect(() => native!.mapView(handle, 0, 1)).toThrow(/closed/);
  });

  it('refuses what lies outside and what is no handle', () => {
    const handle = open();
    for (const [offset, length] of [[0, 11], [11, 0], [5, 6], [2 ** 53 - 1, 1], [1, 2 ** 53 - 1]] as const) expect(() => native!.mapView(handle, offset, length)).toThrow(/outside/); // prettier-ignore
    expect(native!.mapView(handle, 10, 0).byteLength).toBe(0);
    for (const [offset, length] of [[-1, 1], [0.5, 1], [NaN, 1], [2 ** 53, 1]] as const) expect(() => native!.mapView(handle, offset, length)).toThrow(RangeError); // prettier-ignore
    for (const wrong of [{}, null, 7, 'x', [], () => 0]) {
      expect(() => native!.mapView(wrong as object, 0, 1)).toThrow(/expected a handle of mapFile/);
      expect(() => native!.unmapFile(wrong as object)).toThrow(TypeError);
    }
    native!.unmapFile(handle);
  });

  it('refuses descriptors and sizes that are not there', () => {
    const fd = openSync(file, 'r');
    expect(() => native!.mapFile(fd, 11)).toThrow(/shorter/);
    expect(() => native!.mapFile(fd, 0)).toThrow(/empty/);
    expect(() => native!.mapFile(fd, 2 ** 50)).toThrow(/shorter/);
    closeSync(fd);
    expect(() => native!.mapFile(999_999, 10)).toThrow(/fstat/);
    expect(() => native!.mapFile(-1, 10)).toThrow(RangeError);
  });

  it.skipIf(process.platform !== 'linux')('unmaps after the last view, not before, and never leaks', async () => {
    const name = path.join(folder, 'w.safetensors');
    writeSafetensors(name, [{ name: 'x', dtype: 'F32', shape: [4096], data: new Float32Array(4096).fill(3) }]);
    const descriptors = (): number => readdirSync('/proc/self/fd').length;
    const before = descriptors();
    let kept: Float32Array | null = openAndDrop(name);
    expect(await collected(() => mappingsOf(name) === 0, 8)).toBe(false);
    expect(mappingsOf(name)).toBe(1);
    expect(kept[4095]).toBe(3);
    kept = null;
    expect(await collected(() => mappingsOf(name) === 0)).toBe(true);
    for (let i = 0; i < 200; i++) openAndDrop(name);
    expect(await collected(() => mappingsOf(name) === 0)).toBe(true);
    expect(descriptors()).toBeLessThanOrEqual(before + 5);
  });

  it('works in worker threads that end while views are alive', async () => {
    const name = path.join(folder, 'w2.safetensors');
    writeSafetensors(name, [{ name: 'x', dtype: 'U8', shape: [4096], data: new Uint8Array(4096) }]);
    const code = `
      const addon = require(${JSON.stringify(path.resolve('build/Release/nift.node'))});
      const fs = require('node:fs');
      const fd = fs.openSync(${JSON.stringify(name)});
      const handle = addon.mapFile(fd, 4096);
      globalThis.views = [addon.mapView(handle, 0, 100), addon.mapView(handle, 100, 100)];
      require('node:worker_threads').parentPort.postMessage(globalThis.views[0].byteLength);`;
    for (let i = 0; i < 2; i++) {
      const worker = new Worker(code, { eval: true });
      expect(await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))).toBe(100);
      await worker.terminate();
    }
    if (process.platform === 'linux') expect(mappingsOf(name)).toBe(0);
  });

  it.skipIf(process.platform !== 'linux')('unmaps at once when no view was taken', () => {
    const name = path.join(folder, 'w3.safetensors');
    writeSafetensors(name, [{ name: 'x', dtype: 'U8', shape: [9], data: new Uint8Array(9) }]);
    const opened = openSafetensors(name);
    expect([opened.mapped, mappingsOf(name)]).toEqual([true, 1]);
    opened.close();
    expect(mappingsOf(name)).toBe(0);
  });

  function openAndDrop(name: string): Float32Array {
    const opened = openSafetensors(name);
    const values = opened.readFloat32('x');
    opened.close();
    return values;
  }
});
