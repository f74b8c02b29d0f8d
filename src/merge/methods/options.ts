/** Options of `nift merge --method`: which method takes which, their defaults, and one error for all that is wrong. */
import type { StorageDtype } from '../../backend/dtype.js';
import { nearest, NiftError, quote } from '../../errors.js';

export const MERGE_METHODS = ['linear', 'task_arithmetic', 'ties', 'dare_linear', 'dare_ties', 'slerp'] as const;
export type MergeMethod = (typeof MERGE_METHODS)[number];

export interface WeightedModel {
  folder: string;
  /** Default 1. */
  weight?: number;
}

export interface MergeModelsOptions {
  method: string;
  /** Needed by all methods but `linear`, and `slerp` of two models. Config, tokenizer and dtype of the output come from it. */
  base?: string;
  models: readonly WeightedModel[];
  /** Share of each task vector that stays (ties, dare_*), in (0, 1]. Default 1. */
  density?: number;
  /** Of what DARE drops. Default 0. */
  seed?: number;
  /** Divide by the sum of weights. Default: linear and ties do, the others do not. */
  normalize?: boolean;
  /** Factor of the combined task vector. Default 1. */
  lambda?: number;
  /** Where between base (0) and model (1) slerp ends. */
  t?: number;
  /** Default keep: that of the base. */
  dtype?: 'keep' | StorageDtype;
}

/** What a method does, with nothing left open. */
export interface Method {
  name: MergeMethod;
  /** The models are compared with a base. */
  taskVectors: boolean;
  sparsity: 'none' | 'trim' | 'drop';
  elect: boolean;
  normalize: boolean;
  density: number;
  seed: number;
  lambda: number;
  t: number;
  weights: readonly number[];
}

type Tunable = 'density' | 'seed' | 'normalize' | 'lambda' | 't';

const METHODS: Record<
  MergeMethod,
  Pick<Method, 'taskVectors' | 'sparsity' | 'elect' | 'normalize'> & { takes: readonly Tunable[] }
> = {
  linear: { taskVectors: false, sparsity: 'none', elect: false, normalize: true, takes: ['normalize'] },
  task_arithmetic: { taskVectors: true, sparsity: 'none', elect: false, normalize: false, takes: ['normalize', 'lambda'] },
  ties: { taskVectors: true, sparsity: 'trim', elect: true, normalize: true, takes: ['density', 'normalize', 'lambda'] },
  dare_linear: {
    taskVectors: true,
    sparsity: 'drop',
    elect: false,
    normalize: false,
    takes: ['density', 'seed', 'normalize', 'lambda'],
  },
  dare_ties: {
    taskVectors: true,
    sparsity: 'drop',
    elect: true,
    normalize: false,
    takes: ['density', 'seed', 'normalize', 'lambda'],
  },
  slerp: { taskVectors: false, sparsity: 'none', elect: false, normalize: false, takes: ['t'] },
};

/** @throws NIFT_USAGE with every problem of the options */
export function resolveMethod(options: MergeModelsOptions): Method {
  const name = MERGE_METHODS.find((method) => method === options.method);
  if (name === undefined) {
    const near = nearest(options.method, MERGE_METHODS);
    throw new NiftError('NIFT_USAGE', `--method ${quote(options.method)}: no such method`, {
      hint: near === undefined ? `Methods: ${MERGE_METHODS.join(', ')}.` : `Did you mean ${near}?`,
    });
  }
  const { takes, ...traits } = METHODS[name];
  const weights = options.models.map((model) => model.weight ?? 1);
  const problems = [
    ...(['density', 'seed', 'normalize', 'lambda', 't'] as const)
      .filter((key) => options[key] !== undefined && !takes.includes(key))
      .map((key) => `--${key} means nothing to ${name}`),
    ...countProblems(name, options),
    ...valueProblems(name, options, weights),
  ];
  if (problems.length > 0) throw new NiftError('NIFT_USAGE', `merge: ${problems.join('; ')}`, { details: { problems } });
  return {
    name,
    ...traits,
    normalize: options.normalize ?? traits.normalize,
    density: options.density ?? 1,
    seed: options.seed ?? 0,
    lambda: options.lambda ?? 1,
    t: options.t ?? 0,
    weights,
  };
}

function countProblems(name: MergeMethod, { base, models }: MergeModelsOptions): string[] {
  if (name === 'linear') return models.length >= 2 ? [] : ['linear needs two or more --model'];
  if (name === 'slerp') {
    const count = models.length + (base === undefined ? 0 : 1);
    return count === 2 ? [] : [`slerp goes between two models (--base and one --model), ${count} were given`];
  }
  return [
    ...(base === undefined ? [`${name} needs --base: the model that the others were made from`] : []),
    ...(models.length === 0 ? [`${name} needs at least one --model`] : []),
  ];
}

function valueProblems(name: MergeMethod, options: MergeModelsOptions, weights: readonly number[]): string[] {
  const { density, t, seed } = options;
  const problems: string[] = [];
  if (density !== undefined && !(density > 0 && density <= 1))
    problems.push(`--density ${density}: expected more than 0, at most 1`);
  if (seed !== undefined && !(Number.isSafeInteger(seed) && seed >= 0)) problems.push(`--seed ${seed}: expected a whole number`);
  if (options.lambda !== undefined && !Number.isFinite(options.lambda)) problems.push('--lambda: expected a number');
  if (name === 'slerp' && t === undefined) problems.push('slerp needs --t: 0 is the base, 1 is the model');
  if (t !== undefined && !(t >= 0 && t <= 1)) problems.push(`--t ${t}: expected 0 to 1`);
  if (name === 'slerp' && options.models.some((model) => model.weight !== undefined))
    problems.push('slerp has no weights: say where between the two with --t');
  if (weights.some((weight) => !Number.isFinite(weight))) problems.push('a weight is not a number');
  if (name === 'linear' && options.normalize !== false && Math.abs(weights.reduce((a, b) => a + b, 0)) < 1e-8)
    problems.push('the weights sum to 0; change them, or add --no-normalize');
  return problems;
}
