/** Exports run in llama.cpp itself: it must write, greedily, what nift and the reference data say. Skipped where it is not installed. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { useBackend } from '../../src/backend/index.js';
import { exportAdapter } from '../../src/export/gguf/adapter.js';
import type { ExportType } from '../../src/export/gguf/encode.js';
import { exportModel } from '../../src/export/gguf/model.js';
import { CausalLM } from '../../src/model/causalLM.js';
import { generate } from '../../src/model/generate.js';
import { loadModelConfig, parseModelConfig } from '../../src/model/config.js';
import { Tokenizer } from '../../src/tokenizer/tokenizer.js';
import { tempFolder } from '../formats/tempFolder.js';
import { hasShared, shared } from '../golden.js';
import { byteLevelTokenizer, idsText, PRE_TOKENIZERS, TEXTS, withCharacterTokenizer } from './fixtures.js';
import { complete, hasCompletion, hasTokenize, tokenize } from './llamaCpp.js';

interface Golden {
  max_new_tokens: number;
  cases: { prompt: string; input_ids: number[]; output_ids: number[]; stopped_by: string; output_text: string }[];
}

const golden = (name: string): Golden => JSON.parse(readFileSync(shared('golden', 'generate', `${name}.json`), 'utf8')) as Golden;
const folder = tempFolder();
const enabled = hasShared && hasCompletion && hasTokenize;

function exported(model: string, type: ExportType | 'auto', name: string): string {
  const out = path.join(folder, `${name}-${type}.gguf`);
  exportModel({ model, out, type });
  return out;
}

describe.skipIf(!enabled)('llama.cpp', () => {
  beforeAll(async () => {
    await useBackend('native');
  });

  it.each(['stories260k', 'stories260k-from-bos-300', 'stories260k-instruct'])('writes %s like the reference', async (name) => {
    const model = exported(shared('models', name.replace('-from-bos-300', '')), 'F32', name);
    const { cases, max_new_tokens } = golden(name);
    for (const { prompt, output_text } of cases) {
      const text = await complete({ model, prompt, tokens: max_new_tokens });
      expect(text.trim(), prompt).toBe(output_text.trim());
    }
  });

  it.each(['F16', 'BF16', 'Q8_0'] as const)('writes the beginning alike from %s', async (type) => {
    const model = exported(shared('models', 'stories260k'), type, 'stories260k');
    const text = await complete({ model, prompt: 'Once upon a time', tokens: 24 });
    expect(text).toMatch(/^, there was a little girl named Lily\. She loved to play/);
  });

  it('adds an adapter like the reference', async () => {
    const base = shared('models', 'stories260k');
    const model = exported(base, 'F32', 'base');
    const lora = path.join(folder, 'lora.gguf');
    exportAdapter({
      adapter: shared('golden', 'train', 'stories260k-accum2-micromean-warmup0', 'final_adapter'),
      model: base,
      out: lora,
      type: 'F32',
    });
    const { cases, max_new_tokens } = golden('stories260k-adapter');
    const tokenizer = Tokenizer.load(base);
    for (const { input_ids, output_ids } of cases) {
      const prompt = tokenizer.decode(input_ids);
      const text = await complete({ model, prompt, tokens: max_new_tokens, lora });
      expect(text.trim()).toBe(tokenizer.decode(output_ids).trim());
    }
  });

  it.each(['tiny-llama2', 'tiny-llama3', 'tiny-llama31', 'tiny-mistral'])('computes %s like the reference', async (name) => {
    const source = shared('models', name);
    const config = await loadModelConfig(source);
    const model = exported(withCharacterTokenizer(source, path.join(folder, name), config.vocabSize, 1), 'F32', name);
    const { cases, max_new_tokens } = golden(name);
    // llama.cpp has no sliding window: within it, the numbers are the same.
    const window = Math.min(...config.slidingWindows.map((size) => size ?? Infinity));
    for (const { input_ids, output_ids } of cases) {
      const count = Math.min(output_ids.length, window - input_ids.length + 1);
      if (count <= 0) continue;
      const text = await complete({
        model,
        prompt: idsText(input_ids, 1),
        tokens: Math.min(max_new_tokens, count),
        special: true,
      });
      expect(text).toBe(idsText(output_ids.slice(0, count), 1));
    }
  });

  it.each(['tiny-mistral-nosw', 'tiny-qwen2', 'qwen3'])('computes %s like nift, with and without an adapter', async (name) => {
    const source = name === 'qwen3' ? randomQwen3(path.join(folder, 'random')) : shared('models', name);
    const { vocabSize } = await loadModelConfig(source);
    const folderOf = withCharacterTokenizer(source, path.join(folder, name), vocabSize, 1);
    const model = exported(folderOf, 'F32', name);
    const prompts = [
      [1, 17, 200, 33],
      [1, 300, 4, 4, 250, 9, 77, 12],
    ];
    const trained = name === 'qwen3' ? [] : [shared('golden', 'lora', `${name}-r8`)];
    for (const adapter of [undefined, ...trained]) {
      const lora = adapter === undefined ? undefined : path.join(folder, `${name}-lora.gguf`);
      if (adapter !== undefined) exportAdapter({ adapter, model: source, out: lora!, type: 'F32' });
      const own = await CausalLM.load(source, { dtype: 'float32', ...(adapter === undefined ? {} : { adapter }) });
      const expected = await generate(
        own,
        prompts.map((ids) => Int32Array.from(ids)),
        { maxNewTokens: 24, temperature: 0 },
      );
      own.dispose();
      for (const [i, ids] of prompts.entries()) {
        const text = await complete({
          model,
          prompt: idsText(ids, 1),
          tokens: 24,
          special: true,
          ...(lora === undefined ? {} : { lora }),
        });
        expect(text).toBe(idsText([...expected[i]!.outputIds], 1));
      }
    }
  });

  it('splits SentencePiece texts like the reference', async () => {
    const model = exported(shared('models', 'stories260k'), 'Q8_0', 'tokens');
    const rows = readFileSync(shared('golden', 'tokenizer', 'stories260k-encode.jsonl'), 'utf8')
      .trim()
      .split('\n');
    const sample = rows.map((row) => JSON.parse(row) as { text: string; ids_with_special: number[] });
    const different: string[] = [];
    for (const { text, ids_with_special } of sample) {
      if (text === '' || text.includes('\0')) continue;
      const ids = await tokenize(model, text, true);
      if (JSON.stringify(ids) !== JSON.stringify(ids_with_special))
        different.push(`${JSON.stringify(text)} ${ids.join()} ${ids_with_special.join()}`);
    }
    expect(different).toEqual([]);
  });

  it.each(Object.keys(PRE_TOKENIZERS))('splits texts by the rule %s like nift', async (pre) => {
    const { json, vocabSize } = byteLevelTokenizer(PRE_TOKENIZERS[pre]!);
    const target = path.join(folder, `bytes-${pre}`);
    writeRandomModel(target, { ...LLAMA, vocab_size: vocabSize });
    writeFileSync(path.join(target, 'tokenizer.json'), JSON.stringify(json));
    const model = exported(target, 'F16', pre);
    const tokenizer = Tokenizer.load(target);
    for (const text of TEXTS) expect(await tokenize(model, text, false), JSON.stringify(text)).toEqual(tokenizer.encode(text));
    // The texts tell the rules apart.
    const other = path.join(folder, `other-${pre}.gguf`);
    exportModel({ model: target, out: other, type: 'F16', pre: pre === 'gpt-2' ? 'llama-bpe' : 'gpt-2' });
    const [sample] = TEXTS;
    expect(await tokenize(other, sample!, false)).not.toEqual(tokenizer.encode(sample!));
  });
});

const LLAMA = {
  architectures: ['LlamaForCausalLM'],
  hidden_size: 32,
  intermediate_size: 32,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  max_position_embeddings: 64,
  tie_word_embeddings: true,
};

function writeRandomModel(target: string, config: object): void {
  mkdirSync(target);
  const model = CausalLM.fromConfig(parseModelConfig(config), { seed: 7 });
  model.saveCheckpoint(target);
  model.dispose();
}

/** A Qwen3 with random weights, large enough not to repeat itself at once. */
function randomQwen3(target: string): string {
  const config = {
    architectures: ['Qwen3ForCausalLM'],
    model_type: 'qwen3',
    hidden_size: 64,
    intermediate_size: 96,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 32,
    vocab_size: 320,
    rms_norm_eps: 1e-6,
    rope_theta: 1e6,
    max_position_embeddings: 256,
    tie_word_embeddings: false,
    initializer_range: 0.3,
    bos_token_id: 1,
    eos_token_id: 2,
  };
  writeRandomModel(target, config);
  return target;
}
