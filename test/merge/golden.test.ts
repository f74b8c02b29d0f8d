/** Merged weights against PEFT's, logits against the unmerged model, and generation: equal before and after. */
import path from 'node:path';
import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { useBackend } from '../../src/backend/index.js';
import { openSafetensors } from '../../src/formats/safetensors.js';
import { openCheckpointTensors } from '../../src/formats/shards.js';
import { merge } from '../../src/merge/merge.js';
import { CausalLM } from '../../src/model/causalLM.js';
import { generate } from '../../src/model/generate.js';
import { tempFolder } from '../formats/tempFolder.js';
import { hasShared, shared } from '../golden.js';

const CASES = [
  'lora-base-stories260k-to-instruct-bf16',
  'stories260k-fp32',
  'stories260k-rslora-fp32',
  'tiny-llama2-r8-fp16',
  'tiny-llama3-r8-bf16',
  'tiny-mistral-qv-bf16',
];
interface Case {
  adapter: string;
  merge_into: string;
  merged_tensors: string[];
}

describe.skipIf(!hasShared)('golden merges', () => {
  const temp = tempFolder();
  beforeAll(() => useBackend('native'));

  it.each(CASES)('%s', async (name) => {
    const folder = shared('golden', 'merge', name);
    const given = JSON.parse(readFileSync(path.join(folder, 'case.json'), 'utf8')) as Case;
    const model = shared('models', given.merge_into);
    const out = path.join(temp, name);
    const adapter = shared('golden', given.adapter);
    const options = { model, adapters: [{ folder: adapter }], out, sync: false };
    if (name.startsWith('lora-base')) await expect(merge(options)).rejects.toMatchObject({ code: 'NIFT_MERGE_BASE' });
    const result = await merge({ ...options, allowBase: name.startsWith('lora-base') });
    expect(result.verify?.logits).not.toBeNull();

    const expected = openSafetensors(path.join(folder, 'merged.safetensors'));
    const [merged, source] = [openCheckpointTensors(out), openCheckpointTensors(model)];
    expect(merged.names().sort()).toEqual(source.names().sort());
    expect(expected.names().sort()).toEqual([...given.merged_tensors].sort());
    let elements = 0;
    let different = 0;
    for (const tensor of merged.names()) {
      if (!expected.has(tensor)) {
        expect(Buffer.from(merged.bytes(tensor)).equals(source.bytes(tensor)), tensor).toBe(true);
        continue;
      }
      expect(merged.info(tensor).dtype).toBe(expected.info(tensor).dtype);
      const [a, b] = [merged.typed(tensor), expected.typed(tensor)];
      expect(a.length).toBe(b.length);
      elements += a.length;
      let furthest = 0;
      for (let i = 0; i < a.length; i++) {
        if (a[i] === b[i]) continue;
        different++;
        furthest = Math.max(furthest, Math.abs(Number(a[i]) - Number(b[i])));
      }
      // 16-bit: neighbouring bit patterns; float32: 1e-6.
      expect(furthest, tensor).toBeLessThanOrEqual(a instanceof Float32Array ? 1e-6 : 1);
    }
    expect(elements).toBeGreaterThan(10_000);
    if (expected.info(expected.names()[0]!).dtype !== 'F32') expect(different / elements).toBeLessThan(1e-4);
    for (const file of [expected, merged, source]) file.close();

    const logits = openSafetensors(path.join(folder, 'logits.safetensors'));
    const ids = Int32Array.from(logits.typed('input_ids') as BigInt64Array, Number);
    const loaded = await CausalLM.load(out, { dtype: 'float32' });
    const found = loaded.logits({ inputIds: ids, cuSeqlens: Int32Array.of(0, ids.length) }).dataSync();
    const reference = logits.readFloat32('merged_logits');
    expect(found.length).toBe(reference.length);
    // An element one unit away moves 16-bit logits a little.
    for (let i = 0; i < found.length; i++) expect(Math.abs(found[i]! - reference[i]!)).toBeLessThan(2e-3);
    loaded.dispose();
  });

  it('generates what base and adapter generate', async () => {
    const model = shared('models', 'stories260k');
    const adapter = shared('golden', 'train/stories260k-accum2-micromean-warmup0/final_adapter');
    const out = path.join(temp, 'generation');
    await merge({ model, adapters: [{ folder: adapter }], out, sync: false, verify: 0 });
    const prompts = [Int32Array.of(1), Int32Array.of(1, 403, 407, 261, 378), Int32Array.of(1, 411, 391)];
    const texts: number[][][] = [];
    for (const [folder, options] of [
      [model, { adapter }],
      [out, {}],
    ] as const) {
      const loaded = await CausalLM.load(folder, { dtype: 'float32', ...options });
      const results = await generate(loaded, prompts, { maxNewTokens: 80 });
      texts.push(results.map((result) => [...result.outputIds]));
      loaded.dispose();
    }
    expect(texts[1]).toEqual(texts[0]);
    expect(texts[0]!.every((ids) => ids.length >= 20)).toBe(true);
  });
});
