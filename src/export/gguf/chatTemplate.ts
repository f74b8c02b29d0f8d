/** The chat template of a checkpoint, wherever its generation of transformers keeps it, and what Ollama calls the same format. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { list, text, type GgufValue } from '../../formats/gguf/types.js';
import { guardIo } from '../../formats/io.js';
import { isJsonObject, readJsonObject, type JsonValue } from '../../formats/jsonText.js';

/** Jinja sources by name; `default` is the one in use. Empty for a base model. */
export function chatTemplates(folder: string): Map<string, string> {
  const jinja = path.join(folder, 'chat_template.jinja');
  if (existsSync(jinja)) return new Map([['default', guardIo(jinja, 'read', () => readFileSync(jinja, 'utf8'))]]);
  for (const name of ['chat_template.json', 'tokenizer_config.json']) {
    const file = path.join(folder, name);
    const found = existsSync(file) ? templatesIn(readJsonObject(file)['chat_template'] ?? null) : new Map<string, string>();
    if (found.size > 0) return found;
  }
  return new Map();
}

/** One template, or a list of {name, template}. */
function templatesIn(value: JsonValue): Map<string, string> {
  if (typeof value === 'string') return new Map([['default', value]]);
  const rows = Array.isArray(value) ? value.filter(isJsonObject) : [];
  return new Map(
    rows.flatMap(({ name, template }): [string, string][] =>
      typeof name === 'string' && typeof template === 'string' ? [[name, template]] : [],
    ),
  );
}

/** `tokenizer.chat_template*` */
export function chatTemplateMetadata(templates: ReadonlyMap<string, string>): [string, GgufValue][] {
  const entries: [string, GgufValue][] = [];
  const names: string[] = [];
  for (const [name, source] of templates) {
    if (name === 'default') {
      entries.push(['tokenizer.chat_template', text(source)]);
      continue;
    }
    const plain = name.replaceAll(/[^a-zA-Z0-9_]/g, '_');
    if (names.includes(plain)) continue;
    names.push(plain);
    entries.push([`tokenizer.chat_template.${plain}`, text(source)]);
  }
  if (names.length > 0) entries.push(['tokenizer.chat_templates', list('string', names)]);
  return entries;
}

export interface OllamaTemplate {
  /** Go template. */
  source: string;
  /** Texts that end an answer besides the end tokens. */
  stops: readonly string[];
}

const OLLAMA: readonly { mark: string; template: OllamaTemplate }[] = [
  {
    mark: '<|im_start|>',
    template: {
      source: '{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n',
      stops: ['<|im_start|>', '<|im_end|>'],
    },
  },
  {
    mark: '<|start_header_id|>',
    template: {
      source:
        '{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}' +
        '<|start_header_id|>assistant<|end_header_id|>\n\n',
      stops: ['<|start_header_id|>', '<|eot_id|>'],
    },
  },
  {
    mark: '<<SYS>>',
    template: {
      source: '[INST] {{ if .System }}<<SYS>>\n{{ .System }}\n<</SYS>>\n\n{{ end }}{{ .Prompt }} [/INST]',
      stops: ['[INST]', '[/INST]'],
    },
  },
  {
    mark: '[INST]',
    template: { source: '[INST] {{ if .System }}{{ .System }}\n\n{{ end }}{{ .Prompt }} [/INST]', stops: ['[INST]', '[/INST]'] },
  },
];

/** A base model writes on from the bare prompt. */
const BARE: OllamaTemplate = { source: '{{ .Prompt }}', stops: [] };

/** Ollama's spelling of the format; null for one that is not known here. @param jinja undefined: a base model */
export function ollamaTemplate(jinja: string | undefined): OllamaTemplate | null {
  if (jinja === undefined) return BARE;
  return OLLAMA.find(({ mark }) => jinja.includes(mark))?.template ?? null;
}
