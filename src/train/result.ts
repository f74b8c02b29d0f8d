/** The files of a finished run: weights first, the mark that says "finished" last. */
import path from 'node:path';
import { atomicFile } from '../formats/atomic.js';
import type { RecipeValues } from '../config/recipe.js';
import type { CausalLM } from '../model/causalLM.js';
import type { LogRow, SummaryRow } from './events.js';
import { TRAINER_LOG, TRAINER_STATE, trainerState, writeResults, type RunFacts } from './logs.js';
import { saveModel } from './method.js';
import { modelCard } from './modelCard.js';
import { RUN_FILE, writeRunFile, type RunIdentity } from './outputFolder.js';
import type { TrainingPlan } from './plan.js';
import type { Template } from '../templates/index.js';

export const TEMPLATE_FILE = 'nift_template.json';

export interface ResultParts {
  values: RecipeValues;
  plan: TrainingPlan;
  template: Template | null;
  identity: RunIdentity;
  model: CausalLM;
  facts: RunFacts;
  summary: SummaryRow;
  history: (LogRow | SummaryRow)[];
}

/** @returns names of the files written into output_dir */
export async function writeResult(parts: ResultParts): Promise<string[]> {
  const { values, plan, template, identity, model, facts, summary, history } = parts;
  const folder = values.output_dir;
  const files = saveModel(model, values, folder);
  atomicFile(path.join(folder, 'README.md'), modelCard({ values, plan, trainLoss: summary.train_loss }));
  atomicFile(path.join(folder, TRAINER_STATE), `${trainerState(facts, history)}\n`);
  writeResults(folder, summary, plan.data.census);
  if (template !== null) files.push(writeTemplate(folder, template));
  const plots = values.plot_loss ? await plotLoss(folder, history) : [];
  writeRunFile(folder, identity, { step: summary.step, trainLoss: summary.train_loss, seconds: summary.train_runtime });
  return [...files, 'README.md', TRAINER_LOG, TRAINER_STATE, 'train_results.json', 'all_results.json', ...plots, RUN_FILE];
}

/** The template that the rows were made with, so that whoever uses the result can ask in the same form. */
function writeTemplate(folder: string, { name, hash, definition }: Template): string {
  atomicFile(path.join(folder, TEMPLATE_FILE), `${JSON.stringify({ name, hash, definition }, null, 2)}\n`);
  return TEMPLATE_FILE;
}

/** training_loss.png and .svg. */
async function plotLoss(folder: string, history: readonly (LogRow | SummaryRow)[]): Promise<string[]> {
  // The charting library takes a while to load; runs without a plot do not wait for it.
  const { renderLossPlot } = await import('../report/lossPlot.js');
  const plot = renderLossPlot(history);
  if (plot === null) return [];
  atomicFile(path.join(folder, 'training_loss.png'), plot.png);
  atomicFile(path.join(folder, 'training_loss.svg'), plot.svg);
  return ['training_loss.png', 'training_loss.svg'];
}
