// Trains the demo's tokenizer on the demo's own texts: node examples/demo/makeTokenizer.mjs [FOLDER]
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { articles } from '../../dist/demo/corpus.js';
import { BASE_SEED, CONTEXT_LENGTH, TOKENIZER_ARTICLES, VOCAB_SIZE } from '../../dist/demo/settings.js';
import { tokenizerConfig, trainTokenizer } from '../../dist/demo/trainTokenizer.js';

const folder = process.argv[2] ?? path.join(import.meta.dirname, 'model');
const texts = articles(BASE_SEED, TOKENIZER_ARTICLES).map(({ text }) => text);
const write = (name, value) => writeFileSync(path.join(folder, name), `${JSON.stringify(value, null, 1)}\n`);
mkdirSync(folder, { recursive: true });
write('tokenizer.json', trainTokenizer(texts, VOCAB_SIZE));
write('tokenizer_config.json', tokenizerConfig(CONTEXT_LENGTH));
console.log(`${folder}: tokenizer.json, tokenizer_config.json`);
