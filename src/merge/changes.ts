/** What adapters change in a checkpoint: by tensor of the checkpoint, whether it is adapted, replaced, or added to. */
import { NiftError } from '../errors.js';
import { EMBEDDING, LM_HEAD } from '../model/parameters.js';
import type { LowRankPart, MergeAdapter } from './adapterFile.js';
import { RANK_STEP, type LowRankChange } from './mergeTensor.js';
import type { RewriteSource } from './rewrite.js';

export interface TensorChange {
  /** Tensor of the output. */
  target: string;
  /** Tensor of the checkpoint that it starts from: another one for an output matrix that was tied. */
  from: string;
  lowRank: { adapter: MergeAdapter; part: LowRankPart }[];
  /** Tensors of adapters that take its place. */
  replaced: { adapter: MergeAdapter; tensor: string }[];
  /** Biases of B: added, times scaling. */
  added: { adapter: MergeAdapter; tensor: string; scaling: number }[];
}

export interface AdapterChanges {
  /** In the checkpoint's order; new tensors last. */
  changes: Map<string, TensorChange>;
  /** The tied output matrix becomes a tensor of its own. */
  unties: boolean;
}

/** Matches adapters with a checkpoint, strictly. @throws NIFT_ADAPTER_MISMATCH listing all that does not fit */
export function collectChanges(source: RewriteSource, adapters: readonly MergeAdapter[], tied: boolean): AdapterChanges {
  const changes = new Map<string, TensorChange>();
  const problems: string[] = [];
  const headFrom = tied && !source.has(LM_HEAD) ? EMBEDDING : undefined;
  const find = (parameter: string): TensorChange | undefined => {
    const target = parameter === LM_HEAD ? LM_HEAD : nameInCheckpoint(source, parameter);
    const from = target === LM_HEAD ? (source.has(LM_HEAD) ? LM_HEAD : headFrom) : target;
    if (target === undefined || from === undefined) {
      problems.push(`the base has no ${parameter}`);
      return undefined;
    }
    const known = changes.get(target) ?? { target, from, lowRank: [], replaced: [], added: [] };
    changes.set(target, known);
    return known;
  };
  for (const adapter of adapters) {
    for (const part of adapter.parts) {
      const change = find(`${part.module}.weight`);
      if (change && fits(source, change.from, adapter, part, problems)) change.lowRank.push({ adapter, part });
      if (part.bias !== null) find(`${part.module}.bias`)?.added.push({ adapter, tensor: part.bias, scaling: part.scaling });
    }
    for (const [parameter, tensor] of adapter.replaced) {
      const change = find(parameter);
      if (!change) continue;
      const [own, base] = [adapter.tensors.info(tensor).shape, source.info(change.from).shape];
      if (own.join() === base.join()) change.replaced.push({ adapter, tensor });
      else
        problems.push(
          `${parameter} is [${own.join(', ')}] in the adapter, [${base.join(', ')}] in the base${vocabularyHint(parameter)}`,
        );
    }
  }
  if (problems.length > 0) throw mismatch(problems, adapters);
  const touchesTied = changes.has(EMBEDDING) || changes.has(LM_HEAD);
  const unties = tied && touchesTied && !staysTied(changes);
  if (unties && !changes.has(LM_HEAD))
    changes.set(LM_HEAD, {
      target: LM_HEAD,
      from: source.has(LM_HEAD) ? LM_HEAD : EMBEDDING,
      lowRank: [],
      replaced: [],
      added: [],
    });
  return { changes, unties };
}

/** Both sides of a tied matrix replaced by the same bytes: it stays one matrix, written once. */
function staysTied(changes: Map<string, TensorChange>): boolean {
  const [embedding, head] = [changes.get(EMBEDDING), changes.get(LM_HEAD)];
  if (!embedding || !head || embedding.lowRank.length + head.lowRank.length > 0) return false;
  const [a, b] = [embedding.replaced[0], head.replaced[0]];
  if (!a || !b || embedding.replaced.length + head.replaced.length !== 2 || a.adapter !== b.adapter) return false;
  const same = Buffer.from(a.adapter.tensors.bytes(a.tensor)).equals(b.adapter.tensors.bytes(b.tensor));
  if (same) changes.delete(LM_HEAD);
  return same;
}

const vocabularyHint = (parameter: string): string =>
  /(embed_tokens|lm_head|wte)\.weight$/.test(parameter) ? ' (the vocabulary was resized; resize the base first)' : '';

/** The checkpoint's name of a parameter; some checkpoints leave out the outermost module. */
function nameInCheckpoint(source: RewriteSource, parameter: string): string | undefined {
  const short = parameter.slice(parameter.indexOf('.') + 1);
  return [parameter, short, `model.${parameter}`, `transformer.${parameter}`].find((name) => source.has(name));
}

/** B A has the shape of the matrix. */
function fits(source: RewriteSource, tensor: string, adapter: MergeAdapter, part: LowRankPart, problems: string[]): boolean {
  const shape = source.info(tensor).shape;
  const width = adapter.tensors.info(part.a).shape[1]!;
  const height = adapter.tensors.info(part.b).shape[0]!;
  const expected = part.transposed ? [width, height] : [height, width];
  const found = shape.join() === expected.join();
  if (!found) problems.push(`${part.module} is [${shape.join(', ')}] in the base, [${expected.join(', ')}] in the adapter`);
  const rows = part.magnitude === null ? expected[0]! : adapter.tensors.info(part.magnitude).shape.reduce((a, b) => a * b, 1);
  if (rows !== expected[0]) problems.push(`${part.module}: ${rows} magnitudes for ${expected[0]} rows`);
  return found && rows === expected[0];
}

function mismatch(problems: string[], adapters: readonly MergeAdapter[]): NiftError {
  const folders = adapters.map((adapter) => adapter.folder).join(', ');
  const total = adapters.reduce((count, adapter) => count + adapter.parts.length + adapter.replaced.size, 0);
  const shown = problems.slice(0, 3).join('; ');
  const more = problems.length > 3 ? `; and ${problems.length - 3} more` : '';
  return new NiftError(
    'NIFT_ADAPTER_MISMATCH',
    `${folders}: ${problems.length} of ${total} changes do not fit the base: ${shown}${more}`,
    {
      hint: 'Is this the adapter of another model?',
      details: { problems },
    },
  );
}

/** The factors of all adapters on one matrix, padded to the step of the kernel. */
export function lowRankChanges(change: TensorChange): LowRankChange[] {
  return change.lowRank.map(({ adapter, part }) => {
    const rank = Math.ceil(part.r / RANK_STEP) * RANK_STEP;
    const [left, right] = part.transposed ? [part.a, part.b] : [part.b, part.a];
    const rows = adapter.tensors.info(left).shape[part.transposed ? 1 : 0]!;
    const columns = adapter.tensors.info(right).shape[part.transposed ? 0 : 1]!;
    const a = new Float32Array(rank * columns);
    const b = new Float32Array(rows * rank);
    const [fromLeft, fromRight] = [adapter.tensors.readFloat32(left), adapter.tensors.readFloat32(right)];
    if (part.transposed) {
      // [in, r] x [r, out]: A [r, in] is read down its columns, B [out, r] likewise.
      for (let r = 0; r < part.r; r++) for (let i = 0; i < columns; i++) a[r * columns + i] = fromRight[i * part.r + r]!;
      for (let row = 0; row < rows; row++) for (let r = 0; r < part.r; r++) b[row * rank + r] = fromLeft[r * rows + row]!;
    } else {
      a.set(fromRight);
      for (let row = 0; row < rows; row++) for (let r = 0; r < part.r; r++) b[row * rank + r] = fromLeft[row * part.r + r]!;
    }
    const magnitude = part.magnitude === null ? null : adapter.tensors.readFloat32(part.magnitude).slice();
    return { a, b, rank, scaling: part.scaling, weight: adapter.weight, magnitude };
  });
}

/** Bytes that `lowRankChanges` will hold. */
export const changeBytes = (change: TensorChange): number =>
  change.lowRank.reduce((total, { adapter, part }) => {
    const size = (name: string): number => adapter.tensors.info(name).shape.reduce((product, axis) => product * axis, 4);
    return total + 2 * (size(part.a) + size(part.b)) * (RANK_STEP / Math.min(RANK_STEP, part.r));
  }, 0);
