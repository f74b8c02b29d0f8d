/** docs/recipe.md: the key table as Markdown. A test holds the file to it. */
import { recipeKeys } from './recipe.js';
import type { RecipeKey } from './recipe.js';
import { KEY_GROUPS } from './schema.js';

const TITLES: Record<(typeof KEY_GROUPS)[number], string> = {
  model: 'Model and machine',
  method: 'Method',
  data: 'Data',
  output: 'Output',
  train: 'Training',
  precision: 'Precision',
  compatibility: "LLaMA-Factory's keys without effect here",
};

const cell = (text: string): string => text.replaceAll('|', '\\|');

function typeText(key: RecipeKey): string {
  return key.choices === undefined ? key.kind : key.choices.map((choice) => `\`${choice}\``).join(' ');
}

function defaultCell(key: RecipeKey): string {
  if (key.required || key.defaultText === '') return key.required ? 'required' : '';
  return `\`${cell(key.defaultText)}\``;
}

function effect(key: RecipeKey): string {
  if (key.noticed !== undefined) return `${key.description} Accepted with a notice: ${key.noticed}.`;
  if (key.refused !== undefined) return `${key.description} Only \`${key.defaultText || 'null'}\`: ${key.refused}.`;
  return key.description;
}

const INTRODUCTION = `# Recipe keys

<!-- Made from src/config/keys.ts; \`npx vitest run test/config -u\` writes it anew. -->

A recipe is a YAML 1.2 or JSON file in LLaMA-Factory's keys. Every key is also a flag of \`nift train\` (\`--lora-rank 16\` or
\`--lora_rank 16\`; switches take \`--plot-loss\`, \`--no-plot-loss\`), an argument (\`lora_rank=16\`) and an environment variable
(\`NIFT_LORA_RANK=16\`). Precedence: default, file, environment, argument, flag; \`--dry-run\` prints where each value came from.
An unknown key is an error, and all errors are told at once, each with its line.

\`model_name_or_path\`, \`adapter_name_or_path\`, \`dataset_dir\` and \`resume_from_checkpoint\` are relative to the current directory,
as in LLaMA-Factory; when nothing is there, the folder of the recipe is tried. \`output_dir\` is always relative to the current
directory. \`fp16\`, \`bf16\` and \`dtype\` say the same thing: the strongest source wins, and within one they must agree.
`;

/** The whole page. */
export function recipeReference(): string {
  const keys = recipeKeys();
  const groups = KEY_GROUPS.map((group) => {
    const rows = keys
      .filter((key) => key.group === group)
      .map((key) => `| \`${key.name}\` | ${cell(typeText(key))} | ${defaultCell(key)} | ${cell(effect(key))} |`);
    return `## ${TITLES[group]}\n\n| key | type | default | meaning |\n|---|---|---|---|\n${rows.join('\n')}\n`;
  });
  return [INTRODUCTION, ...groups].join('\n');
}
