/** Guards against the ways in which models never learn to stop: a missing end token, a double or missing begin token. */
import { describe, expect, it } from 'vitest';
import { NiftError } from '../../src/errors.js';
import { getTemplate, registerTemplate, Template, templateNames } from '../../src/templates/index.js';
import { Tokenizer } from '../../src/tokenizer/tokenizer.js';
import { hasShared, shared } from '../golden.js';

const code = (run: () => unknown): string => {
  try {
    run();
  } catch (error) {
    return (error as NiftError).code;
  }
  return 'none';
};

describe('registry', () => {
  it('finds templates and suggests the nearest', () => {
    expect(getTemplate('vanilla').name).toBe('vanilla');
    expect(templateNames()).toContain('vanilla');
    expect(() => getTemplate('vanila')).toThrow('Did you mean "vanilla"?');
    expect(code(() => getTemplate('vanila'))).toBe('NIFT_TEMPLATE_UNKNOWN');
    expect(code(() => registerTemplate(getTemplate('vanilla')))).toBe('NIFT_USAGE');
  });

  it('identifies a template by its content', () => {
    const { definition, hash } = getTemplate('vanilla');
    expect(new Template({ ...definition }).hash).toBe(hash);
    expect(new Template({ ...definition, separator: ['\n'] }).hash).not.toBe(hash);
  });
});

describe.skipIf(!hasShared)('vanilla', () => {
  const vanilla = getTemplate('vanilla');
  const tokenizer = hasShared ? Tokenizer.load(shared('models', 'stories260k')) : (undefined as unknown as Tokenizer);
  const ids = (text: string): number[] => tokenizer.encode(text);
  const one = (prompt: string, response: string): { promptIds: number[]; responseIds: number[] }[] =>
    vanilla.encodeTurns(tokenizer, { turns: [{ prompt, response }] });

  it('is prompt, response, end token: no begin token, each part tokenised alone', () => {
    expect(one('Once upon', 'a time')).toEqual([{ promptIds: ids('Once upon'), responseIds: [...ids('a time'), 2] }]);
    // Both parts begin with their own "▁": not the same as tokenising the whole.
    expect([...ids('Once upon'), ...ids('a time')]).not.toEqual(ids('Once upona time'));
    expect(one('Once', 'a')[0]!.promptIds[0]).not.toBe(tokenizer.bosId);
  });

  it('gives empty text no tokens, so an empty answer is the end token alone', () => {
    expect(one('', '')).toEqual([{ promptIds: [], responseIds: [2] }]);
  });

  it('reads special tokens in text as special tokens', () => {
    expect(one('a<s>b', 'c</s>')).toEqual([{ promptIds: [...ids('a'), 1, ...ids('b')], responseIds: [...ids('c'), 2, 2] }]);
  });

  it('ends every answer of a conversation and puts the system text first', () => {
    const turns = [
      { prompt: 'a', response: 'b' },
      { prompt: 'c', response: 'd' },
    ];
    expect(vanilla.encodeTurns(tokenizer, { system: 'Be kind', turns })).toEqual([
      { promptIds: [...ids('Be kind'), ...ids('a')], responseIds: [...ids('b'), 2] },
      { promptIds: ids('c'), responseIds: [...ids('d'), 2] },
    ]);
  });

  it('asks exactly as it was trained', () => {
    const turns = [
      { prompt: 'a', response: 'b' },
      { prompt: 'c', response: 'd' },
    ];
    for (const system of [undefined, 'Be kind']) {
      for (const addBos of [false, true]) {
        const encoded = vanilla.encodeTurns(tokenizer, { system, turns }, { addBos });
        const trained = [...encoded[0]!.promptIds, ...encoded[0]!.responseIds, ...encoded[1]!.promptIds];
        const messages = [
          ...(system === undefined ? [] : [{ role: 'system' as const, content: system }]),
          { role: 'user' as const, content: 'a' },
          { role: 'assistant' as const, content: 'b' },
          { role: 'user' as const, content: 'c' },
        ];
        expect(vanilla.encodePrompt(tokenizer, messages, { addBos })).toEqual(trained);
        expect(trained.filter((id) => id === tokenizer.bosId).length).toBe(addBos ? 1 : 0);
      }
    }
  });

  it('never begins twice', () => {
    const turns = [{ prompt: '<s>a', response: 'b' }];
    expect(vanilla.encodeTurns(tokenizer, { turns }, { addBos: true })[0]!.promptIds).toEqual([1, ...ids('a')]);
    expect(vanilla.encodePrompt(tokenizer, [{ role: 'user', content: '<s>a' }], { addBos: true })).toEqual([1, ...ids('a')]);
  });

  it('stops at the end token and refuses a conversation that is none', () => {
    expect(vanilla.stopIds(tokenizer)).toEqual([2]);
    expect(code(() => vanilla.encodePrompt(tokenizer, []))).toBe('NIFT_USAGE');
    expect(code(() => vanilla.encodePrompt(tokenizer, [{ role: 'assistant', content: 'x' }]))).toBe('NIFT_USAGE');
  });

  it('inserts text as it is, whatever it looks like', () => {
    expect(one('$& {{content}} $1', 'x')[0]!.promptIds).toEqual(ids('$& {{content}} $1'));
  });
});
