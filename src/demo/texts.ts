/** Fresh articles, halved: the first part is the question, the original second part the answer. */
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { halve } from '../distill/halve.js';
import { atomicFile } from '../formats/atomic.js';
import { writeJsonl } from '../formats/jsonl.js';
import { Random } from '../random.js';
import { article, type Genre } from './corpus.js';

export const DATASET_NAME = 'demo';

export interface HalvedArticle {
  genre: Genre;
  prompt: string;
  /** The original second part. */
  continuation: string;
}

/** Articles `first` ... `first + count - 1` of the seed's collection, each cut once. */
export function halvedArticles(seed: number, count: number, first = 0): HalvedArticle[] {
  return Array.from({ length: count }, (_, i) => {
    const { genre, text } = article(seed, first + i);
    // Articles draw from the seed itself; the cuts come from another one, so that neither can disturb the other.
    const halves = halve(text, new Random(seed + 2 ** 32, first + i))!;
    return { genre, prompt: halves.first, continuation: halves.second };
  });
}

/** Writes the rows as an alpaca file with its dataset_info.json. @returns the file */
export function writeDataset(folder: string, rows: readonly HalvedArticle[]): string {
  mkdirSync(folder, { recursive: true });
  const file = path.join(folder, `${DATASET_NAME}.jsonl`);
  writeJsonl(
    file,
    rows.map(({ prompt, continuation }) => ({ instruction: prompt, input: '', output: continuation })),
  );
  const info = { [DATASET_NAME]: { file_name: path.basename(file) } };
  atomicFile(path.join(folder, 'dataset_info.json'), `${JSON.stringify(info, null, 2)}\n`);
  return file;
}
