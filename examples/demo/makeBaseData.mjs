// Writes the base model's training text as token rows: node examples/demo/makeBaseData.mjs [ROWS] [FOLDER]
// Articles follow one another without an end-of-text token, cut into rows of CONTEXT_LENGTH tokens.
import { closeSync, mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs';
import path from 'node:path';
import { article } from '../../dist/demo/corpus.js';
import { ARTICLE_SEPARATOR, BASE_SEED, CONTEXT_LENGTH } from '../../dist/demo/settings.js';
import { Tokenizer } from '../../dist/tokenizer/tokenizer.js';

const rows = Number(process.argv[2] ?? 6144);
const folder = process.argv[3] ?? path.join('tmp', 'demo-base-data');
const tokenizer = Tokenizer.load(path.join(import.meta.dirname, 'model'));
mkdirSync(folder, { recursive: true });
const info = { demo_base: { file_name: 'rows.jsonl', formatting: 'pretokenized' } };
writeFileSync(path.join(folder, 'dataset_info.json'), `${JSON.stringify(info, null, 2)}\n`);
const file = openSync(path.join(folder, 'rows.jsonl'), 'w');
let pending = [];
let written = 0;
let used = 0;
while (written < rows) {
  // The separator is tokenised as it stands between two articles: without the prefix space that begins a text.
  const text = article(BASE_SEED, used++).text;
  for (const id of tokenizer.encode(text + ARTICLE_SEPARATOR)) pending.push(id);
  for (; pending.length >= CONTEXT_LENGTH && written < rows; written++) {
    const ids = pending.slice(0, CONTEXT_LENGTH);
    pending = pending.slice(CONTEXT_LENGTH);
    writeSync(file, `${JSON.stringify({ input_ids: ids, labels: ids })}\n`);
  }
}
closeSync(file);
console.log(`${folder}: ${written} rows of ${CONTEXT_LENGTH} tokens from ${used} articles`);
