/** README.md of a result: what it is, what made it, how to use it. The metadata block is what model hubs read. */
import path from 'node:path';
import type { RecipeValues } from '../config/recipe.js';
import { VERSION } from '../version.js';
import type { TrainingPlan } from './plan.js';

export interface CardFacts {
  values: RecipeValues;
  plan: TrainingPlan;
  trainLoss: number | null;
}

/** Markdown with a YAML head. Holds no date, so that equal runs write equal files. */
export function modelCard({ values, plan, trainLoss }: CardFacts): string {
  const lora = values.finetuning_type === 'lora';
  const base = values.model_name_or_path;
  const head = [
    '---',
    'license: other',
    ...(lora ? ['library_name: peft', `base_model: ${JSON.stringify(base)}`] : ['library_name: transformers']),
    'tags:',
    '- nift',
    `- ${values.finetuning_type}`,
    '- generated_from_trainer',
    '---',
  ];
  const facts: [string, string][] = [
    ['Base model', base],
    ['Dataset', values.dataset.join(', ')],
    ['Template', values.template],
    ['Rows, tokens, supervised tokens', `${plan.data.rows}, ${plan.data.tokens}, ${plan.data.supervisedTokens}`],
    ['Trained parameters', `${plan.method.trainableParameters} of ${plan.model.parameters}`],
    ...(lora ? [['LoRA', loraText(values)] as [string, string]] : []),
    ['Learning rate', `${values.learning_rate}, ${values.lr_scheduler_type}, ${plan.steps.warmupSteps} warm-up steps`],
    [
      'Batch',
      `${values.per_device_train_batch_size} rows x ${values.gradient_accumulation_steps} (${values.gradient_accumulation_mode})`,
    ],
    ['Steps, epochs', `${plan.steps.totalSteps}, ${Number(plan.steps.epochs.toFixed(4))}`],
    ['Arithmetic', `weights ${plan.dtype.storage}, products ${plan.dtype.compute}`],
    ['Seed', String(values.seed)],
    ['Mean training loss', trainLoss === null ? 'none' : trainLoss.toFixed(4)],
    ['Made by', `nift ${VERSION}`],
  ];
  const table = ['| | |', '|---|---|', ...facts.map(([name, value]) => `| ${name} | ${value.replaceAll('|', '\\|')} |`)];
  return [...head, '', `# ${path.basename(path.resolve(values.output_dir))}`, '', ...table, '', ...usage(values, lora), ''].join(
    '\n',
  );
}

function loraText(values: RecipeValues): string {
  const scaling = values.use_rslora ? 'alpha / sqrt(r)' : 'alpha / r';
  return `r ${values.lora_rank}, alpha ${values.lora_alpha} (scaling ${scaling}), dropout ${values.lora_dropout}, on ${values.lora_target.join(', ')}`;
}

function usage(values: RecipeValues, lora: boolean): string[] {
  const folders = lora ? `--model ${values.model_name_or_path} --adapter .` : '--model .';
  return [
    '```',
    `nift generate ${folders} --template ${values.template} --prompt "..." --max-new-tokens 200 --temperature 0`,
    '```',
  ];
}
