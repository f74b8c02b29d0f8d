import { NiftError } from '../errors.js';

/**
 * Names the first id outside the vocabulary, before any kernel runs.
 * @param cuSeqlens [B + 1] where each sequence starts in `ids`
 * @param ignored one more value that is allowed
 * @throws NIFT_TOKEN_ID
 */
export function checkTokenIds(
  ids: Int32Array,
  cuSeqlens: ArrayLike<number>,
  vocabSize: number,
  what: string,
  ignored?: number,
): void {
  const bad = ids.findIndex((id) => !(id >= 0 && id < vocabSize) && id !== ignored);
  if (bad < 0) return;
  let row = 0;
  while (row + 2 < cuSeqlens.length && cuSeqlens[row + 1]! <= bad) row++;
  const position = bad - (cuSeqlens[row] ?? 0);
  throw new NiftError(
    'NIFT_TOKEN_ID',
    `${what} ${ids[bad]} at position ${position} of sequence ${row} is outside the vocabulary of ${vocabSize}.`,
    { hint: 'Does the tokenizer belong to this model?', details: { id: ids[bad], row, position, vocabSize } },
  );
}
