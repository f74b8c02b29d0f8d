/** The plan of a training run for people. */
import type { Census } from '../data/census.js';
import type { TrainingPlan } from '../train/plan.js';
import { formatBytes, plural, style } from './io.js';

const count = (value: number): string => value.toLocaleString('en-US');
const percent = (share: number): string => `${(100 * share).toFixed(share < 0.01 ? 3 : 1)} %`;

export function renderPlan(plan: TrainingPlan): string {
  const { model, method, dtype, data, steps, memory, disk } = plan;
  const bytes = Object.entries(memory).filter(
    ([key, value]) => typeof value === 'number' && value > 0 && !['total', 'available'].includes(key),
  );
  const shownSaves =
    disk.saves.length > 6
      ? `${disk.saves.slice(0, 3).join(', ')}, ... ${disk.saves.slice(-2).join(', ')}`
      : disk.saves.join(', ');
  return [
    section('model', [
      `${model.path}`,
      `${model.architecture}, ${count(model.parameters)} parameters in ${model.layers} layers, context ${count(model.contextLength)}`,
      `training ${method.type}: ${count(method.trainableParameters)} parameters (${percent(method.trainableShare)}) in ${count(method.trainableTensors)} tensors`,
      `weights stored as ${dtype.storage}, products in ${dtype.compute} (${dtype.reason})`,
    ]),
    section('data', [
      `${count(data.rows)} rows, ${count(data.tokens)} tokens, ${count(data.supervisedTokens)} of them supervised; longest row ${count(data.longestRow)}`,
      ...droppedRows(data.census),
    ]),
    section('steps', [
      `${count(steps.totalSteps)} steps of ${count(steps.rowsPerStep)} rows over ${Number(steps.epochs.toFixed(4))} epochs, ${count(steps.warmupSteps)} of warm-up`,
      `${count(steps.tokens)} tokens in all, ${count(steps.supervisedTokens)} supervised`,
    ]),
    section(`memory, predicted peak ${formatBytes(memory.total)} (free now: ${formatBytes(memory.available)})`, [
      ...bytes.map(([key, value]) => `${words(key).padEnd(24)} ${formatBytes(value as number).padStart(9)}`),
    ]),
    section('files', [
      `${plan.outputDir}: ${plural(disk.saves.length, 'save')} (step ${shownSaves}) of ${formatBytes(disk.bytesPerSave)}, ${disk.kept} kept`,
      `needs ${formatBytes(disk.needed)}, free ${formatBytes(disk.free)}`,
    ]),
  ].join('\n');
}

/** What became of rows that are not trained on; nothing to say when all are. */
function droppedRows({ rowsRead, rowsKept, dropped }: Census): string[] {
  if (rowsRead === rowsKept) return [];
  const causes = Object.entries(dropped).map(([cause, { count: rows, first }]) => `${count(rows)} ${cause} (first ${first[0]})`);
  return [`${count(rowsRead)} rows read, ${count(rowsRead - rowsKept)} dropped: ${causes.join('; ')}`];
}

const words = (key: string): string => key.replace(/([A-Z])/g, ' $1').toLowerCase();

function section(title: string, lines: string[]): string {
  return [style.bold(title), ...lines.filter((line) => line !== '').map((line) => `  ${line}`)].join('\n');
}
