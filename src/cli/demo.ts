/** `nift demo`: a small model learns to answer and to stop, offline, on any machine. */
import type { Command } from 'commander';
import path from 'node:path';
import type { DemoEvent, DemoResult, DemoSample } from '../demo/demo.js';
import { action, common, type CommonOptions, EXIT, formatSeconds, note, onInterrupt, out, outJson, style } from './io.js';
import { wholeNumber } from './session.js';
import { createTrainView } from './trainView.js';

interface DemoFlags extends CommonOptions {
  outputDir: string;
  articles: number;
  prompts: number;
  backend: string;
  threads?: number;
  show: number;
}

const WIDTH = Math.max(60, Math.min(100, process.stdout.columns ?? 100));

/** Wraps text to the terminal, indented. */
function wrap(text: string, indent: string, limit = 360): string {
  const cut = text.length > limit ? `${text.slice(0, limit).trimEnd()} ...` : text;
  const lines: string[] = [];
  let line = '';
  for (const word of cut.split(/\s+/)) {
    if (line.length + word.length + 1 > WIDTH - indent.length && line !== '') {
      lines.push(line);
      line = word;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line].map((text) => indent + text).join('\n');
}

const ended = (answer: DemoSample['before']): string =>
  answer.stopReason === 'eos'
    ? style.green(`stops after ${answer.tokens} tokens`)
    : style.red(`still going at ${answer.tokens} tokens`);

function sample(index: number, { prompt, before, after }: DemoSample): string {
  return [
    style.bold(`prompt ${index + 1}`),
    wrap(prompt, '  ', 240),
    `  ${style.cyan('before')} (${ended(before)})`,
    wrap(before.text, '    '),
    `  ${style.cyan('after')} (${ended(after)})`,
    wrap(after.text, '    '),
  ].join('\n');
}

async function render(result: DemoResult, show: number): Promise<string> {
  const [{ asciiPlot }, { measureRows }] = await Promise.all([
    import('../report/sparkline.js'),
    import('../demo/reportFiles.js'),
  ]);
  const rows = result.after === null ? [] : measureRows(result.before, result.after);
  const relative = (file: string): string => {
    const short = path.relative(process.cwd(), file);
    return short.startsWith('..') ? file : short;
  };
  return [
    '',
    style.bold('Loss while training'),
    asciiPlot(result.loss, { xLabel: 'step', width: Math.min(70, WIDTH - 12), height: 10 }),
    '',
    ...result.samples.slice(0, show).map((item, i) => `${sample(i, item)}\n`),
    style.bold(`${''.padEnd(28)}${'before'.padStart(10)}${'after'.padStart(10)}`),
    ...rows.map(([question, before, after]) => `${question.padEnd(28)}${before.padStart(10)}${after.padStart(10)}`),
    '',
    style.bold('Files'),
    ...Object.entries(result.files).map(([name, file]) => `  ${name.padEnd(9)} ${relative(file)}`),
    '',
    `Done in ${formatSeconds(result.seconds)}. Write on with the new adapter:`,
    `  nift generate --model ${relative(result.files['base'] ?? '')} --adapter ${relative(result.files['adapter'] ?? '')} --template vanilla --prompt "The town of"`,
  ].join('\n');
}

function narrate(flags: DemoFlags): (event: DemoEvent) => void {
  if (flags.quiet) return () => undefined;
  const view = createTrainView(false, { plan: false });
  return (event) => {
    if (event.type === 'train') view.onEvent(event.event);
    else if (event.type === 'texts') {
      note(
        `1. ${event.rows} fresh little texts, each cut in two: the first half is the prompt, the rest the answer. One of them:`,
      );
      note(style.dim(wrap(event.example.prompt, '   ', 160)));
    } else if (event.type === 'stage') {
      view.end();
      if (event.stage === 'before')
        note(`2. The base model writes on from ${flags.prompts} first halves that it will not be trained on ...`);
      if (event.stage === 'train')
        note('3. Training a LoRA adapter on the halves. Nobody tells the model what a question is, or when to stop.');
      if (event.stage === 'after') note('4. The same prompts again, with the adapter ...');
    }
  };
}

async function run(flags: DemoFlags): Promise<number> {
  const [{ runDemo }, { startBackend }] = await Promise.all([import('../demo/demo.js'), import('./backend.js')]);
  await startBackend(flags.backend, flags.threads);
  const interrupt = onInterrupt('Stopping the demo after this step.');
  try {
    const result = await runDemo(
      {
        outputDir: flags.outputDir,
        articles: flags.articles,
        prompts: flags.prompts,
        backend: flags.backend,
        ...(flags.threads === undefined ? {} : { threads: flags.threads }),
        signal: interrupt.signal,
      },
      narrate(flags),
    );
    if (flags.json) outJson(result);
    else if (result.finished) out(await render(result, flags.show));
    return interrupt.exitCode() ?? EXIT.done;
  } finally {
    interrupt.dispose();
  }
}

export function registerDemo(program: Command): void {
  common(program.command('demo').description('train a small model and see it learn, offline, in two minutes'))
    .option('--output-dir <dir>', 'folder for what the demo makes', 'nift-demo')
    .option('--articles <n>', 'texts to train on', wholeNumber(8), 400)
    .option('--prompts <n>', 'prompts to answer before and after', wholeNumber(1), 16)
    .option('--show <n>', 'prompts to print', wholeNumber(0), 2)
    .option('--backend <name>', 'native, cpu, wasm, tensorflow', 'native')
    .option('--threads <n>', 'CPU threads; all cores by default', wholeNumber(1))
    .action(action(run));
}
