// Run by scripts/check-without-compiler.sh inside an installed copy that has no addon: trains a tiny model, resumes nothing,
// generates from the result, and counts the notices. Plain JavaScript, because the copy has only what an install leaves.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';

const work = mkdtempSync(path.join(os.tmpdir(), 'nift-no-addon-'));
const write = (name, value) => writeFileSync(path.join(work, name), typeof value === 'string' ? value : JSON.stringify(value));

function nift(...args) {
  const result = spawnSync(process.execPath, ['bin/nift.mjs', ...args], { encoding: 'utf8' });
  assert.equal(result.status, 0, `nift ${args[0]} failed:\n${result.stderr}`);
  return result;
}

write('config.json', {
  architectures: ['LlamaForCausalLM'],
  model_type: 'llama',
  hidden_size: 32,
  intermediate_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 64,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  hidden_act: 'silu',
  tie_word_embeddings: true,
  torch_dtype: 'float32',
  bos_token_id: 1,
  eos_token_id: 2,
});
// Rows that count upwards: learnable in a few steps.
const rows = Array.from({ length: 16 }, (_, i) => {
  const ids = Array.from({ length: 12 }, (_, t) => 3 + ((i + t) % 50));
  return JSON.stringify({ input_ids: ids, labels: ids });
});
write('rows.jsonl', rows.join('\n') + '\n');
write('dataset_info.json', { rows: { file_name: 'rows.jsonl', formatting: 'pretokenized' } });

const settings = [
  `model_name_or_path=${work}`,
  `dataset_dir=${work}`,
  'dataset=rows',
  'finetuning_type=full',
  'train_from_scratch=true',
  `output_dir=${path.join(work, 'out')}`,
  'per_device_train_batch_size=8',
  'learning_rate=0.01',
  'num_train_epochs=6',
  'logging_steps=1',
  'plot_loss=true',
];
const { stderr } = nift('train', ...settings);
const notices = stderr.split('\n').filter((line) => line.includes('composed TF.js ops run instead'));
assert.equal(notices.length, 1, `expected one notice about the missing addon, got ${notices.length}:\n${stderr}`);

const history = JSON.parse(readFileSync(path.join(work, 'out', 'trainer_state.json'), 'utf8')).log_history.filter(
  (row) => row.loss,
);
assert.ok(history.at(-1).loss < history[0].loss - 0.3, `the loss did not fall: ${history[0].loss} -> ${history.at(-1).loss}`);
assert.ok(existsSync(path.join(work, 'out', 'training_loss.png')));

write('prompts.jsonl', JSON.stringify({ input_ids: [5, 6, 7] }) + '\n');
const generated = nift(
  'generate',
  '--model',
  path.join(work, 'out'),
  '--input',
  path.join(work, 'prompts.jsonl'),
  '--max-new-tokens',
  '4',
);
assert.equal(JSON.parse(generated.stdout).output_ids.length, 4);
console.log(
  `without the addon: trained ${history.length} steps (loss ${history[0].loss.toFixed(3)} -> ${history.at(-1).loss.toFixed(3)}) and generated`,
);
