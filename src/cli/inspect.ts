/** `nift inspect PATH`: what a safetensors or GGUF file, checkpoint, adapter, training output or dataset holds, from headers alone. */
import type { Command } from 'commander';
import { action, common, type CommonOptions, formatBytes, out, outJson, style } from './io.js';

/** One line per fact; nested objects are indented, long lists are cut (`--json` has everything). */
function render(value: unknown, indent = ''): string[] {
  if (value === null || typeof value !== 'object') return [`${indent}${String(value)}`];
  return Object.entries(value).flatMap(([key, item]) => renderEntry(key, item, indent));
}

function renderEntry(key: string, item: unknown, indent: string): string[] {
  const label = `${indent}${style.cyan(key)}`;
  if (item === null || item === undefined) return [];
  if (typeof item === 'number' && /bytes$/i.test(key)) return [`${label}: ${formatBytes(item)}`];
  if (typeof item === 'number')
    return [`${label}: ${Number.isInteger(item) ? item.toLocaleString('en-US') : Number(item.toPrecision(7))}`];
  if (typeof item !== 'object') return [`${label}: ${typeof item === 'string' ? item : JSON.stringify(item)}`];
  if (Array.isArray(item)) {
    if (item.every((element) => typeof element !== 'object')) return [`${label}: ${shorten(item.map(String), 12).join(', ')}`];
    const rows = item.map(
      (element: unknown) =>
        `${indent}  ${Object.values(element as object)
          .map(cell)
          .join('  ')}`,
    );
    return [`${label} (${item.length})`, ...shorten(rows, 16)];
  }
  const lines = render(item, `${indent}  `);
  return lines.length === 0 ? [] : [label, ...shorten(lines, 40)];
}

const cell = (value: unknown): string => (Array.isArray(value) ? `[${value.join(', ')}]` : String(value));

function shorten(items: string[], limit: number): string[] {
  return items.length <= limit ? items : [...items.slice(0, limit), `... and ${items.length - limit} more (--json shows all)`];
}

export function registerInspect(program: Command): void {
  common(
    program
      .command('inspect')
      .description('what a safetensors or GGUF file, checkpoint, adapter, training output or dataset holds')
      .argument('<path>', 'file or folder'),
  ).action(
    action(async (target: string, options: CommonOptions) => {
      const { inspectPath } = await import('../formats/inspect.js');
      const report = await inspectPath(target);
      if (options.json) outJson(report);
      else out(render(report).join('\n'));
    }),
  );
}
