/** What every recorded result says about where and when it was measured. */
import { execFileSync } from 'node:child_process';
import os from 'node:os';

export function machine(): Record<string, unknown> {
  const git = (...args: string[]): string => execFileSync('git', args, { encoding: 'utf8' }).trim();
  return {
    date: new Date().toISOString(),
    commit: git('rev-parse', 'HEAD'),
    dirty: git('status', '--porcelain') !== '',
    cpu: os.cpus()[0]?.model,
    cores: os.cpus().length,
    load: os.loadavg()[0],
    node: process.version,
  };
}
