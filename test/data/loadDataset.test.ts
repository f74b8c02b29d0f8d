/** Guards against rows that vanish: everything read is kept, or counted under a cause with its line. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { loadDatasets } from '../../src/data/loadDataset.js';
import type { LoadOptions, LoadedData } from '../../src/data/loadDataset.js';
import { readRows } from '../../src/data/readRows.js';
import { NiftError } from '../../src/errors.js';
import { getTemplate } from '../../src/templates/index.js';
import { Tokenizer } from '../../src/tokenizer/tokenizer.js';
import { hasShared, shared } from '../golden.js';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'nift-data-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const write = (name: string, content: string | Buffer): string => {
  const file = path.join(folder, name);
  writeFileSync(file, content);
  return file;
};
const jsonl = (...rows: unknown[]): string => rows.map((row) => `${JSON.stringify(row)}\n`).join('');
const info = (entries: object): string => write('dataset_info.json', JSON.stringify(entries));

const noTokenizer = (): Tokenizer => {
  throw new Error('no tokenizer should be needed');
};
const load = (more: Partial<LoadOptions> = {}): Promise<LoadedData> =>
  loadDatasets({
    datasetDir: folder,
    datasets: ['d'],
    maxSamples: null,
    trainOnPrompt: false,
    addBos: false,
    template: getTemplate('vanilla'),
    tokenizer: noTokenizer,
    cutoffLen: 1024,
    reservedLabelLen: 1,
    ...more,
  });

async function failure(run: () => Promise<unknown>): Promise<NiftError> {
  try {
    await run();
  } catch (error) {
    expect(error).toBeInstanceOf(NiftError);
    return error as NiftError;
  }
  throw new Error('expected an error');
}

describe('pretokenized rows', () => {
  beforeEach(() => info({ d: { file_name: 'd.jsonl', formatting: 'pretokenized' } }));

  it('are taken as they are, without a tokenizer', async () => {
    write('d.jsonl', jsonl({ input_ids: [5, 6, 7], labels: [-100, 6, 7] }, { input_ids: [1, 2], labels: [1, 2], extra: 'x' }));
    const { rows, census } = await load();
    expect(rows.map((row) => [[...row.inputIds], [...row.labels]])).toEqual([
      [
        [5, 6, 7],
        [-100, 6, 7],
      ],
      [
        [1, 2],
        [1, 2],
      ],
    ]);
    // The first token of a row is never a target.
    expect(census).toMatchObject({ rowsRead: 2, rowsKept: 2, dropped: {}, tokens: 5, supervisedTokens: 3, withoutEos: null });
  });

  it('are dropped by cause when a number is wrong', async () => {
    const good = { input_ids: [1, 2], labels: [-100, 2] };
    const bad = [
      [1, 2],
      { labels: [1] },
      { input_ids: [1, 2], labels: 'x' },
      { input_ids: [], labels: [] },
      { input_ids: [1, 2], labels: [1] },
      { input_ids: [1, 2.5], labels: [1, 2] },
      { input_ids: [1, -1], labels: [1, 2] },
      { input_ids: [1, '2'], labels: [1, 2] },
      { input_ids: [1, 2], labels: [1, -1] },
      { input_ids: [1, 2], labels: [null, 2] },
      { input_ids: [1, 9], labels: [1, 2] },
      { input_ids: [1, 2], labels: [1, 9] },
      { input_ids: [1, 2 ** 40], labels: [1, 2] },
      { input_ids: [1, 2], labels: [2, -100] },
      { input_ids: [1], labels: [1] },
    ];
    write('d.jsonl', jsonl(good, ...bad));
    const { census } = await load({ vocabSize: 9 });
    expect(census.rowsRead).toBe(16);
    expect(census.rowsKept).toBe(1);
    expect(Object.fromEntries(Object.entries(census.dropped).map(([cause, { first }]) => [cause, first.join()]))).toEqual({
      'the row is no JSON object': 'd.jsonl:2',
      'input_ids is no list': 'd.jsonl:3',
      'labels is no list': 'd.jsonl:4',
      'input_ids is empty': 'd.jsonl:5',
      'input_ids and labels differ in length': 'd.jsonl:6',
      'input_ids holds something that is no token id': 'd.jsonl:7,d.jsonl:8,d.jsonl:9,d.jsonl:14',
      'labels holds something that is no token id': 'd.jsonl:10,d.jsonl:11',
      "a token id is outside the model's vocabulary of 9": 'd.jsonl:12,d.jsonl:13',
      'no token to train on': 'd.jsonl:15,d.jsonl:16',
    });
  });

  it('lose their tail at cutoff_len, and the missing end token is counted', async () => {
    write('d.jsonl', jsonl({ input_ids: [1, 3, 4, 2], labels: [-100, 3, 4, 2] }, { input_ids: [1, 3, 2], labels: [-100, 3, 2] }));
    const { rows, census } = await load({ cutoffLen: 3, eosIds: [2] });
    expect([...rows[0]!.inputIds]).toEqual([1, 3, 4]);
    expect(census.truncated).toEqual({ count: 1, first: ['d.jsonl:1'] });
    expect(census.withoutEos).toEqual({ count: 1, first: ['d.jsonl:1'] });
  });

  it('are an error when none is left, and name the causes', async () => {
    write('d.jsonl', jsonl({ input_ids: [1, 2], labels: [-100, -100] }, { text: 'x' }));
    const error = await failure(() => load());
    expect(error.code).toBe('NIFT_DATA_NO_LABELS');
    expect(error.message).toBe(
      'd: none of 2 rows has a token to train on: 1 x no token to train on (first d.jsonl:1); 1 x input_ids is no list (first d.jsonl:2)',
    );
    write('d.jsonl', '\n');
    expect((await failure(() => load())).message).toContain('the files hold no rows');
  });

  it('keep 20 places per cause', async () => {
    write('d.jsonl', jsonl({ input_ids: [1, 2], labels: [1, 2] }) + '[]\n'.repeat(30));
    const { count, first } = (await load()).census.dropped['the row is no JSON object']!;
    expect([count, first.length]).toEqual([30, 20]);
  });

  it('have one hash per content', async () => {
    write('d.jsonl', jsonl({ input_ids: [1, 2, 3], labels: [1, 2, 3] }));
    const { hash } = await load();
    write('d.jsonl', `\n {"labels": [1, 2, 3], "input_ids": [1, 2, 3]}`);
    expect((await load()).hash).toBe(hash);
    write('d.jsonl', jsonl({ input_ids: [1, 2, 3], labels: [1, 2, -100] }));
    expect((await load()).hash).not.toBe(hash);
  });

  it('stop being read when aborted', async () => {
    write(
      'd.jsonl',
      jsonl(...Array.from({ length: 60000 }, () => ({ input_ids: Array(20).fill(1), labels: Array(20).fill(1) }))),
    );
    const controller = new AbortController();
    let seen = 0;
    const run = load({
      signal: controller.signal,
      onProgress: (rows) => {
        seen = rows;
        controller.abort(new Error('stopped'));
      },
    });
    await expect(run).rejects.toThrow('stopped');
    expect(seen).toBeGreaterThan(0);
    expect(seen).toBeLessThan(60000);
  });
});

describe('files', () => {
  it('may be lines or an array, with BOM, CRLF and blank lines; each row knows its line', () => {
    const rows = (name: string, content: string): unknown[] =>
      [...readRows(write(name, content))].map((row) => [row.line, row.value]);
    expect(rows('a.jsonl', '\ufeff{"a":1}\r\n\n  \n[2]')).toEqual([
      [1, { a: 1 }],
      [4, [2]],
    ]);
    expect(rows('a.json', '\ufeff\n[ {"a": "x]\\"[\\n,"},\n\n {"b": [1, {}]}, 3,\n"s" ]\n')).toEqual([
      [2, { a: 'x]"[\n,' }],
      [4, { b: [1, {}] }],
      [4, 3],
      [5, 's'],
    ]);
    expect(rows('b.json', '{"a":1}\n{"b":2}\n').length).toBe(2);
    expect(rows('c.json', '[]')).toEqual([]);
    expect(rows('d.json', '')).toEqual([]);
  });

  it('longer than a read block come whole', () => {
    const long = 'ä'.repeat(800_000);
    const file = write('long.jsonl', `${JSON.stringify(long)}\n1\n${JSON.stringify(long)}`);
    expect([...readRows(file)].map((row) => (typeof row.value === 'string' ? row.value.length : row.value))).toEqual([
      800_000, 1, 800_000,
    ]);
  });

  it('that are no JSON name file and line', async () => {
    info({ d: { file_name: 'd.jsonl', formatting: 'pretokenized' }, j: { file_name: 'j.json', formatting: 'pretokenized' } });
    write('d.jsonl', '{"input_ids": [1], "labels": [1]}\n{"input_ids": [1\n');
    const error = await failure(() => load());
    expect(error.code).toBe('NIFT_JSON');
    expect(error.message).toMatch(/d\.jsonl:2: not valid JSON/);
    write('d.jsonl', Buffer.from([0x22, 0xff, 0x22, 0x0a]));
    expect((await failure(() => load())).message).toMatch(/d\.jsonl:1: not valid UTF-8/);
    write('j.json', '[\n{"a": 1},\n{"a" 2}\n]');
    expect((await failure(() => load({ datasets: ['j'] }))).message).toMatch(/j\.json:3: not valid JSON/);
  });

  it('give typed errors only, however broken', async () => {
    info({ d: { file_name: 'd.jsonl', formatting: 'pretokenized' }, j: { file_name: 'j.json' } });
    const whole = jsonl({ input_ids: [1, 2], labels: [1, 2] }, { instruction: 'a', output: 'b' });
    for (let cut = 0; cut < whole.length; cut += 3) {
      for (const name of ['d', 'j']) {
        write(
          name === 'd' ? 'd.jsonl' : 'j.json',
          `${name === 'j' ? '[' : ''}${whole.slice(0, cut)}\u0000${whole.slice(cut + 1)}`,
        );
        const error = await failure(() =>
          load({ datasets: [name], tokenizer: () => ({ eosIds: [2], eosId: 2, encode: () => [1] }) as unknown as Tokenizer }),
        );
        expect(['NIFT_JSON', 'NIFT_DATA_NO_LABELS']).toContain(error.code);
      }
    }
  });
});

describe('dataset_info.json', () => {
  const cases: [string, object, string][] = [
    ['an unknown name', { dd: { file_name: 'd.json' } }, 'no dataset "d". Did you mean "dd"?'],
    ['an unknown key', { d: { file_nam: 'd.json' } }, 'unknown key "file_nam". Did you mean "file_name"?'],
    ['an unknown column', { d: { file_name: 'd.jsonl', columns: { prompt: 'a', respons: 'b' } } }, 'Did you mean "response"?'],
    ['sharegpt', { d: { file_name: 'd.jsonl', formatting: 'sharegpt' } }, 'formatting "sharegpt", which is not supported yet'],
    ['a misspelled format', { d: { file_name: 'd.jsonl', formatting: 'alpacca' } }, 'Did you mean "alpaca"?'],
    ['preferences', { d: { file_name: 'd.jsonl', ranking: true } }, 'ranking: true'],
    ['a remote dataset', { d: { hf_hub_url: 'x/y' } }, 'names no local file'],
    ['a table', { d: { file_name: 'd.parquet' } }, 'a .parquet file, which is not supported yet'],
    ['text without answers', { d: { file_name: 'd.jsonl', columns: { prompt: 'text' } } }, 'names no response'],
    ['no questions', { d: { file_name: 'd.jsonl', columns: { response: 'text' } } }, 'neither prompt nor query'],
    [
      'images',
      { d: { file_name: 'd.jsonl', columns: { prompt: 'a', response: 'b', images: 'c' } } },
      '"images", which is not supported yet',
    ],
    ['an entry that is none', { d: 'd.jsonl' }, 'must be an object'],
  ];
  it.each(cases)('refuses %s', async (_what, entries, message) => {
    info(entries);
    const error = await failure(() => load());
    expect(error.code).toBe('NIFT_DATASET_INFO');
    expect(error.message).toContain(message);
  });

  it('must be there, and so must the files', async () => {
    const error = await failure(() => load({ datasetDir: path.join(folder, 'nowhere') }));
    expect([error.code, error.hint]).toEqual(['NIFT_DATASET_INFO', expect.stringContaining('dataset_dir')]);
    info({ d: { file_name: 'missing.jsonl' } });
    expect((await failure(() => load())).code).toBe('NIFT_FILE_NOT_FOUND');
  });
});

describe.skipIf(!hasShared)('alpaca rows', () => {
  const tokenizer = hasShared ? Tokenizer.load(shared('models', 'stories260k')) : (undefined as unknown as Tokenizer);
  const text = { tokenizer: () => tokenizer };
  const ids = (words: string): number[] => tokenizer.encode(words);

  it('join prompt and query by one line feed and train the response and its end token', async () => {
    info({ d: { file_name: 'd.jsonl' } });
    write(
      'd.jsonl',
      jsonl(
        { instruction: 'Say', input: 'hello', output: 'hello' },
        { instruction: 'Say', input: '', output: '' },
        { input: 'hello', output: ['one'] },
        { instruction: '', input: '', output: 'free' },
      ),
    );
    const { rows, census } = await load(text);
    const expected: [number[], number[]][] = [
      [ids('Say\nhello'), [...ids('hello'), 2]],
      [ids('Say'), [2]],
      [ids('hello'), [...ids('one'), 2]],
      [[], [...ids('free'), 2]],
    ];
    expect(rows.map((row) => [...row.inputIds])).toEqual(expected.map(([s, t]) => [...s, ...t]));
    expect(rows.map((row) => [...row.labels])).toEqual(expected.map(([s, t]) => [...s.map(() => -100), ...t]));
    expect(census.withoutEos).toEqual({ count: 0, first: [] });
  });

  it('put history and system before the question; answers of history are trained on too', async () => {
    info({ d: { file_name: 'd.jsonl', columns: { prompt: 'q', response: 'a', history: 'h', system: 's' } } });
    write(
      'd.jsonl',
      jsonl({ q: 'two', a: 'b', h: [['one', 'a']], s: 'Be kind', input: 'never read' }, { q: 'x', a: 'y', h: [], s: null }),
    );
    const { rows } = await load(text);
    const parts: [number[], boolean][] = [
      [ids('Be kind'), false],
      [ids('one'), false],
      [[...ids('a'), 2], true],
      [ids('two'), false],
      [[...ids('b'), 2], true],
    ];
    expect([...rows[0]!.inputIds]).toEqual(parts.flatMap(([part]) => part));
    expect([...rows[0]!.labels]).toEqual(parts.flatMap(([part, trained]) => part.map((id) => (trained ? id : -100))));
    expect([...rows[1]!.inputIds]).toEqual([...ids('x'), ...ids('y'), 2]);
  });

  it('have only the columns that are listed', async () => {
    info({ d: { file_name: 'd.jsonl', columns: { prompt: 'instruction', response: 'output' } } });
    write('d.jsonl', jsonl({ instruction: 'a', input: 'unset', output: 'b' }));
    expect([...(await load(text)).rows[0]!.inputIds]).toEqual([...ids('a'), ...ids('b'), 2]);
  });

  it('are dropped by cause when something is missing', async () => {
    info({ d: { file_name: 'd.jsonl', columns: { prompt: 'q', response: 'a', history: 'h', system: 's' } } });
    const rows = [
      { q: 'x', a: 'y' },
      { question: 'x', a: 'y' },
      { q: 'x' },
      { q: 5, a: 'y' },
      { q: 'x', a: 5 },
      { q: 'x', a: ['y', 'z'] },
      { q: 'x', a: 'y', h: 'z' },
      { q: 'x', a: 'y', h: [['z']] },
      { q: 'x', a: 'y', s: [] },
      null,
    ];
    write('d.jsonl', jsonl(...rows));
    const { census } = await load(text);
    expect(census.rowsKept).toBe(1);
    expect(Object.entries(census.dropped).map(([cause, { count }]) => [cause, count])).toEqual([
      ['no column q', 1],
      ['no column a', 1],
      ['the prompt is no text', 1],
      ['column a is no text', 1],
      ['column a holds 2 answers (ranking data)', 1],
      ['column h is no list of [question, answer] pairs', 2],
      ['column s is no text', 1],
      ['the row is no JSON object', 1],
    ]);
  });

  it('obey add_bos, train_on_prompt, cutoff_len and max_samples', async () => {
    info({ d: { file_name: 'd.jsonl' }, e: { file_name: 'e.jsonl' } });
    write('d.jsonl', jsonl({ instruction: 'Once upon a time', output: 'there was a cat' }, { instruction: 'x', output: 'y' }));
    write('e.jsonl', jsonl({ instruction: 'a', output: 'b' }, { instruction: 'x', output: 'y' }));
    const bos = await load({ ...text, addBos: true, maxSamples: 1, datasets: ['d', 'e'] });
    expect(bos.rows.map((row) => row.inputIds[0])).toEqual([1, 1]);
    expect(bos.census.datasets.map(({ name, read, kept }) => [name, read, kept])).toEqual([
      ['d', 1, 1],
      ['e', 1, 1],
    ]);
    const prompt = (await load({ ...text, trainOnPrompt: true })).rows[0]!;
    expect([...prompt.labels]).toEqual([...prompt.inputIds]);
    const cut = await load({ ...text, cutoffLen: 4 });
    expect(cut.rows[0]!.inputIds.length).toBe(4);
    expect(cut.census.truncated.first).toEqual(['d.jsonl:1']);
    expect(cut.census.withoutEos!.first).toEqual(['d.jsonl:1']);
  });

  it('are dropped when the tokenizer knows more tokens than the model', async () => {
    info({ d: { file_name: 'd.jsonl' } });
    write('d.jsonl', jsonl({ instruction: 'a', output: 'b' }));
    expect((await failure(() => load({ ...text, vocabSize: 5 }))).message).toContain("outside the model's vocabulary of 5");
  });

  it("load from LLaMA-Factory's demo files", async () => {
    const { census } = await load({
      ...text,
      datasetDir: shared('datasets', 'llamafactory'),
      datasets: ['alpaca_en_demo', 'identity'],
    });
    expect(census).toMatchObject({ rowsRead: 1090, rowsKept: 1090, dropped: {} });
    expect(census.truncated.count).toBe(census.withoutEos!.count);
  });

  it('say when the checksum is wrong', async () => {
    info({ d: { file_name: 'd.jsonl', file_sha1: '0'.repeat(40) } });
    write('d.jsonl', jsonl({ instruction: 'a', output: 'b' }));
    expect((await load(text)).census.notices[0]).toContain('dataset_info.json says 0000');
  });
});
