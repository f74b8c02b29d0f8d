/** Every string and every id list of the reference, exactly. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { Random } from '../../src/random.js';
import { StreamDecoder } from '../../src/tokenizer/streamDecoder.js';
import { Tokenizer } from '../../src/tokenizer/tokenizer.js';
import { hasShared, shared } from '../golden.js';

interface EncodeRow {
  text: string;
  ids: number[];
  ids_with_special: number[];
  decoded: string;
  decoded_with_special: string;
}
type DecodeRow = Omit<EncodeRow, 'text' | 'ids_with_special'>;

function rows<T>(name: string): T[] {
  const lines = readFileSync(shared('golden', 'tokenizer', name), 'utf8').split('\n');
  return lines.filter((line) => line !== '').map((line) => JSON.parse(line) as T);
}

describe.skipIf(!hasShared)('stories260k tokenizer', () => {
  const tokenizer = hasShared ? Tokenizer.load(shared('models', 'stories260k')) : (undefined as unknown as Tokenizer);
  const encoded = hasShared ? rows<EncodeRow>('stories260k-encode.jsonl') : [];
  const decoded = hasShared ? rows<DecodeRow>('stories260k-decode.jsonl') : [];

  it('encodes all 198 strings', () => {
    expect(encoded.length).toBe(198);
    for (const row of encoded) {
      expect(tokenizer.encode(row.text), row.text).toEqual(row.ids);
      expect(tokenizer.encode(row.text, { addSpecial: true }), row.text).toEqual(row.ids_with_special);
    }
  });

  it('decodes what it encoded, with and without special tokens', () => {
    for (const row of encoded) {
      expect(tokenizer.decode(row.ids_with_special), row.text).toBe(row.decoded);
      expect(tokenizer.decode(row.ids_with_special, { skipSpecial: false }), row.text).toBe(row.decoded_with_special);
    }
  });

  it('decodes odd id lists, broken UTF-8 included', () => {
    expect(decoded.length).toBeGreaterThan(20);
    for (const row of decoded) {
      expect(tokenizer.decode(row.ids), JSON.stringify(row.ids)).toBe(row.decoded);
      expect(tokenizer.decode(row.ids, { skipSpecial: false }), JSON.stringify(row.ids)).toBe(row.decoded_with_special);
    }
  });

  it('streams to the same text, one id at a time', () => {
    const lists = [...decoded.map((row) => row.ids), ...encoded.map((row) => row.ids_with_special)];
    for (const skipSpecial of [true, false]) {
      for (const ids of lists) {
        const stream = new StreamDecoder(tokenizer, { skipSpecial });
        const text = ids.map((id) => stream.push(id)).join('') + stream.end();
        expect(text, JSON.stringify(ids)).toBe(tokenizer.decode(ids, { skipSpecial }));
      }
    }
  });

  it('gives random Unicode back, whole and streamed', () => {
    const random = new Random(3);
    const ranges: [number, number][] = [
      [0x20, 0x7f],
      [0x0, 0x20],
      [0xa0, 0x250],
      [0x4e00, 0x4f00],
      [0x1f600, 0x1f640],
      [0xfff0, 0xffff],
    ];
    for (let trial = 0; trial < 300; trial++) {
      const text = Array.from({ length: random.integer(40) }, () => {
        const [low, high] = ranges[random.integer(ranges.length)]!;
        return String.fromCodePoint(low + random.integer(high - low));
      }).join('');
      const ids = tokenizer.encode(text);
      expect(tokenizer.decode(ids)).toBe(text);
      const stream = new StreamDecoder(tokenizer);
      expect(ids.map((id) => stream.push(id)).join('') + stream.end()).toBe(text);
      // Any ids, text or not: what is streamed is what is decoded.
      const odd = ids.map((id) => (random.uniform() < 0.3 ? random.integer(512) : id));
      const other = new StreamDecoder(tokenizer);
      expect(odd.map((id) => other.push(id)).join('') + other.end(), JSON.stringify(odd)).toBe(tokenizer.decode(odd));
    }
  });
});
