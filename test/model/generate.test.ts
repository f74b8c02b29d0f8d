/** Sampling and the ways a generation ends. Greedy ids against the reference are in test/golden/generate.test.ts. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { useBackend } from '../../src/backend/index.js';
import { CausalLM } from '../../src/model/causalLM.js';
import { parseModelConfig } from '../../src/model/config.js';
import { generate, type TokenEvent } from '../../src/model/generate.js';
import { Sampler, type SamplingOptions } from '../../src/model/sampling.js';
import { tinyQwen3 } from './fixtures.js';

/** Frequencies of the tokens that many draws give. */
function frequencies(logits: readonly number[], options: SamplingOptions, draws = 20000): number[] {
  const sampler = new Sampler({ seed: 3, ...options }, 0, new Int32Array(0));
  const counts = logits.map(() => 0);
  for (let i = 0; i < draws; i++) counts[sampler.next(Float32Array.from(logits))]! += 1 / draws;
  return counts;
}

function expectNear(actual: readonly number[], expected: readonly number[]): void {
  // Five standard deviations of a share in 20,000 draws.
  actual.forEach((share, i) => {
    if (expected[i] === 0) expect(share).toBe(0);
    else expect(Math.abs(share - expected[i]!)).toBeLessThan(5 * Math.sqrt(0.25 / 20000));
  });
}

describe('sampling', () => {
  const probabilities = [0.05, 0.4, 0.1, 0.25, 0.2];
  const logits = probabilities.map((p) => Math.log(p) + 7);
  const renormalised = (keep: readonly number[]): number[] => {
    const total = keep.reduce((sum, i) => sum + probabilities[i]!, 0);
    return probabilities.map((p, i) => (keep.includes(i) ? p / total : 0));
  };

  it('draws from the softmax', () => expectNear(frequencies(logits, { temperature: 1 }), probabilities));

  it('sharpens with a low temperature', () => {
    const squares = probabilities.map((p) => p * p);
    const total = squares.reduce((a, b) => a + b);
    expectNear(
      frequencies(logits, { temperature: 0.5 }),
      squares.map((s) => s / total),
    );
    expect(frequencies(logits, { temperature: 1e-4 }, 50)[1]).toBeCloseTo(1);
  });

  it('keeps the k most likely, with ties', () => {
    expectNear(frequencies(logits, { temperature: 1, topK: 2 }), renormalised([1, 3]));
    expectNear(frequencies([0, 1, 1, 0], { temperature: 1, topK: 1 }), [0, 0.5, 0.5, 0]);
    expectNear(frequencies(logits, { temperature: 1, topK: 99 }), probabilities);
  });

  it('keeps the fewest that reach p', () => {
    expectNear(frequencies(logits, { temperature: 1, topP: 0.6 }), renormalised([1, 3]));
    expectNear(frequencies(logits, { temperature: 1, topP: 0.7 }), renormalised([1, 3, 4]));
    expectNear(frequencies(logits, { temperature: 1, topP: 1e-6 }), renormalised([1]));
    // 0.4, 0.25, 0.2 renormalised over the top three: 0.47 reaches 0.4 alone.
    expectNear(frequencies(logits, { temperature: 1, topK: 3, topP: 0.4 }), renormalised([1]));
  });

  it('makes tokens that were seen less likely, whatever their sign', () => {
    const next = (row: number[], prompt: number[], repetitionPenalty: number): number =>
      new Sampler({ repetitionPenalty }, 0, Int32Array.from(prompt)).next(Float32Array.from(row));
    expect(next([3, 2, 1], [0], 2)).toBe(1);
    expect(next([3, 2, 1], [0, 0], 1.4)).toBe(0);
    expect(next([-1, -1.5, -9], [0], 2)).toBe(1);
    const sampler = new Sampler({ repetitionPenalty: 2 }, 0, new Int32Array(0));
    expect([0, 0, 0].map(() => sampler.next(Float32Array.of(3, 2, 1.6)))).toEqual([0, 1, 2]);
  });

  it.each([0, 1])('refuses logits that are no numbers, at temperature %d', (temperature) => {
    for (const row of [
      [NaN, NaN],
      [1, 2, NaN],
      [NaN, 3],
      [Infinity, 0],
      [-Infinity, -Infinity],
    ]) {
      const sampler = new Sampler({ temperature }, 0, new Int32Array(0));
      expect(() => sampler.next(Float32Array.from(row))).toThrow(
        expect.objectContaining({ code: 'NIFT_NON_FINITE', exitCode: 1 }),
      );
    }
  });

  it.each([{ temperature: -1 }, { topK: 1.5 }, { topP: 0 }, { topP: 1.1 }, { repetitionPenalty: 0 }, { seed: -1 }])(
    'refuses %j',
    async (options) => {
      await expect(generate(lm, [Int32Array.of(1)], options)).rejects.toMatchObject({ code: 'NIFT_USAGE' });
    },
  );
});

let lm: CausalLM;
beforeAll(async () => {
  await useBackend('native');
  lm = CausalLM.fromConfig(parseModelConfig(tinyQwen3({ eos_token_id: null })), { seed: 2 });
});
afterAll(() => lm.dispose());

const prompts = [Int32Array.of(1, 2, 3), Int32Array.of(9), Int32Array.of(4, 4, 4, 4, 4), Int32Array.of(60, 7)];
/** One letter per id, so that text positions are easy to see. */
const decode = (ids: Int32Array): string => Array.from(ids, (id) => String.fromCharCode(65 + id)).join('');

describe('a generation', () => {
  it('does not depend on what else is in the batch, sampled or not', async () => {
    for (const options of [{ temperature: 0.9, topP: 0.95, seed: 5 }, { repetitionPenalty: 1.3 }]) {
      const together = await generate(lm, prompts, { maxNewTokens: 12, batchSize: 4, ...options });
      const inTwos = await generate(lm, prompts, { maxNewTokens: 12, batchSize: 2, ...options });
      expect(inTwos).toEqual(together);
    }
    const sampled = await generate(lm, [prompts[0]!, prompts[0]!], { maxNewTokens: 12, temperature: 1 });
    expect(sampled[0]!.outputIds).not.toEqual(sampled[1]!.outputIds);
    expect(await generate(lm, [prompts[0]!, prompts[0]!], { maxNewTokens: 12, temperature: 1 })).toEqual(sampled);
    const other = await generate(lm, [prompts[0]!], { maxNewTokens: 12, temperature: 1, seed: 8 });
    expect(other[0]!.outputIds).not.toEqual(sampled[0]!.outputIds);
  });

  it('ends with its own stop token while the others go on', async () => {
    const free = await generate(lm, prompts, { maxNewTokens: 10 });
    const eos = free[1]!.outputIds[4]!;
    const ended = await generate(lm, prompts, { maxNewTokens: 10, eosTokenIds: [eos] });
    ended.forEach(({ outputIds, stopReason }, i) => {
      const at = free[i]!.outputIds.indexOf(eos);
      expect(outputIds).toEqual(at < 0 ? free[i]!.outputIds : free[i]!.outputIds.slice(0, at + 1));
      expect(stopReason).toBe(at < 0 ? 'length' : 'eos');
    });
    const stopped = await generate(lm, [prompts[1]!], { maxNewTokens: 10, stopTokenIds: [eos] });
    expect(stopped[0]).toMatchObject({ stopReason: 'stop', outputIds: ended[1]!.outputIds });
  });

  it('ends before a stop text, also one that spans tokens', async () => {
    const [free] = await generate(lm, [prompts[0]!], { maxNewTokens: 12, decode });
    expect(free!.text).toBe(decode(free!.outputIds));
    const stop = free!.text!.slice(5, 8);
    const at = free!.text!.indexOf(stop);
    const [stopped] = await generate(lm, [prompts[0]!], { maxNewTokens: 12, decode, stop: ['never', stop] });
    expect(stopped).toEqual({ stopReason: 'stop', text: free!.text!.slice(0, at), outputIds: free!.outputIds.slice(0, at + 3) });
  });

  it('reports each token as it is chosen', async () => {
    const events: TokenEvent[] = [];
    const results = await generate(lm, prompts, { maxNewTokens: 3, batchSize: 3 }, (event) => events.push(event));
    results.forEach(({ outputIds, stopReason }, sequence) => {
      const own = events.filter((event) => event.sequence === sequence);
      expect(own.map(({ token, count }) => [token, count])).toEqual(Array.from(outputIds, (token, i) => [token, i + 1]));
      expect(own.map((event) => event.stopReason)).toEqual([undefined, undefined, stopReason]);
    });
  });

  it('stops when asked to, with what there is', async () => {
    const controller = new AbortController();
    const results = await generate(lm, prompts, { maxNewTokens: 50, batchSize: 3, signal: controller.signal }, ({ count }) => {
      if (count === 2) controller.abort();
    });
    expect(results.map(({ outputIds, stopReason }) => [outputIds.length, stopReason])).toEqual([
      [2, 'abort'],
      [2, 'abort'],
      [2, 'abort'],
      [0, 'abort'],
    ]);
  });

  it('refuses what does not fit, before it starts', async () => {
    const long = new Int32Array(120);
    await expect(generate(lm, [prompts[0]!, long], { maxNewTokens: 9 })).rejects.toMatchObject({
      code: 'NIFT_CONTEXT_LENGTH',
      hint: expect.stringContaining('at most 8'),
    });
    expect((await generate(lm, [long]))[0]).toMatchObject({ stopReason: 'length', outputIds: { length: 8 } });
    await expect(generate(lm, [Int32Array.of(61)])).rejects.toMatchObject({ code: 'NIFT_TOKEN_ID' });
    await expect(generate(lm, [new Int32Array(0)])).rejects.toMatchObject({ code: 'NIFT_USAGE' });
    await expect(generate(lm, prompts, { stop: ['x'] })).rejects.toMatchObject({ code: 'NIFT_USAGE' });
    expect(await generate(lm, [])).toEqual([]);
  });

  it('reads prompts longer than a step in pieces', async () => {
    const long = Int32Array.from({ length: 100 }, (_, i) => (i * 7) % 61);
    const whole = await generate(lm, [long, prompts[1]!], { maxNewTokens: 6 });
    expect(await generate(lm, [long, prompts[1]!], { maxNewTokens: 6, prefillTokens: 16 })).toEqual(whole);
    const logits = lm.logits({ inputIds: long, cuSeqlens: Int32Array.of(0, 100) }, Int32Array.of(99));
    const row = logits.dataSync() as Float32Array;
    expect(whole[0]!.outputIds[0]).toBe(row.indexOf(Math.max(...row)));
    logits.dispose();
  });
});
