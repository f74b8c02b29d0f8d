/** `nift export`: checkpoints and adapters for llama.cpp and Ollama. */
import type { Command } from 'commander';
import { NiftError } from '../errors.js';
import type { ExportReport } from '../export/gguf/model.js';
import { action, common, type CommonOptions, formatBytes, formatSeconds, note, outJson, warn } from './io.js';
import { choice } from './session.js';

const TYPES = { auto: 'auto', f32: 'F32', f16: 'F16', bf16: 'BF16', q8_0: 'Q8_0' } as const;

interface ExportFlags extends CommonOptions {
  model?: string;
  adapter?: string;
  out?: string;
  type: keyof typeof TYPES;
  pre?: string;
  modelfile?: string;
}

async function write(flags: ExportFlags): Promise<ExportReport> {
  const { model, adapter, out } = flags;
  if (model === undefined)
    throw new NiftError('NIFT_USAGE', '--model DIR is missing: the checkpoint to export, or the base of the adapter');
  if (out === undefined) throw new NiftError('NIFT_USAGE', '--out FILE.gguf is missing');
  const type = TYPES[flags.type];
  const modelfile = flags.modelfile === undefined ? {} : { modelfile: flags.modelfile };
  if (adapter === undefined) {
    const { exportModel } = await import('../export/gguf/model.js');
    return exportModel({ model, out, type, ...modelfile, ...(flags.pre === undefined ? {} : { pre: flags.pre }) });
  }
  if (type === 'BF16' || type === 'Q8_0')
    throw new NiftError('NIFT_USAGE', `--type ${flags.type} is for models`, { hint: 'Adapters are written as f32 or f16.' });
  if (flags.pre !== undefined)
    throw new NiftError('NIFT_USAGE', '--pre is for models: an adapter file holds no tokenizer', { hint: 'Leave it out.' });
  const { exportAdapter } = await import('../export/gguf/adapter.js');
  return exportAdapter({ adapter, model, out, type, ...modelfile });
}

async function run(flags: ExportFlags): Promise<void> {
  const start = performance.now();
  const report = await write(flags);
  const seconds = (performance.now() - start) / 1000;
  if (flags.json) {
    outJson({ ...report, seconds });
    return;
  }
  for (const notice of report.notices) warn(notice);
  if (flags.quiet) return;
  const what = `${report.kind}, ${report.architecture}, ${report.type}, ${report.tensors} tensors`;
  note(`${report.file}: ${formatBytes(report.bytes)} (${what}) in ${formatSeconds(seconds)}`);
  if (report.modelfile !== undefined) note(`${report.modelfile}: ollama create NAME -f ${report.modelfile}`);
}

export function registerExport(program: Command): void {
  common(
    program
      .command('export')
      .description('a checkpoint or adapter as a GGUF file for llama.cpp and Ollama')
      .option('--model <dir>', 'checkpoint to export; with --adapter, its base (required)')
      .option('--adapter <dir>', 'export this PEFT adapter instead of the model')
      .option('--out <file>', 'GGUF file to write (required)')
      .option(
        '--type <type>',
        `${Object.keys(TYPES).join(', ')}; auto keeps 16 bits for models and f32 for adapters`,
        choice(Object.keys(TYPES)),
        'auto',
      )
      .option('--pre <name>', "llama.cpp's name of the splitting rule, where tokenizer.json does not tell")
      .option('--modelfile <file>', 'write a Modelfile for `ollama create` too'),
  ).action(action(run));
}
