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

export interface ResultParts {
  values: RecipeValues;
  plan: TrainingPlan;
  identity: RunIdentity;
  model: CausalLM;
  facts: RunFacts;
  summary: SummaryRow;
  history: (LogRow | SummaryRow)[];
}

/** @returns names of the files written into output_dir */
export function writeResult(parts: ResultParts): string[] {
  const { values, plan, identity, model, facts, summary, history } = parts;
  const folder = values.output_dir;
  const files = saveModel(model, values, folder);
  atomicFile(path.join(folder, 'README.md'), modelCard({ values, plan, trainLoss: summary.train_loss }));
  atomicFile(path.join(folder, TRAINER_STATE), `${trainerState(facts, history)}\n`);
  writeResults(folder, summary, plan.data.census);
  const plots = values.plot_loss ? plotLoss(folder, history) : [];
  writeRunFile(folder, identity, { step: summary.step, trainLoss: summary.train_loss, seconds: summary.train_runtime });
  return [...files, 'README.md', TRAINER_LOG, TRAINER_STATE, 'train_results.json', 'all_results.json', ...plots, RUN_FILE];
}

function plotLoss(_folder: string, _history: readonly (LogRow | SummaryRow)[]): string[] {
  return [];
}
