/** What generate, chat and score share: backend, model and tokenizer from the same options. */
import { type Command, InvalidArgumentError } from 'commander';
import { existsSync } from 'node:fs';
import type { CausalLM } from '../model/causalLM.js';
import { NiftError } from '../errors.js';
import { STORAGE_DTYPES } from '../backend/dtype.js';
import type { Tokenizer } from '../tokenizer/tokenizer.js';
import { common, type CommonOptions, isLive, style } from './io.js';

export interface ModelOptions extends CommonOptions {
  /** Checked by openSession. */
  model: string;
  adapter?: string;
  dtype: 'auto' | (typeof STORAGE_DTYPES)[number];
  backend: string;
  threads?: number;
}

export interface Session {
  model: CausalLM;
  /** Null for a checkpoint without one; ids work all the same. */
  tokenizer: Tokenizer | null;
}

/** Parses a whole number of at least `minimum` for commander. */
export const wholeNumber =
  (minimum: number) =>
  (text: string): number => {
    const value = Number(text);
    if (!Number.isSafeInteger(value) || value < minimum)
      throw new InvalidArgumentError(`expected a whole number of at least ${minimum}.`);
    return value;
  };

export const decimal = (text: string): number => {
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value)) throw new InvalidArgumentError('expected a number.');
  return value;
};

export const choice =
  (values: readonly string[]) =>
  (text: string): string => {
    if (!values.includes(text)) throw new InvalidArgumentError(`expected one of: ${values.join(', ')}.`);
    return text;
  };

/** Options of every command that runs a model. */
export function modelOptions(command: Command): Command {
  return common(
    command
      // Not requiredOption: commander would complain about it before it names a misspelled flag.
      .option('--model <dir>', 'folder of a Hugging Face checkpoint (required)')
      .option('--adapter <dir>', 'folder of a PEFT adapter to put on it')
      // Exact by default, and decoding costs no more: it waits for the weights, which stay in their 16 bits.
      .option(
        '--dtype <dtype>',
        'precision of products: float32 is exact; bfloat16, float16 read prompts faster; auto: as the checkpoint',
        choice(['auto', ...STORAGE_DTYPES]),
        'float32',
      )
      .option('--backend <name>', 'native, cpu, wasm, tensorflow', 'native')
      .option('--threads <n>', 'CPU threads; all cores by default', wholeNumber(1)),
  );
}

/** Loads what the options name. @throws NiftError with the path of what is missing */
export async function openSession(options: ModelOptions): Promise<Session> {
  if (options.model === undefined)
    throw new NiftError('NIFT_USAGE', '--model DIR is missing: the folder of a Hugging Face checkpoint');
  for (const folder of [options.model, options.adapter]) {
    if (folder !== undefined && !existsSync(folder)) {
      throw new NiftError('NIFT_FILE_NOT_FOUND', `${folder}: no such folder`, {
        hint: 'Give the folder that holds config.json (or adapter_config.json).',
      });
    }
  }
  const { startBackend } = await import('./backend.js');
  await startBackend(options.backend, options.threads);
  const [{ CausalLM }, { Tokenizer }] = await Promise.all([import('../model/causalLM.js'), import('../tokenizer/tokenizer.js')]);
  const tokenizer = Tokenizer.existsIn(options.model) ? Tokenizer.load(options.model) : null;
  const model = await CausalLM.load(options.model, {
    dtype: options.dtype,
    ...(options.adapter === undefined ? {} : { adapter: options.adapter }),
  });
  return { model, tokenizer };
}

export function needTokenizer(tokenizer: Tokenizer | null, folder: string): Tokenizer {
  if (tokenizer) return tokenizer;
  throw new NiftError('NIFT_TOKENIZER', `${folder}: no tokenizer.json, and text was given`, {
    hint: 'Give token ids instead ("input_ids" or "context_ids" in the input file), or add the tokenizer.',
  });
}

/** A counter on stderr that rewrites itself on a terminal and stays silent elsewhere. */
export function counter(label: string, total: number, quiet: boolean | undefined): { tick(done: number): void; end(): void } {
  const show = isLive && !quiet && total > 1;
  return {
    tick: (done) => {
      if (show) process.stderr.write(`\r\u001b[2K${style.dim(`${label} ${done}/${total}`)}`);
    },
    end: () => {
      if (show) process.stderr.write('\r\u001b[2K');
    },
  };
}

/** The ids of one input row: as given, or checked to be whole numbers. */
export function idList(value: unknown, where: string): Int32Array {
  if (Array.isArray(value) && value.every((id) => Number.isSafeInteger(id) && (id as number) >= 0))
    return Int32Array.from(value as number[]);
  throw new NiftError('NIFT_DATA_ROW', `${where}: expected a list of token ids`);
}
