/** `nift generate`: a checkpoint writes on from a prompt, or from every line of a file. */
import type { Command } from 'commander';
import { NiftError } from '../errors.js';
import { readJsonl, writeJsonl } from '../formats/jsonl.js';
import type { GenerateOptions, Generation } from '../model/generate.js';
import type { Template } from '../templates/index.js';
import { action, EXIT, formatSeconds, note, onInterrupt, out, outJson, style } from './io.js';
import {
  counter,
  decimal,
  idList,
  modelOptions,
  type ModelOptions,
  needTokenizer,
  openSession,
  type Session,
  wholeNumber,
} from './session.js';

export interface SamplingFlags {
  maxNewTokens: number;
  temperature: number;
  topK: number;
  topP: number;
  repetitionPenalty: number;
  seed: number;
  stop: string[];
  batchSize: number;
}

interface GenerateFlags extends ModelOptions, SamplingFlags {
  prompt?: string;
  input?: string;
  output?: string;
  template?: string;
  bos: boolean;
}

const collect = (value: string, all: string[]): string[] => [...all, value];

/** Options of every command that samples. */
export function samplingOptions(command: Command, maxNewTokens: number): Command {
  return command
    .option('--max-new-tokens <n>', 'most new tokens per prompt', wholeNumber(1), maxNewTokens)
    .option('--temperature <t>', '0 = always the most likely token', decimal, 0)
    .option('--top-k <k>', 'only the k most likely tokens; 0 = all', wholeNumber(0), 0)
    .option('--top-p <p>', 'only the most likely tokens up to this probability', decimal, 1)
    .option('--repetition-penalty <x>', 'above 1: tokens seen before become less likely', decimal, 1)
    .option('--seed <n>', 'seed of the sampling', wholeNumber(0), 42)
    .option('--stop <text>', 'end when this text appears (repeatable)', collect, []);
}

/** Flags to the library's options; text needs the tokenizer. */
export function generateOptions(flags: SamplingFlags, session: Session, template: Template | undefined): GenerateOptions {
  const { tokenizer } = session;
  return {
    maxNewTokens: flags.maxNewTokens,
    temperature: flags.temperature,
    topK: flags.topK,
    topP: flags.topP,
    repetitionPenalty: flags.repetitionPenalty,
    seed: flags.seed,
    batchSize: flags.batchSize,
    stop: flags.stop,
    ...(tokenizer ? { decode: (ids: Int32Array) => tokenizer.decode(ids) } : {}),
    ...(tokenizer && template ? { stopTokenIds: template.stopIds(tokenizer) } : {}),
  };
}

interface Row {
  /** Copied to the output line. */
  given: Record<string, unknown>;
  ids: Int32Array;
}

function readRows(file: string, encode: (text: string) => Int32Array): Row[] {
  const rows: Row[] = [];
  for (const { value, line } of readJsonl(file)) {
    const given = value as Record<string, unknown> | null;
    const where = `${file}:${line}`;
    if (given !== null && typeof given === 'object' && given['input_ids'] !== undefined)
      rows.push({ given, ids: idList(given['input_ids'], `${where}: "input_ids"`) });
    else if (given !== null && typeof given === 'object' && typeof given['prompt'] === 'string')
      rows.push({ given, ids: encode(given['prompt']) });
    else throw new NiftError('NIFT_DATA_ROW', `${where}: expected {"prompt": text} or {"input_ids": [ids]}`);
  }
  if (rows.length === 0) throw new NiftError('NIFT_DATA_ROW', `${file}: holds no rows`);
  return rows;
}

function outputRow(row: Row, generation: Generation): Record<string, unknown> {
  return {
    ...row.given,
    ...(generation.text === undefined ? {} : { text: generation.text }),
    output_ids: Array.from(generation.outputIds),
    stop_reason: generation.stopReason,
  };
}

async function run(flags: GenerateFlags): Promise<number> {
  if ((flags.prompt === undefined) === (flags.input === undefined)) {
    throw new NiftError('NIFT_USAGE', 'nift generate needs either --prompt TEXT or --input FILE.jsonl');
  }
  if (flags.prompt !== undefined && flags.output !== undefined)
    throw new NiftError('NIFT_USAGE', '--output goes with --input; redirect stdout to keep the text of --prompt');
  const { getTemplate } = await import('../templates/index.js');
  const template = flags.template === undefined ? undefined : getTemplate(flags.template);
  const session = await openSession(flags);
  const { generate } = await import('../model/generate.js');
  const encode = (text: string): Int32Array => {
    const tokenizer = needTokenizer(session.tokenizer, flags.model);
    const ids = template
      ? template.encodePrompt(tokenizer, [{ role: 'user', content: text }])
      : tokenizer.encode(text, { addSpecial: flags.bos });
    if (ids.length === 0 && tokenizer.bosId !== null) ids.push(tokenizer.bosId);
    return Int32Array.from(ids);
  };
  const rows =
    flags.input === undefined
      ? [{ given: { prompt: flags.prompt }, ids: encode(flags.prompt ?? '') }]
      : readRows(flags.input, encode);
  const interrupt = onInterrupt('Stopping after this token.');
  const options = { ...generateOptions(flags, session, template), signal: interrupt.signal };
  const start = performance.now();
  try {
    if (flags.input === undefined) await runPrompt(rows[0]!, session, flags, options, generate);
    else await runFile(rows, session, flags, options, generate, start);
    return interrupt.exitCode() ?? EXIT.done;
  } finally {
    interrupt.dispose();
  }
}

type Generate = typeof import('../model/generate.js').generate;

/** One prompt: the text streams to a terminal, or comes whole where stdout is not one. */
async function runPrompt(
  row: Row,
  { model, tokenizer }: Session,
  flags: GenerateFlags,
  options: GenerateOptions,
  generate: Generate,
): Promise<void> {
  const { StreamDecoder } = await import('../tokenizer/streamDecoder.js');
  const start = performance.now();
  // With stop texts the end of the text is known late, so it is not streamed.
  const stream =
    tokenizer && !flags.json && process.stdout.isTTY && flags.stop.length === 0 ? new StreamDecoder(tokenizer) : null;
  const [generation] = await generate(model, [row.ids], options, ({ token }) => {
    if (stream) process.stdout.write(stream.push(token));
  });
  const seconds = (performance.now() - start) / 1000;
  if (flags.json) outJson({ ...outputRow(row, generation!), seconds });
  else if (stream) out(stream.end());
  else out(generation!.text ?? Array.from(generation!.outputIds).join(' '));
  if (process.stderr.isTTY && !flags.quiet)
    note(style.dim(`${generation!.outputIds.length} tokens in ${formatSeconds(seconds)}, ended by ${generation!.stopReason}`));
}

async function runFile(
  rows: Row[],
  { model }: Session,
  flags: GenerateFlags,
  options: GenerateOptions,
  generate: Generate,
  start: number,
): Promise<void> {
  const progress = counter('prompts', rows.length, flags.quiet);
  let finished = 0;
  let tokens = 0;
  const generations = await generate(
    model,
    rows.map((row) => row.ids),
    options,
    ({ stopReason }) => {
      tokens++;
      if (stopReason) progress.tick(++finished);
    },
  );
  progress.end();
  const lines = rows.map((row, i) => outputRow(row, generations[i]!));
  const seconds = (performance.now() - start) / 1000;
  if (flags.output !== undefined) {
    writeJsonl(flags.output, lines);
    if (flags.json) outJson({ rows: rows.length, tokens, seconds, output: flags.output });
    else if (!flags.quiet)
      note(
        `${rows.length} prompts, ${tokens} tokens in ${formatSeconds(seconds)} (${(tokens / seconds).toFixed(0)} tok/s): ${flags.output}`,
      );
  } else if (flags.json) outJson(lines);
  else for (const line of lines) out(JSON.stringify(line));
}

export function registerGenerate(program: Command): void {
  samplingOptions(
    modelOptions(program.command('generate').description('let a checkpoint, with or without an adapter, write on from prompts')),
    128,
  )
    .option('--prompt <text>', 'one prompt; the text goes to stdout')
    .option('--input <file>', 'JSON lines of {"prompt"} or {"input_ids"}')
    .option('--output <file>', 'JSON lines with "text" and "output_ids" added; stdout by default')
    .option('--template <name>', 'ask in this template; without it the prompt is fed as it is')
    .option('--no-bos', 'do not begin with what the tokenizer adds (usually the begin token)')
    .option('--batch-size <n>', 'prompts side by side', wholeNumber(1), 8)
    .action(action(run));
}
