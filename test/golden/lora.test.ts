/** Losses, logits and gradients with PEFT adapters, with and without gradient checkpointing. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { useBackend } from '../../src/backend/index.js';
import { tf, type Variable } from '../../src/backend/tf.js';
import { CausalLM } from '../../src/model/causalLM.js';
import { expectClose } from '../expectClose.js';
import { hasShared, shared } from '../golden.js';
import { BACKENDS, goldenJson, goldenTensors, model, pack, packRows, sum, type PaddedBatch } from '../model/fixtures.js';

interface Case extends PaddedBatch {
  model: string;
  scaling: number;
  target_tokens: number;
  loss: number;
  loss_without_adapter: number;
  grad_norm: number;
}

const CASES = [
  'stories260k-r8',
  'stories260k-r16-rslora',
  'tiny-llama2-r8',
  'tiny-llama3-r8',
  'tiny-llama31-r4-padded',
  'tiny-mistral-r8-padded',
  'tiny-mistral-qv',
  'tiny-mistral-nosw-r8',
  'tiny-qwen2-r8',
];

describe.skipIf(!hasShared).each([...BACKENDS, 'wasm'])('LoRA on %s', (backend) => {
  beforeAll(async () => {
    await useBackend(backend);
  });

  describe.each(backend === 'wasm' ? ['tiny-qwen2-r8'] : CASES)('%s', (name) => {
    let golden: Case;
    let lm: CausalLM;
    beforeAll(async () => {
      golden = goldenJson<Case>('lora', name, 'case.json');
      lm = await CausalLM.load(model(golden.model), { dtype: 'float32', adapter: shared('golden', 'lora', name), train: 'lora' });
    });
    afterAll(() => lm.dispose());

    it('gives the logits', () => {
      const batch = pack(golden);
      const want = goldenTensors('lora', name, 'logits.safetensors').get('logits')!;
      const logits = lm.logits(batch);
      expectClose(logits.dataSync(), packRows(want.data, want.shape, batch.cuSeqlens), { abs: 5e-4, label: 'logits' });
      logits.dispose();
    });

    it('gives the loss and every gradient', () => {
      const { loss, gradients } = lossAndGradients(lm, golden);
      expect(Math.abs(loss - golden.loss)).toBeLessThan(2e-5);
      const want = goldenTensors('lora', name, 'grads.safetensors');
      expect([...gradients.keys()].sort()).toEqual([...want.keys()].sort());
      let squares = 0;
      for (const [key, values] of gradients) {
        expectClose(values, want.get(key)!.data, { relToMax: 1e-3, label: key });
        for (const value of values) squares += value * value;
      }
      expect(Math.abs(Math.sqrt(squares) / golden.grad_norm - 1)).toBeLessThan(1e-3);
    });

    it('gives the base model when the adapter is left off', async () => {
      const base = await CausalLM.load(model(golden.model), { dtype: 'float32' });
      const nll = base.nll(pack(golden));
      const loss = sum(nll.dataSync()) / golden.target_tokens;
      nll.dispose();
      base.dispose();
      expect(Math.abs(loss - golden.loss_without_adapter)).toBeLessThan(2e-5);
    });
  });

  it('gives bitwise the same gradients with gradient checkpointing', async () => {
    const name = 'tiny-mistral-r8-padded';
    const golden = goldenJson<Case>('lora', name, 'case.json');
    const runs = [];
    for (const gradientCheckpointing of [false, true]) {
      const options = {
        dtype: 'float32',
        adapter: shared('golden', 'lora', name),
        train: 'lora',
        gradientCheckpointing,
      } as const;
      const lm = await CausalLM.load(model(golden.model), options);
      const tensors = tf.memory().numTensors;
      runs.push(lossAndGradients(lm, golden));
      expect(tf.memory().numTensors).toBe(tensors);
      lm.dispose();
    }
    expect(runs[1]!.loss).toBe(runs[0]!.loss);
    for (const [key, values] of runs[0]!.gradients) expectClose(runs[1]!.gradients.get(key)!, values, { abs: 0, label: key });
  });
});

function lossAndGradients(lm: CausalLM, golden: Case): { loss: number; gradients: Map<string, Float32Array> } {
  const variables = lm.trainable();
  const batch = pack(golden);
  const mean = (): tf.Scalar => tf.div(tf.sum(lm.nll(batch)), golden.target_tokens);
  const { value, grads } = tf.variableGrads(mean, [...variables.values()]);
  const of = ({ name }: Variable): Float32Array => (grads[name]!.dataSync() as Float32Array).slice();
  const gradients = new Map([...variables].map(([key, variable]) => [key, of(variable)]));
  const loss = value.dataSync()[0]!;
  tf.dispose([value, grads]);
  return { loss, gradients };
}
