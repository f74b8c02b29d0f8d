/** Ollama's Modelfile. Source: https://github.com/ollama/ollama/blob/main/docs/modelfile.md */
import path from 'node:path';
import type { OllamaTemplate } from './chatTemplate.js';

export interface ModelfileContent {
  /** Where it will lie: paths in it are relative to that folder. */
  file: string;
  /** GGUF file, or a checkpoint folder, which Ollama converts itself. */
  from: string;
  adapter?: string;
  /** null: not known here; Ollama then looks at the template inside the GGUF. */
  template: OllamaTemplate | null;
  /** Texts of the end tokens. */
  stops: readonly string[];
}

export function modelfileText({ file, from, adapter, template, stops }: ModelfileContent): string {
  const relative = (target: string): string => {
    const short = path
      .relative(path.dirname(path.resolve(file)), path.resolve(target))
      .split(path.sep)
      .join('/');
    return short.startsWith('.') ? short : `./${short}`;
  };
  const lines = [`FROM ${relative(from)}`];
  if (adapter !== undefined) lines.push(`ADAPTER ${relative(adapter)}`);
  if (template) lines.push(`TEMPLATE """${template.source}"""`);
  else lines.push('# TEMPLATE: this chat template is none of those known here; Ollama reads it from the GGUF.');
  // The format has no way to escape a quotation mark.
  const all = new Set([...stops, ...(template?.stops ?? [])].filter((stop) => stop !== '' && !/["\n]/.test(stop)));
  for (const stop of all) lines.push(`PARAMETER stop "${stop}"`);
  return `${lines.join('\n')}\n`;
}
