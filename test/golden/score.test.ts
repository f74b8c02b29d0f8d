/** Log-likelihoods of continuations against lm-evaluation-harness' definition on transformers. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { useBackend } from '../../src/backend/index.js';
import { CausalLM } from '../../src/model/causalLM.js';
import { encodePair, score, type Score, type ScoreItem } from '../../src/model/score.js';
import { Tokenizer } from '../../src/tokenizer/tokenizer.js';
import { expectClose } from '../expectClose.js';
import { hasShared } from '../golden.js';
import { BACKENDS, goldenJson, model } from '../model/fixtures.js';

interface Case {
  context?: string;
  continuation?: string;
  add_bos?: boolean;
  context_ids: number[];
  continuation_ids: number[];
  logprob: number;
  token_logprobs: number[];
  is_greedy: boolean;
}

describe.skipIf(!hasShared).each(BACKENDS)('scores on %s', (backend) => {
  beforeAll(async () => {
    await useBackend(backend);
  });

  describe.each(['stories260k', 'tiny-llama3'])('%s', (name) => {
    const { cases } = hasShared ? goldenJson<{ cases: Case[] }>('generate', `${name}-loglikelihood.json`) : { cases: [] };
    const items = cases.map(({ context_ids: context, continuation_ids: continuation }): ScoreItem => ({
      contextIds: Int32Array.from(context),
      continuationIds: Int32Array.from(continuation),
    }));
    let lm: CausalLM;
    beforeAll(async () => {
      lm = await CausalLM.load(model(name), { dtype: 'float32' });
    });
    afterAll(() => lm.dispose());

    it('gives log-probabilities and greediness, packed', () => check(score(lm, items), cases));

    it('gives the same in small passes and pieces', () => check(score(lm, items, { batchTokens: 7 }), cases));
  });
});

describe.skipIf(!hasShared)('splitting text', () => {
  it('gives the reference ids', () => {
    const { cases } = goldenJson<{ cases: Case[] }>('generate', 'stories260k-loglikelihood.json');
    const tokenizer = Tokenizer.load(model('stories260k'));
    const encode = (text: string, addSpecial: boolean): ArrayLike<number> => tokenizer.encode(text, { addSpecial });
    for (const { context, continuation, add_bos: addBos, context_ids, continuation_ids } of cases) {
      const item = encodePair(encode, tokenizer.bosId ?? null, context!, continuation!, addBos);
      expect(Array.from(item.contextIds), context).toEqual(context_ids);
      expect(Array.from(item.continuationIds), context).toEqual(continuation_ids);
    }
  });
});

function check(scores: Score[], cases: readonly Case[]): void {
  expect(scores).toHaveLength(cases.length);
  scores.forEach((got, i) => {
    const want = cases[i]!;
    expectClose(got.tokenLogprobs, want.token_logprobs, { abs: 1e-3, label: `tokens of case ${i}` });
    expectClose([got.logprob], [want.logprob], { abs: 5e-3, label: `case ${i}` });
    expect(got.isGreedy, `case ${i}`).toBe(want.is_greedy);
    expect(got.numTokens).toBe(want.continuation_ids.length);
  });
}
