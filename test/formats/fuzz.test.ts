/**
 * Seeded mutations of every file that strangers hand us. What comes out is a NiftError or a result that holds: no other exception, no
 * crash, no hang, nothing half written. NIFT_SLOW=1 runs twenty times as many.
 */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it, vi } from 'vitest';
import { parseRecipe } from '../../src/config/recipe.js';
import { readDatasetInfo } from '../../src/data/datasetInfo.js';
import { readRows } from '../../src/data/readRows.js';
import { ERROR_CODES, NiftError } from '../../src/errors.js';
import { newAdapterConfig, readAdapter, writeAdapter } from '../../src/formats/adapter.js';
import { writeCheckpoint } from '../../src/formats/checkpoint.js';
import { inspectPath } from '../../src/formats/inspect.js';
import { Journal, readJsonl } from '../../src/formats/jsonl.js';
import { readManifest, writeManifest } from '../../src/formats/manifest.js';
import { openSafetensors, SAFETENSORS_DTYPES, type TensorSource } from '../../src/formats/safetensors.js';
import { openCheckpointTensors } from '../../src/formats/shards.js';
import type { TensorToWrite } from '../../src/formats/safetensorsWriter.js';
import { parseModelConfig } from '../../src/model/config.js';
import { Tokenizer } from '../../src/tokenizer/tokenizer.js';
import { tempFolder } from './tempFolder.js';

const folder = tempFolder();
const SLOW = process.env['NIFT_SLOW'] === '1';
const ROUNDS = (SLOW ? 20 : 1) * 400;
if (SLOW) vi.setConfig({ testTimeout: 900_000 });
/** Far above anything seen (under 50 ms); a hang is caught by the test's own timeout. */
const SLOWEST_MS = 3000;

/** mulberry32: the same mutations on every machine. */
function generator(seed: number): { below: (limit: number) => number; pick: <T>(items: readonly T[]) => T } {
  let state = seed >>> 0;
  const below = (limit: number): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * limit);
  };
  return { below, pick: (items) => items[below(items.length)]! };
}
type Random = ReturnType<typeof generator>;

const FRAGMENTS = [
  ...[
    'null',
    'true',
    '-1',
    '0',
    '1e999',
    '1e-7',
    '9007199254740993',
    '18446744073709551616',
    '0.5',
    '""',
    '[]',
    '{}',
    '[[]]',
    '"x"',
  ],
  ...[
    '"__proto__"',
    '"constructor"',
    '{"a":1,"a":2}',
    '\\u0000',
    '\\ud800',
    '"',
    '\\',
    '{',
    '}',
    '[',
    ']',
    ',',
    ':',
    '\n',
    '\r\n',
    '\0',
  ],
  ...[
    '..',
    '../',
    '/',
    '~',
    '&a',
    '*a',
    '!!js/function',
    '|',
    '>',
    '- ',
    '? ',
    '%',
    '#',
    '<<: *a',
    '\t',
    '\ufeff',
    'é',
    '😀',
    '-100',
    'F32',
    'BF16',
  ],
];

/** One to four edits of bytes: flip, cut, insert a fragment, copy a stretch, truncate, change a number. */
function mutateBytes(input: Uint8Array, random: Random): Buffer {
  let bytes = Buffer.from(input);
  for (let edits = 1 + random.below(4); edits > 0; edits--) {
    const at = random.below(bytes.length + 1);
    const length = random.below(12);
    const rest = bytes.subarray(at);
    switch (random.below(7)) {
      case 0:
        if (at < bytes.length) bytes[at] = random.below(256);
        break;
      case 1:
        bytes = Buffer.concat([bytes.subarray(0, at), rest.subarray(length)]);
        break;
      case 2:
        bytes = Buffer.concat([bytes.subarray(0, at), Buffer.from(random.pick(FRAGMENTS)), rest]);
        break;
      case 3:
        bytes = Buffer.concat([bytes.subarray(0, at), Buffer.from(random.pick(FRAGMENTS)), rest.subarray(length)]);
        break;
      case 4: {
        const from = random.below(bytes.length + 1);
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(from, from + 4 * length), rest]);
        break;
      }
      case 5:
        bytes = bytes.subarray(0, at);
        break;
      default: {
        const digit = bytes.findIndex((byte, i) => i >= at && byte >= 0x30 && byte <= 0x39);
        if (digit >= 0) bytes[digit] = 0x30 + random.below(10);
      }
    }
    bytes = Buffer.from(bytes);
  }
  return bytes;
}

const VALUES: unknown[] = [
  ...[
    null,
    true,
    -1,
    0,
    1,
    2,
    8,
    16,
    0.5,
    1e300,
    2 ** 53,
    2 ** 31,
    'F32',
    'BF16',
    'U8',
    'BOOL',
    '',
    'x',
    '../x',
    [],
    [0],
    [0, 8],
    [8, 0],
  ],
  ...[{}, { format: 'pt' }, { a: 1 }, [2 ** 32, 2 ** 32], 'LlamaForCausalLM', 'silu', 'all', 'default', { rope_type: 'llama3' }],
];

/** A copy of plain JSON in which one value is replaced, removed, moved under another key, or copied. */
function mutateJson(input: unknown, random: Random): unknown {
  const copy = JSON.parse(JSON.stringify(input)) as unknown;
  const places: [object, string][] = [];
  const walk = (value: unknown): void => {
    if (typeof value !== 'object' || value === null) return;
    for (const key of Object.keys(value)) {
      places.push([value, key]);
      walk((value as Record<string, unknown>)[key]);
    }
  };
  walk(copy);
  if (places.length === 0) return random.pick(VALUES);
  const [holder, key] = random.pick(places) as [Record<string, unknown>, string];
  const [otherHolder, otherKey] = random.pick(places) as [Record<string, unknown>, string];
  const action = random.below(4);
  if (action === 0) holder[key] = random.pick(VALUES);
  else if (action === 1) delete holder[key];
  else if (action === 2)
    holder[`${otherKey}x`.slice(random.below(2))] = JSON.parse(JSON.stringify(otherHolder[otherKey] ?? null));
  else if (typeof holder[key] === 'number') holder[key] += random.pick([-1, 1, 8, 0.5, 2 ** 52]);
  return copy;
}

/** Half by structure, half by bytes. */
const mutateText = (text: string, random: Random): Buffer =>
  random.below(2) === 0
    ? Buffer.from(JSON.stringify(mutateJson(JSON.parse(text), random)))
    : mutateBytes(Buffer.from(text), random);

interface Outcome {
  accepted: number;
  codes: Map<string, number>;
}

/** Runs `attempt` on many seeds. What it throws must be a NiftError with a known code and a message of sane length. */
async function fuzz(seed: number, rounds: number, attempt: (random: Random) => unknown): Promise<Outcome> {
  const outcome: Outcome = { accepted: 0, codes: new Map() };
  for (let round = 0; round < rounds; round++) {
    // Finalizers of mapped views run between turns of the event loop.
    if (round % 100 === 0) await new Promise((resolve) => setImmediate(resolve));
    const start = performance.now();
    try {
      await attempt(generator(seed * 1_000_003 + round));
      outcome.accepted++;
    } catch (error) {
      if (!(error instanceof NiftError)) throw new Error(`seed ${seed}, round ${round}: ${String(error)}`, { cause: error });
      expect(ERROR_CODES).toContain(error.code);
      expect(error.message.length, `seed ${seed}, round ${round}`).toBeLessThan(20_000);
      outcome.codes.set(error.code, (outcome.codes.get(error.code) ?? 0) + 1);
    }
    const time = performance.now() - start;
    if (time > SLOWEST_MS) throw new Error(`seed ${seed}, round ${round}: ${time.toFixed(0)} ms`);
  }
  return outcome;
}

/** What an opened file promises: every tensor is there, in the right size, and typed. */
function readAll(source: TensorSource): Map<string, Buffer> {
  const content = new Map<string, Buffer>();
  for (const name of source.names()) {
    const { dtype, shape, byteLength } = source.info(name);
    const elements = shape.reduce((product, size) => product * size, 1);
    expect(byteLength).toBe(elements * SAFETENSORS_DTYPES[dtype]);
    expect(source.typed(name).length).toBe(elements);
    expect(source.readFloat32(name).length).toBe(elements);
    content.set(name, Buffer.from(source.bytes(name)));
  }
  return content;
}

const ramp = (name: string, dtype: TensorToWrite['dtype'], shape: number[]): TensorToWrite => {
  const bytes = shape.reduce((a, b) => a * b, 1) * SAFETENSORS_DTYPES[dtype];
  return { name, dtype, shape, data: Uint8Array.from({ length: bytes }, (_, i) => i) };
};

const MODEL = { architectures: ['LlamaForCausalLM'], model_type: 'llama', vocab_size: 4, hidden_size: 4, intermediate_size: 6, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1, head_dim: 2, rms_norm_eps: 1e-5, hidden_act: 'silu', max_position_embeddings: 32, rope_theta: 1e4, rope_scaling: { rope_type: 'llama3', factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 16 }, tie_word_embeddings: false, torch_dtype: 'bfloat16', eos_token_id: [1, 2] }; // prettier-ignore

describe('mutated files give typed errors only', () => {
  it('safetensors', async () => {
    const valid = path.join(folder, 'valid.safetensors');
    writeCheckpoint(path.join(folder, 'one'), {
      config: MODEL,
      tensors: [
        ramp('w', 'F32', [2, 3]),
        ramp('h', 'BF16', [3]),
        ramp('i', 'I64', [1]),
        ramp('b', 'BOOL', [5]),
        ramp('e', 'F16', [0, 2]),
      ],
      metadata: { format: 'pt', step: '3' },
    });
    const bytes = readFileSync(path.join(folder, 'one', 'model.safetensors'));
    const headerBytes = Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.toString('utf8', 8, 8 + headerBytes)) as unknown;
    const data = bytes.subarray(8 + headerBytes);
    const outcome = await fuzz(1, 2 * ROUNDS, (random) => {
      if (random.below(4) === 0) writeFileSync(valid, mutateBytes(bytes, random));
      else {
        const json = mutateText(JSON.stringify(header), random);
        const prefix = Buffer.alloc(8);
        prefix.writeBigUInt64LE(BigInt(json.length));
        writeFileSync(valid, Buffer.concat([prefix, json, data]));
      }
      const mapped = openSafetensors(valid);
      const read = openSafetensors(valid, { map: false });
      try {
        const content = readAll(mapped);
        expect(readAll(read)).toEqual(content);
        const last = mapped.names().map((name) => mapped.info(name)).at(-1); // prettier-ignore
        if (last) expect(last.offset + last.byteLength).toBe(mapped.byteLength);
      } finally {
        mapped.close();
        read.close();
      }
    });
    expect(outcome.accepted).toBeGreaterThan(0);
    expect([...outcome.codes.keys()].filter((code) => code.startsWith('NIFT_SAFETENSORS_')).length).toBeGreaterThanOrEqual(10);
  });

  it('sharded indexes', async () => {
    const dir = path.join(folder, 'sharded');
    writeCheckpoint(dir, { config: MODEL, tensors: ['a', 'b', 'c'].map((name) => ramp(name, 'F32', [2])), maxShardBytes: 16 });
    const index = path.join(dir, 'model.safetensors.index.json');
    const text = readFileSync(index, 'utf8');
    // A file outside the folder that an index may want.
    writeFileSync(path.join(folder, 'x'), readFileSync(path.join(dir, 'model-00002-of-00002.safetensors')));
    const outcome = await fuzz(2, ROUNDS, (random) => {
      writeFileSync(index, mutateText(text, random));
      const tensors = openCheckpointTensors(dir);
      try {
        expect(tensors.files.every((file) => path.dirname(path.resolve(file.path)).startsWith(dir))).toBe(true);
        // Without all tensors of a shard an index is sound; the model then misses them.
        expect(['a,b,c', 'a,b', 'c']).toContain([...readAll(tensors).keys()].sort().join());
      } finally {
        tensors.close();
      }
    });
    expect(outcome.codes.get('NIFT_INDEX')).toBeGreaterThan(0);
    expect(outcome.codes.get('NIFT_INDEX_PATH')).toBeGreaterThan(0);
  });

  it('adapter folders', async () => {
    const dir = path.join(folder, 'adapter');
    const prefix = 'base_model.model.model.layers.0.self_attn.q_proj';
    writeAdapter(dir, newAdapterConfig({ r: 2, lora_alpha: 4, target_modules: ['q_proj'] }), [
      ramp(`${prefix}.lora_A.weight`, 'F32', [2, 4]),
      ramp(`${prefix}.lora_B.weight`, 'F32', [4, 2]),
    ]);
    const files = readdirSync(dir).map((name) => ({ name, bytes: readFileSync(path.join(dir, name)) }));
    const outcome = await fuzz(3, ROUNDS, async (random) => {
      const { name, bytes } = random.pick(files);
      writeFileSync(
        path.join(dir, name),
        name.endsWith('.json') ? mutateText(bytes.toString(), random) : mutateBytes(bytes, random),
      );
      try {
        const adapter = readAdapter(dir);
        expect(adapter.config.r).toBeGreaterThan(0);
        readAll(adapter.tensors);
        adapter.close();
        JSON.stringify(await inspectPath(dir));
      } finally {
        writeFileSync(path.join(dir, name), bytes);
      }
    });
    expect(outcome.codes.get('NIFT_ADAPTER_CONFIG')).toBeGreaterThan(0);
  });

  it('checkpoint folders and model configs', async () => {
    const dir = path.join(folder, 'model');
    writeCheckpoint(dir, {
      config: MODEL,
      generationConfig: { eos_token_id: 2 },
      tensors: [ramp('model.norm.weight', 'BF16', [4])],
    });
    const text = readFileSync(path.join(dir, 'config.json'), 'utf8');
    await fuzz(4, ROUNDS, async (random) => {
      writeFileSync(path.join(dir, 'config.json'), mutateText(text, random));
      JSON.stringify(await inspectPath(dir));
    });
    const outcome = await fuzz(5, ROUNDS, (random) => parseModelConfig(mutateJson(mutateJson(MODEL, random), random)));
    expect(outcome.accepted).toBeGreaterThan(0);
    expect(outcome.accepted).toBeLessThan(ROUNDS);
  });

  it('training outputs and manifests', async () => {
    const dir = path.join(folder, 'output');
    mkdirSync(dir);
    const state = JSON.stringify({
      global_step: 2,
      max_steps: 2,
      log_history: [
        { step: 1, loss: 2 },
        { step: 2, train_loss: 2 },
      ],
    });
    await fuzz(6, ROUNDS / 2, async (random) => {
      writeFileSync(path.join(dir, 'trainer_state.json'), mutateText(state, random));
      JSON.stringify(await inspectPath(dir));
    });
    writeManifest(dir, { command: 'train', config: { r: 8 } });
    const manifest = readFileSync(path.join(dir, 'nift_manifest.json'), 'utf8');
    await fuzz(7, ROUNDS / 2, (random) => {
      writeFileSync(path.join(dir, 'nift_manifest.json'), mutateText(manifest, random));
      readManifest(dir);
    });
  });

  it('recipes', async () => {
    const recipe = `# a comment
model_name_or_path: models/base
stage: sft
do_train: true
finetuning_type: lora
lora_target: q_proj,v_proj
lora_rank: 8
lora_alpha: 16
dataset: a, b
dataset_dir: data
template: vanilla
cutoff_len: 1024
output_dir: out
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
logging_steps: 10
bf16: true
seed: &a 42
data_seed: *a
`;
    expect(() => parseRecipe({ text: recipe, env: {} })).not.toThrow();
    const outcome = await fuzz(8, ROUNDS, (random) =>
      parseRecipe({ text: mutateBytes(Buffer.from(recipe), random).toString(), env: {} }),
    );
    expect(outcome.accepted).toBeGreaterThan(0);
    expect(outcome.codes.get('NIFT_RECIPE')).toBeGreaterThan(0);
  });

  it('tokenizers', async () => {
    const dir = path.join(folder, 'tokenizer');
    mkdirSync(dir);
    const tokens = ['<unk>', '<s>', '</s>', '<0x41>', '▁', 'a', 'b', '▁a', 'ab'];
    const definition = {
      added_tokens: tokens.slice(0, 3).map((content, id) => ({ id, content, special: true, normalized: false, lstrip: false, rstrip: false, single_word: false })),
      normalizer: { type: 'Sequence', normalizers: [{ type: 'Prepend', prepend: '▁' }, { type: 'Replace', pattern: { String: ' ' }, content: '▁' }] },
      pre_tokenizer: null,
      post_processor: { type: 'TemplateProcessing', single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }], pair: [], special_tokens: { '<s>': { id: '<s>', ids: [1], tokens: ['<s>'] } } },
      decoder: { type: 'Sequence', decoders: [{ type: 'Replace', pattern: { String: '▁' }, content: ' ' }, { type: 'ByteFallback' }, { type: 'Fuse' }] },
      model: { type: 'BPE', unk_token: '<unk>', byte_fallback: true, vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges: ['▁ a', 'a b'] },
    }; // prettier-ignore
    const warnings = vi.spyOn(console, 'warn').mockImplementation(() => undefined);
    const outcome = await fuzz(12, ROUNDS, (random) => {
      writeFileSync(path.join(dir, 'tokenizer.json'), mutateText(JSON.stringify(definition), random));
      const tokenizer = Tokenizer.load(dir);
      tokenizer.decode(tokenizer.encode('a b ab <s> é', { addSpecial: true }), { skipSpecial: true });
    });
    warnings.mockRestore();
    expect(outcome.accepted).toBeGreaterThan(0);
    expect(outcome.codes.get('NIFT_TOKENIZER')).toBeGreaterThan(0);
  });

  it('rows, journals and dataset_info.json', async () => {
    const file = path.join(folder, 'rows.jsonl');
    const text = Array.from({ length: 6 }, (_, i) => JSON.stringify({ instruction: `é${i}`, input: '', output: 'x😀', input_ids: [i, 2], labels: [-100, 2] })).join('\n'); // prettier-ignore
    const outcome = await fuzz(9, ROUNDS, async (random) => {
      writeFileSync(file, mutateBytes(Buffer.from(random.below(2) === 0 ? `${text}\n` : text), random));
      const rows = [...readRows(file)].map((row) => row.value);
      expect([...readJsonl(file)].map((row) => row.value)).toEqual(rows);
      expect(await inspectPath(file)).toMatchObject({ rows: rows.length });
      // A journal loses at most an unfinished last row, once.
      const journal = Journal.open(file);
      journal.append('end');
      journal.close();
      expect(rows.length - journal.rows.length).toBeLessThanOrEqual(1);
      const again = Journal.open(file);
      again.close();
      expect(again.repairedBytes).toBe(0);
      expect(again.rows.map((row) => row.value)).toEqual([...journal.rows.map((row) => row.value), 'end']);
    });
    expect(outcome.accepted).toBeGreaterThan(0);
    expect([...outcome.codes.keys()]).toEqual(['NIFT_JSON']);

    const info = JSON.stringify({
      a: { file_name: 'rows.jsonl', formatting: 'pretokenized', columns: { input_ids: 'ids' } },
      b: { file_name: 'rows.jsonl' },
    });
    await fuzz(10, ROUNDS, (random) => {
      writeFileSync(path.join(folder, 'dataset_info.json'), mutateText(info, random));
      readDatasetInfo(folder, ['a', 'b']);
    });
  });
});

describe('nothing half written', () => {
  it('a writer that refuses its tensors leaves the folder as it was', async () => {
    const dir = path.join(folder, 'whole');
    const tensors = [ramp('a', 'F32', [2]), ramp('b', 'F32', [3]), ramp('c', 'BF16', [4])];
    writeCheckpoint(dir, { config: MODEL, tensors });
    const before = readdirSync(dir).map((name) => readFileSync(path.join(dir, name)));
    const outcome = await fuzz(11, ROUNDS / 4, (random) => {
      const mutated = tensors.map((tensor) => ({ ...tensor }));
      const victim = random.pick(mutated);
      if (random.below(2) === 0) victim.shape = [random.pick([-1, 0.5, 2 ** 53, 7, NaN])];
      else if (random.below(2) === 0) victim.name = random.pick(['a', 'b', 'c', '__metadata__']);
      else victim.data = () => { throw new NiftError('NIFT_INTERNAL', 'gone'); }; // prettier-ignore
      writeCheckpoint(dir, { config: MODEL, tensors: mutated, maxShardBytes: random.pick([8, 100]) }, { replace: true });
      rmSync(dir, { recursive: true });
      writeCheckpoint(dir, { config: MODEL, tensors });
    });
    expect(outcome.codes.size).toBeGreaterThanOrEqual(4);
    expect(readdirSync(dir).map((name) => readFileSync(path.join(dir, name)))).toEqual(before);
    expect(readdirSync(folder).filter((name) => /\.(tmp|old)-/.test(name))).toEqual([]);
  });
});
