/** `nift score`: log-likelihood of continuations. */
import type { Command } from 'commander';
import { NiftError } from '../errors.js';
import { readJsonl, writeJsonl } from '../formats/jsonl.js';
import type { ScoreItem } from '../model/score.js';
import { action, formatSeconds, note, out, outJson } from './io.js';
import { counter, idList, modelOptions, type ModelOptions, needTokenizer, openSession, wholeNumber } from './session.js';

interface ScoreFlags extends ModelOptions {
  input: string;
  output?: string;
  bos: boolean;
  batchTokens: number;
}

type Given = Record<string, unknown>;

async function run(flags: ScoreFlags): Promise<void> {
  if (flags.input === undefined) throw new NiftError('NIFT_USAGE', '--input FILE.jsonl is missing');
  const session = await openSession(flags);
  const { score, encodePair } = await import('../model/score.js');
  const given: Given[] = [];
  const items: ScoreItem[] = [];
  for (const { value, line } of readJsonl(flags.input)) {
    const where = `${flags.input}:${line}`;
    const row = value as Given | null;
    if (row === null || typeof row !== 'object') throw new NiftError('NIFT_DATA_ROW', `${where}: expected an object`);
    given.push(row);
    if (row['context_ids'] !== undefined) {
      items.push({
        contextIds: idList(row['context_ids'], `${where}: "context_ids"`),
        continuationIds: idList(row['continuation_ids'], `${where}: "continuation_ids"`),
      });
    } else if (typeof row['context'] === 'string' && typeof row['continuation'] === 'string') {
      const tokenizer = needTokenizer(session.tokenizer, flags.model);
      const addBos = typeof row['add_bos'] === 'boolean' ? row['add_bos'] : flags.bos;
      const encode = (text: string, addSpecial: boolean): number[] => tokenizer.encode(text, { addSpecial });
      items.push(encodePair(encode, tokenizer.bosId, row['context'], row['continuation'], addBos));
    } else
      throw new NiftError(
        'NIFT_DATA_ROW',
        `${where}: expected {"context", "continuation"} or {"context_ids", "continuation_ids"}`,
      );
  }
  const progress = counter('rows', items.length, flags.quiet);
  const start = performance.now();
  const scores = score(session.model, items, { batchTokens: flags.batchTokens, onProgress: (done) => progress.tick(done) });
  progress.end();
  const seconds = (performance.now() - start) / 1000;
  const lines = given.map((row, i) => ({
    ...row,
    logprob: scores[i]!.logprob,
    is_greedy: scores[i]!.isGreedy,
    num_tokens: scores[i]!.numTokens,
  }));
  if (flags.output === undefined && flags.json) outJson(lines);
  else if (flags.output === undefined) for (const line of lines) out(JSON.stringify(line));
  else {
    writeJsonl(flags.output, lines);
    if (flags.json) outJson({ rows: lines.length, seconds, output: flags.output });
    else if (!flags.quiet) note(`${lines.length} rows in ${formatSeconds(seconds)}: ${flags.output}`);
  }
}

export function registerScore(program: Command): void {
  modelOptions(program.command('score').description('log-likelihood of continuations under a checkpoint'))
    .option('--input <file>', 'JSON lines of {"context", "continuation"} or {"context_ids", "continuation_ids"}')
    .option('--output <file>', 'JSON lines with "logprob", "is_greedy", "num_tokens" added; stdout by default')
    .option('--no-bos', 'do not begin with the begin token')
    .option('--batch-tokens <n>', 'tokens of one forward pass', wholeNumber(1), 2048)
    .action(action(run));
}
