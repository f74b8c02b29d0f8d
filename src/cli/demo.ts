/** `nift demo`: a small model learns to answer and to stop, offline, on any machine. */
import type { Command } from 'commander';
import { action, common, type CommonOptions } from './io.js';

export function registerDemo(program: Command): void {
  common(program.command('demo').description('train a small model and see it learn, offline, in two minutes')).action(
    action(async (_options: CommonOptions) => {}),
  );
}
