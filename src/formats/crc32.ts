/**
 * CRC-32 as in zip and gzip: what tells a damaged file from a sound one at the speed of memory. Of two parts' values the whole's
 * follows without reading them again, so blocks may be summed in any order and on any thread.
 */
import { closeSync, readSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import { guardIo, openForReading } from './io.js';

export { crc32 } from 'node:zlib';

const POLYNOMIAL = 0xedb88320;

/** a b modulo the polynomial, both reflected. */
function multiply(a: number, b: number): number {
  let product = 0;
  for (let mask = 0x80000000; mask !== 0; mask >>>= 1) {
    if (a & mask) product ^= b;
    b = b & 1 ? (b >>> 1) ^ POLYNOMIAL : b >>> 1;
  }
  return product >>> 0;
}

/** x^(2^n); squaring 32 times gives x again. */
const POWERS: number[] = [0x40000000];
while (POWERS.length < 32) POWERS.push(multiply(POWERS[POWERS.length - 1]!, POWERS[POWERS.length - 1]!));

/** CRC-32 of two byte strings, one after the other, from their own; `length`: bytes of the second. Exact to 2^53 bytes. */
export function combineCrc32(first: number, second: number, length: number): number {
  let shift = 0x80000000;
  for (let left = length, power = 3; left > 0; left = Math.floor(left / 2), power++)
    if (left % 2 === 1) shift = multiply(POWERS[power & 31]!, shift);
  return (multiply(shift, first) ^ second) >>> 0;
}

/** 8 hexadecimal digits. */
export const crc32Text = (value: number): string => value.toString(16).padStart(8, '0');

/** CRC-32 of a file's bytes from `offset` on, as 8 hexadecimal digits. */
export function crc32File(file: string, offset = 0): string {
  const { fd } = openForReading(file);
  const window = new Uint8Array(1 << 20);
  return guardIo(file, 'read', () => {
    try {
      let value = 0;
      for (let at = offset, count; (count = readSync(fd, window, 0, window.length, at)) > 0; at += count)
        value = crc32(window.subarray(0, count), value);
      return crc32Text(value);
    } finally {
      closeSync(fd);
    }
  });
}
