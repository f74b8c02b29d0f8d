/** Every `config.json` of the reference data, in both key styles, must resolve to what transformers resolves it to. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parseModelConfig } from '../../src/model/config.js';
import { inverseFrequencies } from '../../src/model/rope.js';
import { hasShared, shared } from '../golden.js';

interface Expected {
  model_type: string;
  effective_sliding_window: number | null;
  eos_token_id: number | number[];
  inv_freq: number[];
  [key: string]: unknown;
}

describe.skipIf(!hasShared)('resolved configuration', () => {
  const expected = hasShared
    ? (JSON.parse(readFileSync(shared('golden', 'config', 'expected.json'), 'utf8')) as Record<string, Expected>)
    : {};

  it.each(Object.entries(expected))('%s', (file, want) => {
    if (!('hidden_size' in want)) throw new Error(`unexpected entry ${file}`);
    const config = parseModelConfig(JSON.parse(readFileSync(shared('golden', 'config', file), 'utf8')), file);
    const windows = new Set(config.slidingWindows);
    expect(windows.size).toBe(1);
    const { inv_freq, ...rest } = want;
    expect({
      model_type: config.modelType,
      hidden_size: config.hiddenSize,
      intermediate_size: config.intermediateSize,
      num_hidden_layers: config.numLayers,
      num_attention_heads: config.numHeads,
      num_key_value_heads: config.numKvHeads,
      head_dim: config.headDim,
      vocab_size: config.vocabSize,
      rms_norm_eps: config.rmsNormEps,
      rope_theta: config.rope.theta,
      rope_type: config.rope.type,
      tie_word_embeddings: config.tieWordEmbeddings,
      dtype: config.dtype,
      effective_sliding_window: config.slidingWindows[0],
      qkv_bias: config.qkvBias,
      o_bias: config.outputBias,
      max_position_embeddings: config.maxPositionEmbeddings,
      eos_token_id: Array.isArray(want.eos_token_id) ? config.eosTokenIds : config.eosTokenIds[0],
    }).toEqual(rest);
    expect(Array.from(inverseFrequencies(config.rope, config.headDim))).toEqual(inv_freq);
  });
});
