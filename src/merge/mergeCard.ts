/** README.md of a merged checkpoint. Holds no date, so that equal merges write equal files. */
import path from 'node:path';
import { VERSION } from '../version.js';
import type { MergePlan } from './merge.js';

export function mergeCard(plan: MergePlan, out: string): string {
  const { options, adapters, bases, rewrite, changes } = plan;
  const other = bases.some((base) => base.verdict === 'other');
  const head = [
    '---',
    'library_name: transformers',
    `base_model: ${JSON.stringify(options.model)}`,
    'base_model_relation: merge',
    'tags:',
    '- nift',
    '- merge',
    ...(other ? ['- lora-base'] : []),
    '---',
  ];
  const facts: [string, string][] = [
    ['Checkpoint', options.model],
    ...adapters.map(({ folder, weight, config }, i): [string, string] => [
      `Adapter${weight === 1 ? '' : ` (weight ${weight})`}`,
      `${folder}, trained on ${bases[i]!.recorded ?? 'an unnamed base'}, ${config.use_dora ? 'DoRA' : 'LoRA'} r ${config.r}, alpha ${config.lora_alpha}`,
    ]),
    ['Tensors changed', `${changes.changes.size} of ${rewrite.tensors}; all others are byte for byte those of the checkpoint`],
    ['Storage', options.dtype === undefined || options.dtype === 'keep' ? 'as in the checkpoint' : options.dtype],
    ...(changes.unties
      ? [['Output matrix', 'was tied to the embedding, and is a tensor of its own now'] as [string, string]]
      : []),
    ['Arithmetic', 'W + s B A in float32, rounded once to nearest even'],
    ['Made by', `nift ${VERSION}`],
  ];
  const table = ['| | |', '|---|---|', ...facts.map(([name, value]) => `| ${name} | ${value.replaceAll('|', '\\|')} |`)];
  const note = other
    ? [
        '',
        'The adapter was trained on another checkpoint than the one it was merged into (lora-base).',
        ...bases.flatMap((base) => base.differences.map((line) => `- ${line}`)),
      ]
    : [];
  const usage = ['', '```', 'nift generate --model . --prompt "..."', '```', ''];
  return [...head, '', `# ${path.basename(path.resolve(out))}`, '', ...table, ...note, ...usage].join('\n');
}
