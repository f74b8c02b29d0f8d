/** Greedy decoding must give the reference's ids exactly: one by one, all in one batch, on kernels and on the reference. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { useBackend } from '../../src/backend/index.js';
import { tf } from '../../src/backend/tf.js';
import { CausalLM } from '../../src/model/causalLM.js';
import { generate } from '../../src/model/generate.js';
import { hasShared, shared } from '../golden.js';
import { BACKENDS, goldenJson, model } from '../model/fixtures.js';

interface Golden {
  model: string;
  adapter: string | null;
  max_new_tokens: number;
  cases: { input_ids: number[]; output_ids: number[]; stopped_by: string }[];
}

const FILES = [
  'stories260k',
  'stories260k-adapter',
  'stories260k-from-bos-300',
  'stories260k-instruct',
  'tiny-llama2',
  'tiny-llama3',
  'tiny-llama31',
  'tiny-mistral',
];

describe.skipIf(!hasShared).each(BACKENDS)('greedy decoding on %s', (backend) => {
  beforeAll(async () => {
    await useBackend(backend);
  });

  describe.each(FILES)('%s', (name) => {
    const golden = hasShared
      ? goldenJson<Golden>('generate', `${name}.json`)
      : { model: '', adapter: null, max_new_tokens: 1, cases: [] };
    // Stock ops take a second per hundred tokens; the start of each text is proof enough there.
    const limit = backend === 'native' ? golden.max_new_tokens : Math.min(golden.max_new_tokens, 24);
    let lm: CausalLM;
    beforeAll(async () => {
      const adapter = golden.adapter === null ? {} : { adapter: shared('golden', golden.adapter) };
      lm = await CausalLM.load(model(golden.model), { dtype: 'float32', ...adapter });
    });
    afterAll(() => lm.dispose());

    const prompts = golden.cases.map(({ input_ids: ids }) => Int32Array.from(ids));
    const expected = golden.cases.map(({ output_ids: ids, stopped_by: reason }) => ({
      outputIds: Int32Array.from(ids.slice(0, limit)),
      stopReason: ids.length > limit ? 'length' : reason,
    }));

    it('gives the ids in one batch, and leaves no tensors', async () => {
      const before = tf.memory();
      expect(await generate(lm, prompts, { maxNewTokens: limit, batchSize: prompts.length })).toEqual(expected);
      expect(tf.memory().numTensors).toBe(before.numTensors);
      expect(tf.memory().numBytes).toBe(before.numBytes);
    });

    it.skipIf(prompts.length < 2)('gives the ids one by one', async () => {
      expect(await generate(lm, prompts, { maxNewTokens: limit, batchSize: 1 })).toEqual(expected);
    });
  });
});
