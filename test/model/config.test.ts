/** What a config.json may not say, and the rules that no reference config exercises. */
import { describe, expect, it } from 'vitest';
import { parseModelConfig } from '../../src/model/config.js';
import { inverseFrequencies } from '../../src/model/rope.js';
import { tinyQwen3 } from './fixtures.js';

const parse = (overrides: Record<string, unknown>): ReturnType<typeof parseModelConfig> => parseModelConfig(tinyQwen3(overrides));
const llama = (overrides: Record<string, unknown>): ReturnType<typeof parseModelConfig> =>
  parse({ architectures: ['LlamaForCausalLM'], ...overrides });

describe('refused configs', () => {
  it.each([
    ['unknown architecture', { architectures: ['GPT2LMHeadModel'] }, 'GPT2LMHeadModel'],
    ['unknown model type', { architectures: undefined, model_type: 'gemma' }, 'gemma'],
    ['yarn', { rope_scaling: { type: 'yarn', factor: 4 } }, 'yarn'],
    ['yarn in the new spelling', { rope_parameters: { rope_type: 'yarn', factor: 4, rope_theta: 1e4 } }, 'yarn'],
    ['frequencies per kind of layer', { rope_parameters: { full_attention: { rope_type: 'default' } } }, 'full_attention'],
    ['gelu', { hidden_act: 'gelu' }, 'gelu'],
    ['quantisation', { quantization_config: { quant_method: 'gptq' } }, 'quantization_config'],
    ['attention dropout', { attention_dropout: 0.1 }, 'attention_dropout'],
    ['a part of the head rotated', { partial_rotary_factor: 0.5 }, 'partial_rotary_factor'],
    ['biases in Mistral', { architectures: ['MistralForCausalLM'], attention_bias: true }, 'attention_bias'],
    ['mlp biases outside Llama', { mlp_bias: true }, 'mlp_bias'],
    ['int8 weights', { torch_dtype: 'int8' }, 'int8'],
    ['chunked attention', { layer_types: ['full_attention', 'chunked_attention', 'full_attention'] }, 'chunked_attention'],
  ])('%s', (_, overrides, named) => {
    expect(() => parse(overrides)).toThrow(
      expect.objectContaining({ code: 'NIFT_MODEL_UNSUPPORTED', message: expect.stringContaining(named) }),
    );
  });

  it.each([
    ['no sizes, all named at once', { hidden_size: undefined, vocab_size: 'x' }, /hidden_size.*vocab_size/],
    ['kv heads that do not divide', { num_key_value_heads: 3 }, /multiple of num_key_value_heads 3/],
    ['odd head_dim', { head_dim: 7 }, /head_dim 7 is odd/],
    ['linear scaling without a factor', { rope_scaling: { type: 'linear' } }, /factor/],
    ['llama3 scaling in part', { rope_scaling: { rope_type: 'llama3', factor: 8 } }, /low_freq_factor/],
    ['layer types of another length', { layer_types: ['full_attention'] }, /1 entries for 3 layers/],
    [
      'sliding layers without a window',
      { layer_types: Array.from({ length: 3 }, () => 'sliding_attention') },
      /no sliding window/,
    ],
    ['neither architecture nor type', { architectures: undefined, model_type: undefined }, /names neither/],
  ])('%s', (_, overrides, message) => {
    expect(() => parse(overrides)).toThrow(
      expect.objectContaining({ code: 'NIFT_MODEL_CONFIG', message: expect.stringMatching(message) }),
    );
  });
});

describe('rules', () => {
  it('slides where each architecture does', () => {
    const mistral = { architectures: ['MistralForCausalLM'], num_key_value_heads: 2 };
    expect(parse(mistral).slidingWindows).toEqual([4096, 4096, 4096]);
    expect(parse({ ...mistral, sliding_window: null }).slidingWindows).toEqual([null, null, null]);
    expect(llama({ sliding_window: 5 }).slidingWindows).toEqual([null, null, null]);
    expect(parse({ sliding_window: 5, use_sliding_window: true, max_window_layers: 1 }).slidingWindows).toEqual([null, 5, 5]);
    expect(parse({ sliding_window: 5, use_sliding_window: true }).slidingWindows).toEqual([null, null, null]);
    expect(parse({ sliding_window: 5, max_window_layers: 0 }).slidingWindows).toEqual([null, null, null]);
    const types = ['sliding_attention', 'full_attention', 'full_attention'];
    expect(parse({ sliding_window: 5, use_sliding_window: true, layer_types: types }).slidingWindows).toEqual([5, null, null]);
  });

  it('stretches the context with linear and dynamic scaling only', () => {
    expect(llama({ rope_scaling: { type: 'linear', factor: 2.5 } }).contextLength).toBe(320);
    expect(llama({ rope_scaling: { type: 'dynamic', factor: 2 } }).contextLength).toBe(256);
    const llama3 = {
      rope_type: 'llama3',
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 64,
    };
    expect(llama({ rope_scaling: llama3 }).contextLength).toBe(128);
  });

  it('raises theta with the length under dynamic scaling, and not before', () => {
    const { rope, headDim } = llama({ rope_scaling: { type: 'dynamic', factor: 2 } });
    const plain = inverseFrequencies(llama({}).rope, headDim);
    expect(inverseFrequencies(rope, headDim, 128)).toEqual(plain);
    const theta = 10000 * ((2 * 200) / 128 - 1) ** (8 / 6);
    const expected = Float32Array.from({ length: 4 }, (_, i) => 1 / theta ** ((2 * i) / 8));
    inverseFrequencies(rope, headDim, 200).forEach((value, i) => expect(value / expected[i]!).toBeCloseTo(1, 6));
  });

  it('lets rope_parameters win, and takes the old and the new dtype key', () => {
    const both = {
      rope_theta: 1,
      rope_parameters: { rope_type: 'default', rope_theta: 5e5 },
      dtype: 'bfloat16',
      torch_dtype: undefined,
    };
    expect(llama(both)).toMatchObject({ dtype: 'bfloat16', rope: { theta: 5e5 } });
    expect(llama({ torch_dtype: 'torch.float16' }).dtype).toBe('float16');
  });
});
