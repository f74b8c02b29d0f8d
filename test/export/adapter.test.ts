/** Exported adapters: (alpha / rank) B A of the file, permuted back, is PEFT's s B A. */
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { exportAdapter } from '../../src/export/gguf/adapter.js';
import { sourceRow } from '../../src/export/gguf/tensors.js';
import { adapterScaling, readAdapter } from '../../src/formats/adapter.js';
import { openGguf } from '../../src/formats/gguf/reader.js';
import { nift } from '../cli/run.js';
import { tempFolder } from '../formats/tempFolder.js';
import { hasShared, shared } from '../golden.js';

const folder = tempFolder();
let count = 0;

const CASES: [string, string][] = [
  ['stories260k-r8', 'stories260k'],
  ['stories260k-r16-rslora', 'stories260k'],
  ['tiny-mistral-qv', 'tiny-mistral'],
  ['tiny-qwen2-r8', 'tiny-qwen2'],
];
const HEAD_DIM: Record<string, number> = { stories260k: 8, 'tiny-mistral': 16, 'tiny-qwen2': 16 };
const SHORT: Record<string, string> = {
  q_proj: 'attn_q',
  k_proj: 'attn_k',
  v_proj: 'attn_v',
  o_proj: 'attn_output',
  gate_proj: 'ffn_gate',
  up_proj: 'ffn_up',
  down_proj: 'ffn_down',
};

/** Compares every scaling * B with the file's, element by element. */
function check(adapter: string, model: string): void {
  const out = path.join(folder, `adapter-${count++}.gguf`);
  exportAdapter({ adapter, model: shared('models', model), out, type: 'F32' });
  const gguf = openGguf(out);
  const qwen = model.includes('qwen');
  expect(gguf.value('general.architecture')).toBe(qwen ? 'qwen2' : 'llama');
  expect(gguf.value('general.type')).toBe('adapter');
  expect(gguf.value('adapter.type')).toBe('lora');
  const alpha = gguf.value('adapter.lora.alpha') as number;
  const source = readAdapter(adapter);
  const { config, tensors } = source;
  expect(gguf.tensors.size).toBe(tensors.names().length);
  for (const name of tensors.names().filter((candidate) => candidate.includes('lora_A'))) {
    const [, layer, module] = /layers\.(\d+)\.\w+\.(\w+)\.lora_A/.exec(name)!;
    const target = `blk.${layer}.${SHORT[module!]}.weight`;
    const { r, scaling } = adapterScaling(config, /model\.(model\..*)\.lora_A/.exec(name)![1]!);
    const a = gguf.tensors.get(`${target}.lora_a`)!;
    const b = gguf.tensors.get(`${target}.lora_b`)!;
    expect([a.shape, b.shape]).toEqual([tensors.info(name).shape, tensors.info(name.replace('lora_A', 'lora_B')).shape]);
    expect(new Float32Array(gguf.bytes(`${target}.lora_a`).buffer)).toEqual(tensors.readFloat32(name));
    const written = new Float32Array(gguf.bytes(`${target}.lora_b`).buffer);
    const original = tensors.readFloat32(name.replace('lora_A', 'lora_B'));
    const moved = !qwen && /^[qk]_proj$/.test(module!);
    let worst = 0;
    for (let i = 0; i < written.length; i++) {
      const row = Math.floor(i / r);
      const expected = scaling * original[(moved ? sourceRow(row, HEAD_DIM[model]!) : row) * r + (i % r)]!;
      worst = Math.max(worst, Math.abs((alpha / r) * written[i]! - expected) / (Math.abs(expected) + 1e-12));
    }
    expect(worst, name).toBeLessThan(2e-7);
  }
  source.close();
  gguf.close();
}

describe.skipIf(!hasShared)('adapters', () => {
  it.each(CASES)('%s', (name, model) => {
    check(shared('golden', 'lora', name), model);
  });

  it('folds patterns of alpha into B', () => {
    const changed = path.join(folder, 'patterns');
    cpSync(shared('golden', 'lora', 'stories260k-r8'), changed, { recursive: true });
    const file = path.join(changed, 'adapter_config.json');
    const config = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
    writeFileSync(file, JSON.stringify({ ...config, alpha_pattern: { down_proj: 3, 'layers.1.self_attn.k_proj': 50 } }));
    check(changed, 'stories260k');
  });

  it('refuses the adapter of another model', () => {
    expect(() =>
      exportAdapter({
        adapter: shared('golden', 'lora', 'tiny-llama2-r8'),
        model: shared('models', 'stories260k'),
        out: path.join(folder, 'wrong.gguf'),
        type: 'F16',
      }),
    ).toThrow(expect.objectContaining({ code: 'NIFT_ADAPTER_MISMATCH' }));
  });
});

describe.skipIf(!hasShared)('nift export', () => {
  const base = shared('models', 'stories260k');

  it('writes a model and its Modelfile, and reports as JSON', async () => {
    const out = path.join(folder, 'cli.gguf');
    const modelfile = path.join(folder, 'Modelfile');
    const { code, stdout } = await nift([
      'export',
      '--model',
      base,
      '--out',
      out,
      '--type',
      'q8_0',
      '--modelfile',
      modelfile,
      '--json',
    ]);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      file: out,
      kind: 'model',
      architecture: 'llama',
      type: 'Q8_0',
      tensors: 47,
      modelfile,
    });
    expect(readFileSync(modelfile, 'utf8')).toMatch(/^FROM \.\/cli\.gguf\n/);
  });

  it('writes an adapter whose Modelfile names the base', async () => {
    const out = path.join(folder, 'cli-adapter.gguf');
    const modelfile = path.join(folder, 'Modelfile.adapter');
    const adapter = shared('golden', 'lora', 'stories260k-r8');
    const { code, stderr } = await nift([
      'export',
      '--adapter',
      adapter,
      '--model',
      base,
      '--out',
      out,
      '--modelfile',
      modelfile,
    ]);
    expect(code).toBe(0);
    expect(stderr).toContain('adapter, llama, F32, 70 tensors');
    expect(readFileSync(modelfile, 'utf8')).toMatch(/^FROM .*stories260k\nADAPTER \.\/cli-adapter\.gguf\n/);
  });

  it.each([
    [['--out', 'x.gguf'], '--model DIR is missing'],
    [['--model', base], '--out FILE.gguf is missing'],
    [['--model', base, '--adapter', 'a', '--out', 'x.gguf', '--type', 'q8_0'], '--type q8_0 is for models'],
    [['--model', base, '--out', 'x.gguf', '--type', 'q4_0'], 'expected one of'],
  ])('explains bad usage %#', async (args, message) => {
    const { code, stderr } = await nift(['export', ...args]);
    expect([code, stderr]).toEqual([2, expect.stringContaining(message)]);
  });
});
