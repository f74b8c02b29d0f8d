/** `nift chat`: a conversation in the terminal. Lines come from stdin, so it can be piped too. */
import type { Command } from 'commander';
import readline from 'node:readline';
import type { Message } from '../templates/index.js';
import { generateOptions, type SamplingFlags, samplingOptions } from './generate.js';
import { action, EXIT, note, out, style } from './io.js';
import { modelOptions, type ModelOptions, needTokenizer, openSession } from './session.js';

interface ChatFlags extends ModelOptions, SamplingFlags {
  template: string;
  system?: string;
}

async function run(flags: ChatFlags): Promise<number> {
  const { getTemplate } = await import('../templates/index.js');
  const template = getTemplate(flags.template);
  const session = await openSession(flags);
  const tokenizer = needTokenizer(session.tokenizer, flags.model);
  const [{ generate }, { StreamDecoder }] = await Promise.all([
    import('../model/generate.js'),
    import('../tokenizer/streamDecoder.js'),
  ]);
  const options = generateOptions({ ...flags, batchSize: 1 }, session, template);
  const interactive = process.stdin.isTTY === true && !flags.json;
  if (interactive && !flags.quiet)
    note(style.dim('/reset forgets the conversation, /exit or Ctrl+D ends it, Ctrl+C stops an answer.'));
  const opening: Message[] = flags.system === undefined ? [] : [{ role: 'system', content: flags.system }];
  let messages = [...opening];
  let answering: AbortController | null = null;
  const lines = readline.createInterface({
    input: process.stdin,
    output: interactive ? process.stderr : undefined,
    prompt: style.bold('> '),
    terminal: interactive,
  });
  lines.on('SIGINT', () => {
    if (answering) answering.abort();
    else lines.close();
  });
  if (interactive) lines.prompt();
  for await (const line of lines) {
    const text = line.trim();
    if (text === '/exit') break;
    if (text === '/reset') messages = [...opening];
    else if (text !== '') {
      messages.push({ role: 'user', content: text });
      answering = new AbortController();
      const prompt = Int32Array.from(template.encodePrompt(tokenizer, messages));
      const stream = new StreamDecoder(tokenizer);
      const live = !flags.json && flags.stop.length === 0;
      const [answer] = await generate(session.model, [prompt], { ...options, signal: answering.signal }, ({ token }) => {
        if (live) process.stdout.write(stream.push(token));
      });
      answering = null;
      if (flags.json) out(JSON.stringify({ role: 'assistant', content: answer!.text ?? '', stop_reason: answer!.stopReason }));
      else out(live ? stream.end() : (answer!.text ?? ''));
      messages.push({ role: 'assistant', content: answer!.text ?? '' });
    }
    if (interactive) lines.prompt();
  }
  lines.close();
  return EXIT.done;
}

export function registerChat(program: Command): void {
  samplingOptions(modelOptions(program.command('chat').description('talk with a checkpoint in the terminal')), 256)
    .option('--template <name>', 'template of the conversation', 'vanilla')
    .option('--system <text>', 'system message')
    .action(action(run));
}
