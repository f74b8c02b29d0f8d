/** `nift`: parses the command line and hands over to one file per command. */
import { Command, CommanderError } from 'commander';
import { VERSION } from '../version.js';
import { registerAdapter } from './adapter.js';
import { registerChat } from './chat.js';
import { registerDemo } from './demo.js';
import { registerDiff } from './diff.js';
import { registerDoctor } from './doctor.js';
import { registerExport } from './export.js';
import { registerExtract } from './extract.js';
import { registerGenerate } from './generate.js';
import { registerInspect } from './inspect.js';
import { EXIT } from './io.js';
import { registerMerge } from './merge.js';
import { registerScore } from './score.js';
import { registerTrain } from './train.js';

export function createProgram(): Command {
  const program = new Command('nift')
    .description('Non-instructional fine-tuning of language models: distil, train LoRA, generate, score. One machine, no Python.')
    .version(VERSION)
    .showSuggestionAfterError()
    .configureHelp({ sortSubcommands: false })
    .addHelpText(
      'after',
      `
Start here:
  nift demo                                     train a small model and see it learn, offline, in two minutes
  nift train recipe.yaml --dry-run              what would happen: steps, tokens, memory, files
  nift generate --model DIR --prompt "Once"     let a checkpoint write on

Exit codes: 0 done, 1 failed, 2 bad usage or input, 130/143 stopped and saved.`,
    );
  for (const register of [
    registerDemo,
    registerTrain,
    registerGenerate,
    registerChat,
    registerScore,
    registerMerge,
    registerExtract,
    registerAdapter,
    registerDiff,
    registerExport,
    registerInspect,
    registerDoctor,
  ])
    register(program);
  return program;
}

/** Commander exits with 1 on bad usage; ours is 2. Sub-commands inherit neither setting, so it is set on each. */
function useOurExitCodes(command: Command): void {
  command.exitOverride();
  for (const child of command.commands) useOurExitCodes(child);
}

export async function main(argv: string[]): Promise<void> {
  const program = createProgram();
  useOurExitCodes(program);
  if (argv.length <= 2) {
    program.outputHelp();
    return;
  }
  try {
    await program.parseAsync(argv);
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    process.exitCode = error.exitCode === 0 ? EXIT.done : EXIT.usage;
  }
}

// A closed pipe (`nift score ... | head`) is not an error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(EXIT.done);
  throw error;
});

await main(process.argv);
