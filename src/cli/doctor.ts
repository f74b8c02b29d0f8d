/** `nift doctor`: everything a bug report needs, and what to do about what is missing. */
import type { Command } from 'commander';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import { VERSION } from '../version.js';
import { action, common, type CommonOptions, formatBytes, out, outJson, style } from './io.js';

interface DoctorReport {
  nift: string;
  node: { version: string; abi: string; supported: boolean };
  platform: { os: string; arch: string; release: string };
  cpu: { model: string; cores: number };
  memory: { totalBytes: number; freeBytes: number };
  addon: {
    loaded: boolean;
    reason: string | null;
    isa: string | null;
    isas: string[];
    compiler: string | null;
    threads: number | null;
  };
  backends: Record<string, { available: boolean; reason: string | null }>;
  gpu: { driver: boolean; note: string };
  packages: Record<string, string | null>;
  problems: string[];
}

const PEERS = {
  tensorflow: ['@tensorflow/tfjs-node-gpu', '@tensorflow/tfjs-node'],
  wasm: ['@tensorflow/tfjs-backend-wasm'],
};

function packageVersion(name: string): string | null {
  try {
    const require = createRequire(import.meta.url);
    return (require(`${name}/package.json`) as { version: string }).version;
  } catch {
    return null;
  }
}

async function examine(): Promise<DoctorReport> {
  const { addon, addonFailure } = await import('../backend/addon.js');
  const native = addon();
  const info = native?.runtimeInfo();
  const problems: string[] = [];
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const supported = major > 20 || (major === 20 && minor >= 19);
  if (!supported) problems.push(`Node ${process.versions.node} is older than 20.19; install a newer one.`);
  if (!native) {
    problems.push(
      `The native addon is not in use (${addonFailure()}). Everything works, many times slower. ` +
        'With a C++17 compiler, make and python3 installed, run: npm run build:addon',
    );
  }
  const backends: DoctorReport['backends'] = {
    native: { available: true, reason: native ? null : 'composed ops, no addon' },
    cpu: { available: true, reason: null },
  };
  for (const [name, candidates] of Object.entries(PEERS)) {
    const found = candidates.find((candidate) => packageVersion(candidate) !== null);
    backends[name] = { available: found !== undefined, reason: found ?? `npm install ${candidates.at(-1)}` };
  }
  const driver = ['/usr/lib/x86_64-linux-gnu/libcuda.so.1', '/usr/lib64/libcuda.so.1', '/usr/lib/wsl/lib/libcuda.so.1'].some(
    (file) => existsSync(file),
  );
  return {
    nift: VERSION,
    node: { version: process.versions.node, abi: process.versions.modules, supported },
    platform: { os: process.platform, arch: process.arch, release: os.release() },
    cpu: { model: os.cpus()[0]?.model ?? 'unknown', cores: os.availableParallelism() },
    memory: { totalBytes: os.totalmem(), freeBytes: os.freemem() },
    addon: {
      loaded: native !== null,
      reason: addonFailure() ?? null,
      isa: info?.isa ?? null,
      isas: info?.isas ?? [],
      compiler: info?.compiler ?? null,
      threads: info?.threads ?? null,
    },
    backends,
    gpu: { driver, note: 'nift has no CUDA backend yet; --backend tensorflow runs on @tensorflow/tfjs-node-gpu.' },
    packages: Object.fromEntries(
      ['@tensorflow/tfjs', '@huggingface/tokenizers', 'zod', 'commander'].map((name) => [name, packageVersion(name)]),
    ),
    problems,
  };
}

function render(report: DoctorReport): string {
  const mark = (good: boolean): string => (good ? style.green('ok') : style.yellow('--'));
  const lines = [
    `nift ${report.nift}, Node ${report.node.version} (ABI ${report.node.abi}), ${report.platform.os} ${report.platform.arch}`,
    `${mark(report.node.supported)} Node 20.19 or later`,
    `${mark(report.addon.loaded)} native addon: ${report.addon.loaded ? `${report.addon.isa} (of ${report.addon.isas.join(', ')}), ${report.addon.threads} threads, g++ ${report.addon.compiler}` : report.addon.reason}`,
    `   ${report.cpu.model}, ${report.cpu.cores} cores, memory ${formatBytes(report.memory.freeBytes)} free of ${formatBytes(report.memory.totalBytes)}`,
    ...Object.entries(report.backends).map(
      ([name, b]) => `${mark(b.available)} backend ${name}${b.reason ? ` (${b.reason})` : ''}`,
    ),
    `${mark(report.gpu.driver)} NVIDIA driver: ${report.gpu.driver ? 'found' : 'not found'}. ${report.gpu.note}`,
    ...report.problems.map((problem) => `${style.yellow('!')}  ${problem}`),
  ];
  return lines.join('\n');
}

export function registerDoctor(program: Command): void {
  common(program.command('doctor').description('what this machine has, what nift uses of it, and what is missing')).action(
    action(async (options: CommonOptions) => {
      const report = await examine();
      if (options.json) outJson(report);
      else out(render(report));
    }),
  );
}
