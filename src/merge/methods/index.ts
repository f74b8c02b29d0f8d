/**
 * Checkpoints merged into one: linear, task_arithmetic, ties, dare_linear, dare_ties, slerp.
 *
 * Tensor by tensor and block by block from file to file; memory holds a few blocks per model. Everything is planned from headers first.
 */
import path from 'node:path';
import type { JsonObject } from '../../formats/jsonText.js';
import { checkpointIdentity } from '../../formats/manifest.js';
import { openCheckpoint, type Checkpoint } from '../../formats/checkpoint.js';
import { VERSION } from '../../version.js';
import { FILE_DTYPE } from '../mergeTensor.js';
import { planRewrite, runRewrite, type RewritePlan, type RewriteResult, type RunOptions } from '../rewrite.js';
import { requireAgreement, type Member } from './agreement.js';
import { BLOCK_ELEMENTS, isFloat, StoredTensors } from './blocks.js';
import { writeMergedTensor } from './mergedTensor.js';
import { resolveMethod, type MergeModelsOptions, type Method } from './options.js';

export { MERGE_METHODS, type MergeMethod, type MergeModelsOptions, type WeightedModel } from './options.js';

export interface MergeModelsPlan {
  method: Method;
  rewrite: RewritePlan;
  /** Differences between the models that do not stand in the way. */
  notes: string[];
  /** Tensors that hold no floats: taken from the first model. */
  carried: string[];
  close(): void;
}

/**
 * Plans a merge from headers. The caller closes the plan.
 * @throws NIFT_USAGE, NIFT_CHECKPOINT_MISMATCH, NIFT_FILE_*, NIFT_SAFETENSORS_*
 */
export function planMergeModels(options: MergeModelsOptions & { maxShardBytes?: number }): MergeModelsPlan {
  const method = resolveMethod(options);
  const folders = options.models.map((model) => model.folder);
  const first = options.base ?? folders[0]!;
  const opened: Checkpoint[] = [];
  const readers: StoredTensors[] = [];
  const close = (): void => {
    for (const reader of readers) reader.close();
    for (const checkpoint of opened) checkpoint.close();
  };
  try {
    const open = (folder: string): { member: Member; tensors: StoredTensors } => {
      const checkpoint = openCheckpoint(folder, { map: false });
      opened.push(checkpoint);
      const tensors = new StoredTensors(checkpoint.tensors.files);
      readers.push(tensors);
      const entries = new Map(tensors.names().map((name) => [name, tensors.info(name)]));
      return { member: { folder, config: checkpoint.config, tensors: entries }, tensors };
    };
    const models = folders.map(open);
    const base = options.base === undefined ? null : open(options.base);
    const members = [...(base ? [base.member] : []), ...models.map((model) => model.member)];
    const notes = requireAgreement(members[0]!, members.slice(1));
    const usesBase = method.taskVectors || method.name === 'slerp';
    const carried: string[] = [];
    const { dtype = 'keep' } = options;
    const rewrite = planRewrite({
      model: first,
      inputs: folders.filter((folder) => folder !== first),
      command: `merge --method ${method.name}`,
      config: describe(method, options),
      dtype,
      ...(options.maxShardBytes === undefined ? {} : { maxShardBytes: options.maxShardBytes }),
      tensorTransform: (name, entry) => {
        if (!isFloat(entry)) {
          carried.push(name);
          return undefined;
        }
        const target = dtype === 'keep' ? entry.dtype : FILE_DTYPE[dtype];
        const sources = () => ({
          base: base && usesBase ? base.tensors.stored(name) : null,
          models: models.map((model) => model.tensors.stored(name)),
        });
        return [
          {
            name,
            dtype: target,
            shape: entry.shape,
            write: (sink) => writeMergedTensor(method, sources(), target, sink),
            workingBytes: (models.length + 3) * BLOCK_ELEMENTS * 8,
          },
        ];
      },
    });
    return {
      method,
      rewrite,
      notes,
      carried,
      close: () => {
        rewrite.source.close();
        close();
      },
    };
  } catch (error) {
    close();
    throw error;
  }
}

/** What the result follows from, for the manifest and for the check of a resumed run. */
function describe(method: Method, options: MergeModelsOptions): JsonObject {
  return {
    method: method.name,
    base: options.base ?? null,
    models: options.models.map(({ folder }, i) => ({
      folder,
      weight: method.weights[i]!,
      identity: checkpointIdentity(folder),
    })),
    normalize: method.normalize,
    density: method.density,
    seed: method.seed,
    lambda: method.lambda,
    t: method.t,
    dtype: options.dtype ?? 'keep',
  };
}

/** Plans, writes and closes. */
export async function mergeModels(
  options: MergeModelsOptions & { maxShardBytes?: number },
  run: RunOptions,
): Promise<RewriteResult & { plan: MergeModelsPlan }> {
  const plan = planMergeModels(options);
  try {
    const result = await runRewrite(plan.rewrite, { ...run, readme: run.readme ?? modelCard(plan, options, run.out) });
    return { ...result, plan };
  } finally {
    plan.close();
  }
}

/** README.md of the result. Holds no date, so that equal merges write equal files. */
function modelCard({ method }: MergeModelsPlan, options: MergeModelsOptions, out: string): string {
  const parents = [...(options.base === undefined ? [] : [options.base]), ...options.models.map((model) => model.folder)];
  const tuned = [
    ...(method.sparsity === 'none' ? [] : [`density ${method.density}`]),
    ...(method.sparsity === 'drop' ? [`seed ${method.seed}`] : []),
    ...(method.name === 'slerp' ? [`t ${method.t}`] : [`normalize ${method.normalize}`]),
    ...(method.taskVectors ? [`lambda ${method.lambda}`] : []),
  ];
  const weights = options.models.map(({ folder }, i) => `| ${folder} | ${method.name === 'slerp' ? '' : method.weights[i]!} |`);
  return [
    '---',
    'license: other',
    'library_name: transformers',
    'base_model:',
    ...parents.map((parent) => `- ${JSON.stringify(parent)}`),
    'tags:',
    '- nift',
    '- merge',
    '---',
    '',
    `# ${path.basename(path.resolve(out))}`,
    '',
    `Merged by nift ${VERSION} with method ${method.name} (${tuned.join(', ')})${options.base === undefined ? '' : ` on the base ${options.base}`}.`,
    '',
    '| model | weight |',
    '|---|---|',
    ...weights,
    '',
  ].join('\n');
}
