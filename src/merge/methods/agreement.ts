/** Whether models can be merged at all: the same tensors in the same shapes, and configs that give them the same meaning. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { NiftError } from '../../errors.js';
import type { JsonObject } from '../../formats/jsonText.js';
import { matchTensors } from '../../formats/matchTensors.js';
import type { TensorEntry } from '../../formats/safetensors.js';
import { STORAGE_OF } from '../mergeTensor.js';

export interface Member {
  folder: string;
  config: JsonObject;
  tensors: ReadonlyMap<string, TensorEntry>;
}

/** Equal shapes mean other things when these differ. */
const STRUCTURE = ['model_type', 'num_attention_heads', 'num_key_value_heads', 'head_dim'];
/** Worth knowing: the output has the first model's. */
const NOTED = [
  'rope_theta',
  'rope_scaling',
  'rope_parameters',
  'hidden_act',
  'rms_norm_eps',
  'sliding_window',
  'tie_word_embeddings',
];
const TOKENIZER = 'tokenizer.json';

/**
 * Holds all members to the first one.
 * @returns sentences about differences that do not stand in the way
 * @throws NIFT_CHECKPOINT_MISMATCH listing all that do
 */
export function requireAgreement(first: Member, others: readonly Member[], command = 'merge'): string[] {
  const problems: string[] = [];
  const notes: string[] = [];
  const vocabulary = new Set<string>();
  for (const other of others) {
    const mismatch = matchTensors(shapesOf(first), shapesOf(other));
    for (const name of mismatch?.missing ?? []) problems.push(`${other.folder} has no ${name}`);
    for (const name of mismatch?.unexpected ?? []) problems.push(`${first.folder} has no ${name}`);
    for (const { name, expected, found } of mismatch?.misshaped ?? []) {
      problems.push(`${name} is [${found.join(', ')}] in ${other.folder}, [${expected.join(', ')}] in ${first.folder}`);
      if (/(embed_tokens|lm_head|wte)\.weight$/.test(name) && found[1] === expected[1])
        vocabulary.add(`${other.folder} has ${found[0]} tokens, ${first.folder} ${expected[0]}`);
    }
    for (const [name, { dtype }] of other.tensors)
      if ((STORAGE_OF[dtype] === undefined) !== (STORAGE_OF[first.tensors.get(name)?.dtype ?? dtype] === undefined))
        problems.push(`${name} is ${dtype} in ${other.folder}, ${first.tensors.get(name)!.dtype} in ${first.folder}`);
    for (const key of STRUCTURE)
      if (differs(first, other, key))
        problems.push(`${key} is ${text(other, key)} in ${other.folder}, ${text(first, key)} in ${first.folder}`);
    for (const key of NOTED)
      if (differs(first, other, key))
        notes.push(`${key} is ${text(other, key)} in ${other.folder}; the output has ${text(first, key)} of ${first.folder}`);
    if (!sameFile(path.join(first.folder, TOKENIZER), path.join(other.folder, TOKENIZER)))
      notes.push(`${other.folder} has another ${TOKENIZER}; the output has that of ${first.folder}`);
  }
  for (const [name, { dtype }] of first.tensors) if (dtype === 'F64') problems.push(`${name} is F64, which cannot be merged`);
  if (problems.length === 0) return notes;
  const shown = problems.slice(0, 5).join('; ');
  const more = problems.length > 5 ? `; and ${problems.length - 5} more` : '';
  throw new NiftError('NIFT_CHECKPOINT_MISMATCH', `${command}: the models differ in ${problems.length} places: ${shown}${more}`, {
    hint:
      vocabulary.size > 0
        ? `The vocabularies have different sizes (${[...vocabulary].join('; ')}): tokens were added to one of them. Resize the embeddings of the other first.`
        : 'The models must be of one architecture and size.',
    details: { problems },
  });
}

const shapesOf = (member: Member): Map<string, number[]> =>
  new Map([...member.tensors].map(([name, entry]) => [name, entry.shape]));

/** Absent keys stand for defaults that the file does not spell out. */
const differs = (a: Member, b: Member, key: string): boolean =>
  a.config[key] !== undefined && b.config[key] !== undefined && text(a, key) !== text(b, key);
const text = (member: Member, key: string): string => JSON.stringify(member.config[key]);

const sameFile = (a: string, b: string): boolean => !existsSync(a) || !existsSync(b) || readFileSync(a).equals(readFileSync(b));
