/** Exported models: names, permutation, values and metadata, read back from the file. */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { exportModel } from '../../src/export/gguf/model.js';
import { ggufName, ropeFactors, sourceRow } from '../../src/export/gguf/tensors.js';
import { openCheckpoint } from '../../src/formats/checkpoint.js';
import { openGguf, type GgufFile } from '../../src/formats/gguf/reader.js';
import { toFloat32, typedView } from '../../src/formats/safetensors.js';
import { writeSafetensors } from '../../src/formats/safetensorsWriter.js';
import { parseModelConfig } from '../../src/model/config.js';
import { parameterShapes } from '../../src/model/parameters.js';
import { normalArray } from '../../src/random.js';
import { tempFolder } from '../formats/tempFolder.js';
import { hasShared, shared } from '../golden.js';
import { characterTokenizer } from './fixtures.js';

const folder = tempFolder();
let count = 0;

const SMALL = {
  architectures: ['LlamaForCausalLM'],
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 64,
  max_position_embeddings: 128,
  bos_token_id: 1,
  eos_token_id: 2,
};

/** A checkpoint with random float32 weights. */
function checkpoint(config: object, change: (name: string, values: Float32Array) => void = () => undefined): string {
  const target = path.join(folder, `model-${count++}`);
  mkdirSync(target);
  const parsed = parseModelConfig(config);
  const tensors = [...parameterShapes(parsed)].map(([name, shape], stream) => {
    const values = normalArray(
      shape.reduce((product, size) => product * size, 1),
      0.1,
      3,
      stream,
    );
    change(name, values);
    return { name, dtype: 'F32' as const, shape, data: values };
  });
  writeSafetensors(path.join(target, 'model.safetensors'), tensors);
  writeFileSync(path.join(target, 'config.json'), JSON.stringify(config));
  writeFileSync(path.join(target, 'tokenizer.json'), JSON.stringify(characterTokenizer(parsed.vocabSize, 1)));
  return target;
}

function exported(model: string, type: 'F32' | 'F16' | 'BF16' | 'Q8_0' | 'auto' = 'F32'): GgufFile {
  const out = path.join(folder, `out-${count++}.gguf`);
  exportModel({ model, out, type });
  return openGguf(out);
}

const code = (name: string): unknown => expect.objectContaining({ code: name });

function floats(gguf: GgufFile, name: string): Float32Array {
  const { type } = gguf.tensors.get(name)!;
  if (type === 'Q8_0') throw new Error('quantised');
  return toFloat32(type as 'F32', typedView(type as 'F32', gguf.bytes(name)));
}

/** Undoes the permutation by its definition: neighbours of the file are halves of the checkpoint. */
function unpermuted(values: Float32Array, rows: number, headDim: number): Float32Array {
  const columns = values.length / rows;
  const result = new Float32Array(values.length);
  for (let head = 0; head < rows / headDim; head++)
    for (let i = 0; i < headDim / 2; i++)
      for (const half of [0, 1]) {
        const from = (head * headDim + 2 * i + half) * columns;
        result.set(values.subarray(from, from + columns), (head * headDim + half * (headDim / 2) + i) * columns);
      }
  return result;
}

describe('tensors', () => {
  const configs: [string, object, boolean][] = [
    ['llama', SMALL, true],
    ['llama with biases', { ...SMALL, attention_bias: true, mlp_bias: true, head_dim: 16 }, true],
    ['mistral', { ...SMALL, architectures: ['MistralForCausalLM'], sliding_window: null }, true],
    ['qwen2', { ...SMALL, architectures: ['Qwen2ForCausalLM'], tie_word_embeddings: true }, false],
    ['qwen3', { ...SMALL, architectures: ['Qwen3ForCausalLM'], head_dim: 16 }, false],
  ];

  it.each(configs)('%s: every value is where llama.cpp looks for it', (_, config, permutes) => {
    const model = checkpoint(config);
    const source = openCheckpoint(model);
    const parsed = parseModelConfig(config);
    const gguf = exported(model);
    expect(gguf.tensors.size).toBe(source.tensors.names().length);
    for (const [name, shape] of parameterShapes(parsed)) {
      const target = ggufName(name);
      expect(gguf.tensors.get(target)).toMatchObject({ shape, type: 'F32' });
      const moved = permutes && /[qk]_proj/.test(name);
      const values = floats(gguf, target);
      expect(moved ? unpermuted(values, shape[0]!, parsed.headDim) : values, name).toEqual(source.tensors.readFloat32(name));
    }
    source.close();
    gguf.close();
  });

  it('uses the names of llama.cpp', () => {
    expect([...exported(checkpoint({ ...SMALL, num_hidden_layers: 1 })).tensors.keys()].sort()).toEqual(
      [
        'token_embd',
        ...['attn_q', 'attn_k', 'attn_v', 'attn_output', 'ffn_gate', 'ffn_up', 'ffn_down', 'attn_norm', 'ffn_norm'].map(
          (name) => `blk.0.${name}`,
        ),
        'output_norm',
        'output',
      ]
        .map((name) => `${name}.weight`)
        .sort(),
    );
  });

  it('has no output matrix when it is the embedding', () => {
    expect(exported(checkpoint({ ...SMALL, tie_word_embeddings: true })).tensors.has('output.weight')).toBe(false);
  });

  it('permutes rows within heads and is a permutation', () => {
    expect(Array.from({ length: 8 }, (_, row) => sourceRow(row, 8))).toEqual([0, 4, 1, 5, 2, 6, 3, 7]);
    expect(Array.from({ length: 8 }, (_, row) => sourceRow(row + 8, 8))).toEqual([8, 12, 9, 13, 10, 14, 11, 15]);
  });

  it('keeps vectors in float32, and rows that fit no blocks in f16', () => {
    const out = path.join(folder, 'q8.gguf');
    const { notices } = exportModel({ model: checkpoint(SMALL), out, type: 'Q8_0' });
    const gguf = openGguf(out);
    expect(gguf.tensors.get('blk.0.attn_q.weight')!.type).toBe('Q8_0');
    expect(gguf.tensors.get('token_embd.weight')!.type).toBe('Q8_0');
    expect(gguf.tensors.get('blk.1.ffn_down.weight')!.type).toBe('F16'); // rows of 48
    expect(gguf.tensors.get('output_norm.weight')!.type).toBe('F32');
    expect(notices).toEqual([expect.stringMatching(/^2 tensors .*blk\.0\.ffn_down\.weight, blk\.1\.ffn_down\.weight$/)]);
  });

  it('refuses values that the type cannot hold, and leaves nothing', () => {
    const model = checkpoint(SMALL, (name, values) => {
      if (name.includes('layers.1.mlp.up_proj')) values[7] = -70000;
    });
    const out = path.join(folder, 'overflow.gguf');
    expect(() => exportModel({ model, out, type: 'F16' })).toThrow(
      expect.objectContaining({ code: 'NIFT_EXPORT_VALUES', message: expect.stringMatching(/layers\.1\.mlp\.up_proj.*70000/) }),
    );
    expect(existsSync(out)).toBe(false);
    expect(() => exportModel({ model, out, type: 'BF16' })).not.toThrow();
  });

  it('asks for the tensors that the config promises', () => {
    const model = checkpoint(SMALL);
    writeFileSync(path.join(model, 'config.json'), JSON.stringify({ ...SMALL, num_hidden_layers: 3 }));
    expect(() => exported(model)).toThrow(code('NIFT_CHECKPOINT_MISMATCH'));
  });
});

describe('metadata', () => {
  it('names the hyper-parameters as llama.cpp does', () => {
    const gguf = exported(checkpoint({ ...SMALL, head_dim: 16, rope_theta: 5e5, rms_norm_eps: 1e-5 }));
    const values = Object.fromEntries([...gguf.metadata.keys()].map((key) => [key, gguf.value(key)]));
    expect(values).toMatchObject({
      'general.architecture': 'llama',
      'general.type': 'model',
      'general.file_type': 0,
      'general.quantization_version': 2,
      'llama.block_count': 2,
      'llama.context_length': 128,
      'llama.embedding_length': 32,
      'llama.feed_forward_length': 48,
      'llama.attention.head_count': 4,
      'llama.attention.head_count_kv': 2,
      'llama.attention.key_length': 16,
      'llama.attention.value_length': 16,
      'llama.attention.layer_norm_rms_epsilon': Math.fround(1e-5),
      'llama.rope.freq_base': 5e5,
      'llama.rope.dimension_count': 16,
      'llama.vocab_size': 64,
    });
    expect(exported(checkpoint(SMALL)).metadata.has('llama.attention.key_length')).toBe(false);
  });

  it.each([
    ['F32', 0],
    ['F16', 1],
    ['Q8_0', 7],
    ['BF16', 32],
  ] as const)('numbers the file type %s', (type, id) => {
    expect(exported(checkpoint(SMALL), type).value('general.file_type')).toBe(id);
  });

  it('describes linear rope scaling', () => {
    const gguf = exported(checkpoint({ ...SMALL, rope_scaling: { type: 'linear', factor: 4 } }));
    expect([gguf.value('llama.rope.scaling.type'), gguf.value('llama.rope.scaling.factor')]).toEqual(['linear', 4]);
  });

  it('gives the factors of llama3 scaling as a tensor', () => {
    const scaling = {
      rope_type: 'llama3',
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 64,
    };
    const config = { ...SMALL, head_dim: 16, rope_theta: 5e5, rope_scaling: scaling };
    const factors = ropeFactors(parseModelConfig(config))!;
    // The definition in float64 (convert_hf_to_gguf.py).
    for (let i = 0; i < 8; i++) {
      const wavelength = (2 * Math.PI) / (1 / 5e5 ** (i / 8));
      const smooth = (64 / wavelength - 1) / 3;
      const expected = wavelength < 16 ? 1 : wavelength > 64 ? 8 : 1 / ((1 - smooth) / 8 + smooth);
      expect(factors[i]! / expected).toBeCloseTo(1, 6);
    }
    expect(exported(checkpoint(config)).tensors.get('rope_freqs.weight')).toMatchObject({ type: 'F32', shape: [8] });
  });

  it('says what llama.cpp does otherwise, and refuses what it cannot load', () => {
    const notices = (config: object): string[] =>
      exportModel({ model: checkpoint(config), out: path.join(folder, 'n.gguf'), type: 'F32' }).notices;
    expect(notices(SMALL)).toEqual([]);
    expect(notices({ ...SMALL, architectures: ['MistralForCausalLM'], sliding_window: 8 })).toEqual([
      expect.stringMatching(/sliding window.* 8 tokens/),
    ]);
    expect(notices({ ...SMALL, rope_scaling: { type: 'dynamic', factor: 2 } })).toEqual([expect.stringMatching(/dynamic/)]);
    expect(() => notices({ ...SMALL, architectures: ['Qwen3ForCausalLM'], attention_bias: true })).toThrow(
      code('NIFT_EXPORT_UNSUPPORTED'),
    );
  });
});

describe('chat template and Modelfile', () => {
  function modelfile(config: object | null, template?: string): { text: string; gguf: GgufFile } {
    const model = checkpoint(SMALL);
    if (config) writeFileSync(path.join(model, 'tokenizer_config.json'), JSON.stringify(config));
    if (template !== undefined) writeFileSync(path.join(model, 'chat_template.jinja'), template);
    const out = path.join(folder, `chat-${count++}.gguf`);
    const file = path.join(folder, 'Modelfile');
    exportModel({ model, out, type: 'F32', modelfile: file });
    return { text: readFileSync(file, 'utf8').replace(/chat-\d+/, 'chat'), gguf: openGguf(out) };
  }

  it('prompts a base model with the bare text', () => {
    const { text, gguf } = modelfile(null);
    expect(text).toBe('FROM ./chat.gguf\nTEMPLATE """{{ .Prompt }}"""\nPARAMETER stop "丂"\n');
    expect(gguf.metadata.has('tokenizer.chat_template')).toBe(false);
  });

  it('knows common formats, and says when it does not', () => {
    const chatml = modelfile({ chat_template: "{{ '<|im_start|>' + role }}" });
    expect(chatml.text).toContain('{{- range .Messages }}<|im_start|>{{ .Role }}\n');
    expect(chatml.text).toContain('PARAMETER stop "<|im_end|>"');
    expect(chatml.gguf.value('tokenizer.chat_template')).toBe("{{ '<|im_start|>' + role }}");
    expect(modelfile(null, '<|start_header_id|>').text).toContain('<|eot_id|>');
    expect(modelfile(null, '[INST] <<SYS>>').text).toContain('<</SYS>>');
    expect(modelfile(null, 'something else').text).toContain('# TEMPLATE');
  });

  it('keeps named templates', () => {
    const { gguf } = modelfile({
      chat_template: [
        { name: 'default', template: 'A' },
        { name: 'tool use', template: 'B' },
      ],
    });
    expect(gguf.value('tokenizer.chat_template')).toBe('A');
    expect(gguf.value('tokenizer.chat_template.tool_use')).toBe('B');
    expect(gguf.value('tokenizer.chat_templates')).toEqual(['tool_use']);
  });
});

describe.skipIf(!hasShared)('types of a checkpoint', () => {
  it.each([
    ['stories260k', 'F16'],
    ['stories260k-instruct', 'BF16'],
  ])('keeps the 16 bits of %s: %s', (name, type) => {
    expect(exported(shared('models', name), 'auto').tensors.get('token_embd.weight')!.type).toBe(type);
  });

  it('needs a tokenizer', () => {
    expect(() => exported(shared('models', 'tiny-llama31'))).toThrow(code('NIFT_TOKENIZER'));
  });
});
