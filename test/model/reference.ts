/**
 * The model once more, in plain loops over Float64Array, written from the papers and transformers' modeling files and sharing
 * nothing with src/model but the config: one sequence, no cache, full matrices.
 */
import type { ModelConfig } from '../../src/model/config.js';
import { inverseFrequencies } from '../../src/model/rope.js';

export type Weights = ReadonlyMap<string, ArrayLike<number>>;
type Matrix = Float64Array<ArrayBuffer>[];

/** Logits [T][V] of one sequence. */
export function referenceLogits(config: ModelConfig, weights: Weights, ids: readonly number[]): Matrix {
  const get = (name: string): ArrayLike<number> => {
    const found = weights.get(name);
    if (!found) throw new Error(`no ${name}`);
    return found;
  };
  const table = get('model.embed_tokens.weight');
  let x: Matrix = ids.map((id) => Float64Array.from({ length: config.hiddenSize }, (_, c) => table[id * config.hiddenSize + c]!));
  for (let layer = 0; layer < config.numLayers; layer++) {
    const at = (name: string): ArrayLike<number> | undefined => weights.get(`model.layers.${layer}.${name}`);
    const dense = (input: Matrix, module: string): Matrix => apply(input, at(`${module}.weight`)!, at(`${module}.bias`));
    const n = normed(x, at('input_layernorm.weight')!, config.rmsNormEps);
    const q = heads(dense(n, 'self_attn.q_proj'), config.numHeads, at('self_attn.q_norm.weight'), config);
    const k = heads(dense(n, 'self_attn.k_proj'), config.numKvHeads, at('self_attn.k_norm.weight'), config);
    const v = dense(n, 'self_attn.v_proj');
    const o = attend(q, k, v, config, config.slidingWindows[layer]!);
    x = add(x, dense(o, 'self_attn.o_proj'));
    const m = normed(x, at('post_attention_layernorm.weight')!, config.rmsNormEps);
    const gate = dense(m, 'mlp.gate_proj');
    const up = dense(m, 'mlp.up_proj');
    const act = gate.map((row, t) => row.map((g, i) => (g / (1 + Math.exp(-g))) * up[t]![i]!));
    x = add(x, dense(act, 'mlp.down_proj'));
  }
  const last = normed(x, get('model.norm.weight'), config.rmsNormEps);
  return apply(last, get(config.tieWordEmbeddings ? 'model.embed_tokens.weight' : 'lm_head.weight'), undefined);
}

/** Negative log-likelihood of each next token. */
export function referenceNll(logits: Matrix, ids: readonly number[]): number[] {
  return ids.slice(1).map((next, t) => {
    const row = logits[t]!;
    const largest = Math.max(...row);
    return Math.log(row.reduce((sum, z) => sum + Math.exp(z - largest), 0)) + largest - row[next]!;
  });
}

function apply(x: Matrix, weight: ArrayLike<number>, bias: ArrayLike<number> | undefined): Matrix {
  const width = x[0]!.length;
  const out = weight.length / width;
  return x.map((row) =>
    Float64Array.from({ length: out }, (_, o) =>
      row.reduce((sum, value, i) => sum + value * weight[o * width + i]!, bias?.[o] ?? 0),
    ),
  );
}

function normed(x: Matrix, weight: ArrayLike<number>, eps: number): Matrix {
  return x.map((row) => {
    const scale = 1 / Math.sqrt(row.reduce((sum, value) => sum + value * value, 0) / row.length + eps);
    return row.map((value, c) => value * scale * weight[c]!);
  });
}

/** Norm (Qwen3) and rotation of each head. */
function heads(x: Matrix, count: number, norm: ArrayLike<number> | undefined, config: ModelConfig): Matrix {
  const { headDim } = config;
  const frequencies = inverseFrequencies(config.rope, headDim, x.length);
  return x.map((row, t) => {
    const out = new Float64Array(row.length);
    for (let h = 0; h < count; h++) {
      let head = row.slice(h * headDim, (h + 1) * headDim);
      if (norm) head = normed([head], norm, config.rmsNormEps)[0]!;
      for (let i = 0; i < headDim / 2; i++) {
        const angle = t * frequencies[i]!;
        const [a, b] = [head[i]!, head[i + headDim / 2]!];
        out[h * headDim + i] = a * Math.cos(angle) - b * Math.sin(angle);
        out[h * headDim + i + headDim / 2] = b * Math.cos(angle) + a * Math.sin(angle);
      }
    }
    return out;
  });
}

function attend(q: Matrix, k: Matrix, v: Matrix, config: ModelConfig, window: number | null): Matrix {
  const { headDim, numHeads, numKvHeads } = config;
  return q.map((query, i) => {
    const out = new Float64Array(numHeads * headDim);
    for (let h = 0; h < numHeads; h++) {
      const kv = Math.floor(h / (numHeads / numKvHeads)) * headDim;
      const first = window === null ? 0 : Math.max(0, i - window + 1);
      const scores = [];
      for (let j = first; j <= i; j++) {
        let dot = 0;
        for (let d = 0; d < headDim; d++) dot += query[h * headDim + d]! * k[j]![kv + d]!;
        scores.push(dot / Math.sqrt(headDim));
      }
      const largest = Math.max(...scores);
      const total = scores.reduce((sum, s) => sum + Math.exp(s - largest), 0);
      scores.forEach((s, n) => {
        const p = Math.exp(s - largest) / total;
        for (let d = 0; d < headDim; d++) out[h * headDim + d]! += p * v[first + n]![kv + d]!;
      });
    }
    return out;
  });
}

const add = (a: Matrix, b: Matrix): Matrix => a.map((row, t) => row.map((value, c) => value + b[t]![c]!));
