/** llama.cpp's programs where they are installed: in the folder that LLAMA_CPP_BIN names, or on the path. */
import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';

const execute = promisify(execFile);

function find(program: string): string | undefined {
  const folders = process.env['LLAMA_CPP_BIN']?.split(path.delimiter) ?? (process.env['PATH'] ?? '').split(path.delimiter);
  return folders
    .map((folder) => path.join(folder, program))
    .find((file) => {
      try {
        accessSync(file, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

const completion = find('llama-completion');
const tokenizer = find('llama-tokenize');
export const hasCompletion = completion !== undefined;
export const hasTokenize = tokenizer !== undefined;
if (!hasCompletion || !hasTokenize)
  console.warn('skipped: running exports in llama.cpp (llama-completion, llama-tokenize not on PATH or in LLAMA_CPP_BIN)');

export interface Completion {
  model: string;
  prompt: string;
  tokens: number;
  lora?: string;
  /** Print special tokens as their text, the end token too. */
  special?: boolean;
}

/** What llama.cpp writes on, greedily, from caches in float32. */
export async function complete({ model, prompt, tokens, lora, special = false }: Completion): Promise<string> {
  const exact = ['--temp', '0', '-ctk', 'f32', '-ctv', 'f32', '-fa', 'off', '-t', '1', '--no-warmup'];
  const args = ['-m', model, '-p', prompt, '-n', String(tokens), '-no-cnv', '--no-display-prompt', ...exact];
  if (special) args.push('--special');
  if (lora !== undefined) args.push('--lora', lora);
  // Some builds lose what they were about to print when they exit; the timings come last, after the whole text.
  let stdout = '';
  for (let attempt = 0, stderr = ''; !stderr.includes('total time'); attempt++) {
    if (attempt === 20) throw new Error(`llama-completion ended early: ${stderr.slice(-500)}`);
    ({ stdout, stderr } = await execute(completion!, args, { encoding: 'utf8' }));
  }
  return stdout.replace(/( \[end of text\])?\n*$/, '');
}

/** The ids of a text, as the model file's own tokenizer gives them. */
export async function tokenize(model: string, text: string, addBos: boolean): Promise<number[]> {
  const args = ['-m', model, '--ids', '--log-disable', '--no-escape', ...(addBos ? [] : ['--no-bos']), '-p', text];
  const { stdout } = await execute(tokenizer!, args, { encoding: 'utf8' });
  return JSON.parse(stdout) as number[];
}
