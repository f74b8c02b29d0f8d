/** How commands talk: data to stdout, everything else to stderr, one place for colour, JSON and exit codes. */
import type { Command } from 'commander';
import { NiftError } from '../errors.js';

/** Exit codes of every command. docs and a test hold the same table. */
export const EXIT = { done: 0, failed: 1, usage: 2, sigint: 130, sigterm: 143 } as const;

export interface CommonOptions {
  json?: boolean;
  quiet?: boolean;
}

/** Adds the options that every command has. */
export function common(command: Command): Command {
  return command
    .option('--json', 'print one JSON document on stdout and nothing else')
    .option('-q, --quiet', 'no progress, only warnings and errors');
}

/** Colour on stderr: NO_COLOR and FORCE_COLOR are honoured, otherwise only a terminal gets it. */
const useColor =
  process.env['NO_COLOR'] !== undefined && process.env['NO_COLOR'] !== ''
    ? false
    : process.env['FORCE_COLOR'] !== undefined && process.env['FORCE_COLOR'] !== '0'
      ? true
      : process.stderr.isTTY === true && process.env['CI'] === undefined;

const paint =
  (code: string) =>
  (text: string): string =>
    useColor ? `\u001b[${code}m${text}\u001b[0m` : text;

export const style = {
  bold: paint('1'),
  dim: paint('2'),
  red: paint('31'),
  green: paint('32'),
  yellow: paint('33'),
  cyan: paint('36'),
};

/** True when a live, rewriting display is welcome. */
export const isLive = process.stderr.isTTY === true && process.env['CI'] === undefined;

export const out = (text: string): void => void process.stdout.write(text.endsWith('\n') ? text : `${text}\n`);
export const outJson = (value: unknown): void => out(JSON.stringify(value, null, 2));
export const note = (text: string): void => void process.stderr.write(`${text}\n`);
export const warn = (text: string): void => note(`${style.yellow('note:')} ${text}`);

/** Prints an error as one line plus a hint, and returns the exit code that belongs to it. */
export function report(error: unknown): number {
  if (error instanceof NiftError) {
    note(`${style.red('error')} ${style.dim(`[${error.code}]`)} ${error.message}`);
    if (error.hint) note(`  ${error.hint}`);
    if (process.env['NIFT_DEBUG'] && error.stack) note(style.dim(error.stack));
    return error.exitCode;
  }
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  note(`${style.red('error')} ${style.dim('[NIFT_INTERNAL]')} ${text}`);
  note('  This is a bug in nift. Please report it with the output of: nift doctor --json');
  return EXIT.failed;
}

/** Wraps a command's action: its result is the exit code (nothing means done), its errors become one line. */
export function action<A extends unknown[]>(run: (...args: A) => Promise<number | void>): (...args: A) => Promise<void> {
  return async (...args) => {
    try {
      process.exitCode = (await run(...args)) ?? EXIT.done;
    } catch (error) {
      process.exitCode = report(error);
    }
  };
}

export interface Interrupt {
  signal: AbortSignal;
  /** 130 or 143 once a signal has come, otherwise undefined. */
  exitCode(): number | undefined;
  dispose(): void;
}

/** First SIGINT/SIGTERM asks the job to stop at a safe point; a second one ends the process at once. */
export function onInterrupt(message: string): Interrupt {
  const controller = new AbortController();
  let code: number | undefined;
  const handler = (signal: NodeJS.Signals): void => {
    const exit = signal === 'SIGTERM' ? EXIT.sigterm : EXIT.sigint;
    if (code !== undefined) process.exit(exit);
    code = exit;
    note(`\n${message}`);
    controller.abort();
  };
  process.on('SIGINT', handler);
  process.on('SIGTERM', handler);
  return {
    signal: controller.signal,
    exitCode: () => code,
    dispose: () => {
      process.off('SIGINT', handler);
      process.off('SIGTERM', handler);
    },
  };
}

/** The exit code of a job that a signal stopped; any other error goes on. */
export function stoppedBy(interrupt: Interrupt, error: unknown): number {
  const code = interrupt.exitCode();
  if (code === undefined || !(error instanceof NiftError && error.code === 'NIFT_INTERRUPTED')) throw error;
  note(`${error.message}. ${error.hint ?? ''}`);
  return code;
}

/** Bytes for people: 1.2 GB (powers of ten, like disks and `ls -h --si`). */
export function formatBytes(bytes: number): string {
  const units = ['B', 'kB', 'MB', 'GB', 'TB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 2 : 1)} ${units[unit]}`;
}

/** "1 file", "3 files". */
export const plural = (count: number, noun: string): string =>
  `${count.toLocaleString('en-US')} ${noun}${count === 1 ? '' : 's'}`;

/** Seconds for people: 3.2s, 4m05s, 2h07m. */
export function formatSeconds(seconds: number): string {
  if (!Number.isFinite(seconds)) return '?';
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)}s`;
  const whole = Math.round(seconds);
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}m${String(whole % 60).padStart(2, '0')}s`;
  return `${Math.floor(minutes / 60)}h${String(minutes % 60).padStart(2, '0')}m`;
}
