import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseRecipe } from '../../src/config/recipe.js';
import { DEMO_ASSETS, runDemo, type DemoEvent, type DemoResult } from '../../src/demo/demo.js';
import { measureRows, writeRecipe } from '../../src/demo/reportFiles.js';
import { DEMO_SEED } from '../../src/demo/settings.js';
import { halvedArticles, writeDataset } from '../../src/demo/texts.js';
import { readAdapterConfig } from '../../src/formats/adapter.js';
import { Tokenizer } from '../../src/tokenizer/tokenizer.js';
import { expectClose } from '../expectClose.js';

const folder = mkdtempSync(path.join(tmpdir(), 'nift-demo-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe('the demo, a few steps of it', () => {
  const outputDir = path.join(folder, 'demo');
  const events: DemoEvent[] = [];
  let result: DemoResult;
  const run = (extra: object = {}): Promise<DemoResult> =>
    runDemo(
      { outputDir, articles: 16, prompts: 3, maxNewTokens: 24, overrides: { num_train_epochs: 2 }, ...extra },
      (event) => void events.push(event),
    );

  beforeAll(async () => {
    result = await run();
  });

  it('goes through its stages and counts the answers', () => {
    const stages = events.flatMap((event) => (event.type === 'stage' ? [event.stage] : []));
    expect(stages).toEqual(['texts', 'before', 'train', 'after', 'report']);
    expect(result).toMatchObject({ finished: true, outputDir });
    expect(result.before).toMatchObject({ prompts: 3, answers: 3, stops: 0 });
    expect(result.after?.prompts).toBe(3);
    expect(events.filter((event) => event.type === 'answered' && event.stage === 'after')).toHaveLength(3);
  });

  it('trains on what it halved: the loss falls', () => {
    expect(result.loss).toHaveLength(4);
    expect(result.loss.at(-1)!).toBeLessThan(result.loss[0]!);
    expect(readAdapterConfig(path.join(outputDir, 'adapter')).r).toBe(16);
  });

  it('leaves a report, the data and a recipe that says it all again', () => {
    for (const file of Object.values(result.files)) expect(existsSync(file), file).toBe(true);
    const report = readFileSync(result.files['report']!, 'utf8');
    for (const text of ['| answers | 3 of 3 |', '![loss](training_loss.png)', result.samples[2]!.original.split('\n')[0]!])
      expect(report).toContain(text);
    const json = JSON.parse(readFileSync(path.join(outputDir, 'report.json'), 'utf8')) as DemoResult;
    expect(json.samples).toEqual(result.samples);
    const { values } = parseRecipe({ path: result.files['recipe']!, env: {} });
    expect(values).toMatchObject({
      output_dir: result.files['adapter'],
      lora_rank: 16,
      num_train_epochs: 2,
      template: 'vanilla',
    });
  });

  it('replaces an earlier demo, and touches nothing that is not its own', async () => {
    const again = await run();
    expectClose(again.loss, result.loss, { abs: 0 });
    writeFileSync(path.join(outputDir, 'thesis.txt'), 'precious');
    await expect(run()).rejects.toMatchObject({ code: 'NIFT_OUTPUT_DIR' });
    expect(existsSync(result.files['report']!)).toBe(true);
    rmSync(path.join(outputDir, 'thesis.txt'));
  });

  it('stops when it is told to', async () => {
    const stop = new AbortController();
    stop.abort();
    const ended = await run({ signal: stop.signal });
    expect(ended).toMatchObject({ finished: false, after: null });
  });

  it('says where the base model comes from when it is missing', async () => {
    await expect(run({ baseModel: path.join(folder, 'nowhere') })).rejects.toMatchObject({
      code: 'NIFT_FILE_NOT_FOUND',
      hint: expect.stringContaining('examples/demo/README.md') as string,
    });
  });
});

describe('the parts of the demo', () => {
  it('halve articles of their own, each the same every time', () => {
    const rows = halvedArticles(DEMO_SEED, 20);
    expect(halvedArticles(DEMO_SEED, 5, 10)).toEqual(rows.slice(10, 15));
    for (const { prompt, continuation } of rows) {
      const total = `${prompt} ${continuation}`.split(/\s+/).length;
      const share = prompt.split(/\s+/).length / total;
      expect(share).toBeGreaterThanOrEqual(0.25 - 1 / total);
      expect(share).toBeLessThanOrEqual(0.75);
    }
    const data = path.join(folder, 'data');
    mkdirSync(data);
    const first = JSON.parse(readFileSync(writeDataset(data, rows), 'utf8').split('\n')[0]!) as Record<string, string>;
    expect(first).toEqual({ instruction: rows[0]!.prompt, input: '', output: rows[0]!.continuation });
  });

  it('fit the base model: texts short enough, a tokenizer that gives them back', () => {
    const tokenizer = Tokenizer.load(path.join(DEMO_ASSETS, 'base'));
    for (const { prompt, continuation } of halvedArticles(DEMO_SEED, 400)) {
      const [question, answer] = [tokenizer.encode(prompt), tokenizer.encode(continuation)];
      expect(answer.length).toBeLessThan(240);
      expect(question.length + 240).toBeLessThanOrEqual(512);
      expect(tokenizer.decode(answer)).toBe(` ${continuation}`);
    }
  });

  it('change a recipe key by key', () => {
    const from = path.join(folder, 'from.yaml');
    const to = path.join(folder, 'to.yaml');
    writeFileSync(from, '# why\nseed: 1 # old\ntemplate: vanilla\n');
    writeRecipe(from, to, { seed: 2, output_dir: 'a "b"' });
    expect(readFileSync(to, 'utf8')).toBe('# why\nseed: 2\ntemplate: vanilla\noutput_dir: "a \\"b\\""\n');
  });

  it('put the measures in words', () => {
    const measures = { prompts: 4, answers: 4, stops: 0, repeats: 1, repeatedShare: 0.1234, words: 99.6 };
    expect(measureRows(measures, { ...measures, stops: 4 })).toEqual([
      ['answers', '4 of 4', '4 of 4'],
      ['stops by itself', '0 of 4', '4 of 4'],
      ['goes in circles', '1 of 4', '1 of 4'],
      ['repeated 4-word phrases', '12.3 %', '12.3 %'],
      ['words per answer', '100', '100'],
    ]);
  });
});
