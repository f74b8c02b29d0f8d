/** Templates by name; one file each. */
import { NiftError, nearest, quote } from '../errors.js';
import type { Template } from './template.js';
import { vanilla } from './vanilla.js';

export { Template } from './template.js';
export type { Conversation, EncodedTurn, EncodeOptions, Message, Slot, TemplateDefinition, Turn } from './template.js';

const templates = new Map<string, Template>();

/** Adds a template under its name. @throws NiftError NIFT_USAGE when the name is taken */
export function registerTemplate(template: Template): void {
  if (templates.has(template.name)) throw new NiftError('NIFT_USAGE', `template ${quote(template.name)} exists already`);
  templates.set(template.name, template);
}

for (const template of [vanilla]) registerTemplate(template);

export const templateNames = (): string[] => [...templates.keys()];

/** @throws NiftError NIFT_TEMPLATE_UNKNOWN */
export function getTemplate(name: string): Template {
  const template = templates.get(name);
  if (template !== undefined) return template;
  const suggestion = nearest(name, templates.keys());
  const end = suggestion === undefined ? '' : ` Did you mean ${quote(suggestion)}?`;
  throw new NiftError('NIFT_TEMPLATE_UNKNOWN', `unknown template ${quote(name)}.${end}`, {
    hint: `templates: ${templateNames().join(', ')}`,
    details: { name, templates: templateNames() },
  });
}
