/** Logits, losses and hidden states of every reference model, on the kernels and on the composed reference. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { useBackend } from '../../src/backend/index.js';
import type { Tensor } from '../../src/backend/tf.js';
import { shiftLabels } from '../../src/data/batch.js';
import { CausalLM } from '../../src/model/causalLM.js';
import { expectClose } from '../expectClose.js';
import { hasShared } from '../golden.js';
import {
  BACKENDS,
  FORWARD_MODELS,
  goldenJson,
  goldenTensors,
  model,
  pack,
  packRows,
  sum,
  type GoldenTensor,
  type PaddedBatch,
} from '../model/fixtures.js';

interface Golden {
  batch: PaddedBatch & { loss: number; loss_sum: number; target_tokens: number; row_loss_sum: number[] };
  small: { input_ids: number[][] };
  long: { input_ids: number[][]; positions: number[]; loss: number; target_tokens: number };
}

// Tolerances are those of the reference data's README.
const LOGITS = 5e-4;
const HIDDEN = 2e-5;
const LOSS = 2e-5;

describe.skipIf(!hasShared).each([...BACKENDS, 'wasm'])('forward on %s', (backend) => {
  beforeAll(async () => {
    await useBackend(backend);
  });

  // One model on a third backend shows that nothing depends on the first two.
  describe.each(backend === 'wasm' ? ['tiny-mistral'] : FORWARD_MODELS)('%s', (name) => {
    let lm: CausalLM;
    let golden: Golden;
    let tensors: Map<string, GoldenTensor>;
    beforeAll(async () => {
      golden = goldenJson<Golden>('forward', `${name}.json`);
      tensors = goldenTensors('forward', `${name}.safetensors`);
      lm = await CausalLM.load(model(name), { dtype: 'float32' });
    });
    afterAll(() => lm.dispose());

    it('gives the logits and losses of a ragged batch', () => {
      const batch = pack(golden.batch);
      const logits = lm.logits(batch);
      const want = tensors.get('batch.logits')!;
      expectClose(logits.dataSync(), packRows(want.data, want.shape, batch.cuSeqlens), { abs: LOGITS, label: 'logits' });
      logits.dispose();
      const nll = lm.nll(batch);
      const values = nll.dataSync();
      nll.dispose();
      expect(shiftLabels(batch).filter((label) => label !== -100)).toHaveLength(golden.batch.target_tokens);
      expect(Math.abs(sum(values) / golden.batch.target_tokens - golden.batch.loss)).toBeLessThan(LOSS);
      const { row_loss_sum: rows } = golden.batch;
      expectClose(
        rows.map((_, b) => sum(values.subarray(batch.cuSeqlens[b], batch.cuSeqlens[b + 1]))),
        rows,
        { abs: LOSS * golden.batch.target_tokens, label: 'row losses' },
      );
      expectTokenNll(values, tensors.get('batch.token_nll')!, batch.cuSeqlens);
    });

    it('gives every hidden state', () => {
      const seen = new Map<string, Float32Array>();
      const batch = pack(golden.small);
      const trace = (key: string, value: Tensor): void => void seen.set(key, (value.dataSync() as Float32Array).slice());
      lm.hidden(batch, { trace }).dispose();
      for (const [key, want] of tensors) {
        if (!key.startsWith('small.hidden.')) continue;
        const local = key.slice('small.hidden.'.length);
        const got = seen.get(local);
        if (got === undefined) throw new Error(`nothing traced as ${local}`);
        expectClose(got, local.endsWith('_rope') ? byToken(want) : want.data, { relToMax: HIDDEN, label: key });
      }
    });

    it('gives the logits of a long text at chosen positions', () => {
      const batch = pack(golden.long);
      const logits = lm.logits(batch, Int32Array.from(golden.long.positions));
      expectClose(logits.dataSync(), tensors.get('long.logits')!.data, { abs: LOGITS, label: 'long logits' });
      logits.dispose();
    });
  });
});

/** [1, heads, T, D] -> [T, heads * D] */
function byToken({ shape, data }: GoldenTensor): Float32Array {
  const [, heads, tokens, width] = shape as [number, number, number, number];
  const result = new Float32Array(data.length);
  for (let h = 0; h < heads; h++) {
    for (let t = 0; t < tokens; t++) {
      result.set(data.subarray((h * tokens + t) * width, (h * tokens + t + 1) * width), (t * heads + h) * width);
    }
  }
  return result;
}

function expectTokenNll(values: ArrayLike<number>, want: GoldenTensor, cuSeqlens: Int32Array): void {
  const [rows, width] = want.shape as [number, number];
  for (let b = 0; b < rows; b++) {
    const length = cuSeqlens[b + 1]! - cuSeqlens[b]!;
    const got = Array.from(values).slice(cuSeqlens[b], cuSeqlens[b]! + length - 1);
    expectClose(got, want.data.subarray(b * width, b * width + length - 1), { abs: LOGITS, label: `token_nll of row ${b}` });
  }
}
