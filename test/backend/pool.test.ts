import { describe, expect, it } from 'vitest';
import { addon } from '../../src/backend/addon.js';
import { BufferPool, classBytes } from '../../src/backend/pool.js';

describe('BufferPool', () => {
  it('rounds sizes up by at most an eighth', () => {
    for (const bytes of [1024, 1025, 4095, 4096, 4097, 1e6, 123456789]) {
      expect(classBytes(bytes)).toBeGreaterThanOrEqual(bytes);
      expect(classBytes(bytes)).toBeLessThanOrEqual(bytes * 1.13);
      expect(classBytes(bytes) % 64).toBe(0);
      expect(classBytes(classBytes(bytes))).toBe(classBytes(bytes));
    }
  });

  it('gives a returned buffer out again, to the same size class only', () => {
    const pool = new BufferPool();
    const first = pool.take(5000);
    pool.give(first);
    expect(pool.idleBytes).toBe(first.byteLength);
    expect(pool.take(50_000)).not.toBe(first);
    expect(pool.take(4990)).toBe(first);
    expect(pool.take(5000)).not.toBe(first);
    expect(pool.idleBytes).toBe(0);
  });

  it('keeps what a repeating step needs, and lets go of sizes that nobody asks for any more', () => {
    const pool = new BufferPool();
    const megabyte = 2 ** 20;
    const step = (bytes: number): Set<ArrayBuffer> => {
      const buffers = Array.from({ length: 64 }, () => pool.take(bytes));
      for (const buffer of buffers) pool.give(buffer);
      return new Set(buffers);
    };
    const first = step(4 * megabyte);
    expect([...step(4 * megabyte)].every((buffer) => first.has(buffer))).toBe(true);
    // Another size: both together do not fit the high-water mark, so the older one goes.
    for (let i = 0; i < 3; i++) step(3 * megabyte);
    expect(pool.idleBytes).toBeLessThan(330 * megabyte);
    for (let size = 100; size < 200; size++) pool.give(pool.take((size * megabyte) / 50));
    expect(pool.idleBytes).toBeLessThan(330 * megabyte);
    pool.clear();
    expect(pool.idleBytes).toBe(0);
  });

  it('takes its memory from the allocator that it is given, once per buffer', () => {
    const sizes: number[] = [];
    const pool = new BufferPool((bytes) => {
      sizes.push(bytes);
      return addon()?.alignedBuffer(bytes) ?? new ArrayBuffer(bytes);
    });
    for (const bytes of [2000, 3 * 2 ** 20 + 5]) {
      const buffer = pool.take(bytes);
      expect(buffer.byteLength).toBe(classBytes(bytes));
      new Uint8Array(buffer).fill(7); // all of it is memory
      pool.give(buffer);
      expect(pool.take(bytes)).toBe(buffer);
    }
    expect(sizes).toEqual([2000, 3 * 2 ** 20 + 5].map(classBytes));
  });

  it('never sees a lost buffer again', () => {
    const pool = new BufferPool();
    const buffer = pool.take(2048);
    pool.lose(buffer);
    expect(pool.take(2048)).not.toBe(buffer);
    expect(pool.idleBytes).toBe(0);
  });
});
