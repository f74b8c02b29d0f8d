/** A decoder-only language model on packed tokens: loading, forward pass, loss, and what trains. */
import type { ComputeDtype, StorageDtype } from '../backend/dtype.js';
import { tf, type Tensor, type Tensor1D, type Tensor2D, type Variable } from '../backend/tf.js';
import { IGNORE_INDEX, shiftLabels, type PackedBatch } from '../data/batch.js';
import { NiftError } from '../errors.js';
import { readGenerationConfig, writeCheckpointFiles } from '../formats/checkpoint.js';
import { openCheckpointTensors } from '../formats/shards.js';
import { cachedAttention, createKvCache, type KvCache } from '../ops/cachedAttention.js';
import { causalAttention } from '../ops/causalAttention.js';
import { embedding } from '../ops/embedding.js';
import { linear } from '../ops/linear.js';
import { linearCrossEntropy } from '../ops/linearCrossEntropy.js';
import { rmsNorm } from '../ops/rmsNorm.js';
import { Adapter } from './adapter.js';
import { checkpointed } from './checkpointing.js';
import { generationEosTokenIds, loadModelConfig, type ModelConfig } from './config.js';
import { decoderLayer, type Attend, type DecoderLayer, type Projection, type Trace } from './layers.js';
import type { LoraConfig } from './lora.js';
import { EMBEDDING, FINAL_NORM, LINEAR_MODULES, LM_HEAD, layerPrefix, type LinearModule } from './parameters.js';
import { RopeTables, type Segment } from './ropeTables.js';
import { configWithDtype, tensorsToWrite } from './save.js';
import { checkTokenIds } from './tokenIds.js';
import { checkpointDtype, loadWeights, randomWeights, resolveDtype, type DtypePolicy } from './weights.js';

/** What is trained: LoRA pairs over frozen weights, or every weight as a float32 variable. */
export type TrainMode = 'lora' | 'full';

export interface ModelOptions {
  /** Storage and precision (see resolveDtype); default `auto`. */
  dtype?: DtypePolicy;
  /** Absent: inference only. */
  train?: TrainMode;
  /** A fresh adapter; for `train: 'lora'` without `adapter`. */
  lora?: LoraConfig;
  /** Seed of fresh weights and adapters; default 42. */
  seed?: number;
  /** Run each layer again in the backward pass instead of keeping its activations; default false. */
  gradientCheckpointing?: boolean;
}

export interface LoadOptions extends ModelOptions {
  /** Folder of a PEFT adapter to put on (and, with `train: 'lora'`, to train on). */
  adapter?: string;
}

export interface ForwardOptions {
  /** Seed of this pass' LoRA dropout masks; absent = no dropout. */
  dropoutSeed?: number;
  /** Sees intermediate values: `embed`, `layer.{i}`, `norm`, `layer{i}.q_rope` and so on. */
  trace?: Trace;
}

interface Parts {
  config: ModelConfig;
  weights: Map<string, Tensor>;
  adapter: Adapter | undefined;
  compute: ComputeDtype;
  checkpointDtype: StorageDtype;
  train: TrainMode | undefined;
  gradientCheckpointing: boolean;
  /** Folder it came from, or undefined for random weights. */
  source: string | undefined;
}

const DEFAULT_SEED = 42;

export class CausalLM {
  readonly config: ModelConfig;
  readonly compute: ComputeDtype;
  /** What the checkpoint says its weights are; saveCheckpoint writes this. */
  readonly checkpointDtype: StorageDtype;
  readonly trainMode: TrainMode | undefined;
  /** Folder of the base checkpoint; undefined for random weights. */
  readonly source: string | undefined;
  readonly gradientCheckpointing: boolean;
  private readonly weights: Map<string, Tensor>;
  private readonly adapter: Adapter | undefined;
  private readonly layers: DecoderLayer[];
  private readonly layerVariables: Variable[][];
  private readonly rope: RopeTables;
  private disposed = false;

  private constructor(parts: Parts) {
    this.config = parts.config;
    this.compute = parts.compute;
    this.checkpointDtype = parts.checkpointDtype;
    this.trainMode = parts.train;
    this.source = parts.source;
    this.gradientCheckpointing = parts.gradientCheckpointing;
    this.weights = parts.weights;
    this.adapter = parts.adapter;
    this.layers = Array.from({ length: parts.config.numLayers }, (_, index) => this.buildLayer(index));
    this.layerVariables = this.layers.map((layer) => this.variablesOf(layer));
    this.rope = new RopeTables(parts.config);
  }

  /**
   * Loads a Hugging Face checkpoint folder on the current backend.
   * @throws NIFT_MODEL_*, NIFT_CHECKPOINT_MISMATCH, NIFT_ADAPTER_*, NIFT_SAFETENSORS_*, NIFT_FILE_*
   */
  static async load(dir: string, options: LoadOptions = {}): Promise<CausalLM> {
    checkOptions(options);
    const config = await loadModelConfig(dir);
    const eos = await generationEosTokenIds(dir);
    if (eos !== undefined) config.eosTokenIds = eos;
    const tensors = openCheckpointTensors(dir);
    try {
      const dtype = checkpointDtype(config, tensors);
      const { storage, compute } = resolveDtype(options.dtype ?? 'auto', dtype);
      const weights = loadWeights(config, tensors, { where: dir, storage, trainable: options.train === 'full' });
      return CausalLM.assemble({ config, weights, compute, checkpointDtype: dtype, source: dir }, options);
    } finally {
      tensors.close();
    }
  }

  /** A model with random weights, as transformers initialises it (see randomWeights). */
  static fromConfig(config: ModelConfig, options: ModelOptions = {}): CausalLM {
    checkOptions(options);
    const dtype = config.dtype ?? 'float32';
    const policy = options.dtype ?? 'auto';
    const { compute } = resolveDtype(policy, dtype);
    const seed = options.seed ?? DEFAULT_SEED;
    const storage = policy === 'auto' ? dtype : policy;
    const weights = randomWeights(config, { seed, storage, trainable: options.train === 'full' });
    return CausalLM.assemble({ config, weights, compute, checkpointDtype: dtype, source: undefined }, options);
  }

  private static assemble(
    base: Pick<Parts, 'config' | 'weights' | 'compute' | 'checkpointDtype' | 'source'>,
    options: LoadOptions,
  ): CausalLM {
    try {
      const adapter = makeAdapter(base.config, options);
      const gradientCheckpointing = options.gradientCheckpointing ?? false;
      return new CausalLM({ ...base, adapter, train: options.train, gradientCheckpointing });
    } catch (error) {
      for (const tensor of base.weights.values()) tensor.dispose();
      throw error;
    }
  }

  /** The adapter's configuration, when there is one. */
  get lora(): LoraConfig | undefined {
    return this.adapter?.config;
  }

  /** Variables that train, by their names on disk, in a fixed order: layer by layer, A before B. */
  trainable(): Map<string, Variable> {
    if (this.trainMode === 'full') return new Map(this.weights as Map<string, Variable>);
    return this.trainMode === 'lora' ? this.adapterTensors() : new Map<string, Variable>();
  }

  /** The adapter's tensors by their names on disk; empty without one. */
  adapterTensors(): Map<string, Variable> {
    return this.adapter?.tensors() ?? new Map<string, Variable>();
  }

  /** Every tensor of the base by its name in the checkpoint, in model order. */
  baseTensors(): ReadonlyMap<string, Tensor> {
    return this.weights;
  }

  /**
   * Negative log-likelihood of each token's successor, in nats; 0 where there is no target.
   * @returns [N] for the N packed tokens
   * @throws NIFT_TOKEN_ID
   */
  nll(batch: PackedBatch, options: ForwardOptions = {}): Tensor1D {
    checkTokenIds(batch.labels, batch.cuSeqlens, this.config.vocabSize, 'label', IGNORE_INDEX);
    const targets = shiftLabels(batch);
    return tf.tidy(() =>
      linearCrossEntropy(this.hidden(batch, options), this.outputMatrix(), targets, { compute: this.compute }),
    );
  }

  /**
   * States after the final norm. A sequence may exceed the model's context, as in transformers: training on such rows is the
   * planner's to warn of, generation and scoring refuse it.
   * @returns [N, C]
   * @throws NIFT_TOKEN_ID
   */
  hidden(batch: Pick<PackedBatch, 'inputIds' | 'cuSeqlens'>, options: ForwardOptions = {}): Tensor2D {
    const { inputIds, cuSeqlens } = batch;
    checkTokenIds(inputIds, cuSeqlens, this.config.vocabSize, 'token id');
    const segments: Segment[] = [];
    for (let b = 0; b + 1 < cuSeqlens.length; b++) segments.push({ past: 0, count: cuSeqlens[b + 1]! - cuSeqlens[b]! });
    const { numHeads, numKvHeads, headDim, slidingWindows } = this.config;
    const attend: Attend = (q, k, v, layer) =>
      causalAttention(q, k, v, {
        numHeads,
        numKvHeads,
        headDim,
        cuSeqlens,
        slidingWindow: slidingWindows[layer] ?? null,
        compute: this.compute,
      });
    return this.forward(inputIds, segments, attend, options);
  }

  /**
   * Scores of every word as the successor of the tokens in `rows` (indices of packed tokens; default all).
   * @returns [rows, V]
   */
  logits(batch: Pick<PackedBatch, 'inputIds' | 'cuSeqlens'>, rows?: Int32Array): Tensor2D {
    return tf.tidy(() => this.logitsOf(this.hidden(batch), rows));
  }

  /** hidden [N, C] -> logits [rows, V] of the given rows (default all). */
  logitsOf(hidden: Tensor2D, rows?: Int32Array): Tensor2D {
    return tf.tidy(() => {
      const picked = rows === undefined ? hidden : tf.gather<Tensor2D>(hidden, tf.tensor1d(rows, 'int32'));
      return linear(picked, this.outputMatrix(), { compute: this.compute });
    });
  }

  /** An empty cache for `batch` sequences, with room for `capacity` tokens each before it has to grow. */
  createCache(batch: number, capacity: number): KvCache {
    const { numLayers, numKvHeads, headDim } = this.config;
    return createKvCache({ numLayers, batch, capacity, numKvHeads, headDim });
  }

  /**
   * Feeds `queryLengths[b]` new tokens to each live sequence of the cache.
   * @param tokens packed new tokens, by sequence
   * @param rows packed new tokens whose successors are wanted
   * @returns logits [rows, V], or null when `rows` is empty
   * @throws NIFT_CONTEXT_LENGTH
   */
  step(tokens: Int32Array, queryLengths: Int32Array, cache: KvCache, rows: Int32Array): Tensor2D | null {
    const segments = Array.from(queryLengths, (count, b) => ({ past: cache.lengths[b]!, count }));
    this.checkLengths(segments);
    const { numHeads, slidingWindows } = this.config;
    const attend: Attend = (q, k, v, layer) =>
      cachedAttention(q, k, v, cache, layer, {
        numHeads,
        queryLengths,
        slidingWindow: slidingWindows[layer] ?? null,
        compute: this.compute,
      });
    const hidden = this.forward(tokens, segments, attend, {});
    try {
      cache.advance(queryLengths);
      if (rows.length === 0) return null;
      return this.logitsOf(hidden, rows.length === tokens.length ? undefined : rows);
    } finally {
      hidden.dispose();
    }
  }

  /**
   * Writes the adapter as a PEFT folder (made when absent), float32. Every file appears whole or not at all.
   * @returns the file names written
   * @throws NIFT_USAGE without an adapter; NIFT_DISK_FULL, NIFT_FILE_IO
   */
  saveAdapter(dir: string): string[] {
    const { adapter } = this;
    if (adapter === undefined) throw new NiftError('NIFT_USAGE', 'the model has no adapter to save.');
    return adapter.save(dir, this.source ?? null);
  }

  /**
   * Writes the base weights as a checkpoint into an existing folder, with config, generation config and tokenizer of the source.
   * @param dtype storage of the weights; default what the checkpoint was
   * @returns the file names written
   */
  saveCheckpoint(dir: string, dtype: StorageDtype = this.checkpointDtype): string[] {
    return writeCheckpointFiles(dir, {
      config: configWithDtype(this.config.raw, dtype),
      generationConfig: this.source === undefined ? null : readGenerationConfig(this.source),
      tensors: tensorsToWrite(this.weights, dtype),
      ...(this.source === undefined ? {} : { tokenizerFrom: this.source }),
    });
  }

  /** Frees every tensor of the model. */
  dispose(): void {
    if (this.disposed) return;
    this.disposed = true;
    for (const tensor of this.weights.values()) tensor.dispose();
    for (const variable of this.adapterTensors().values()) variable.dispose();
  }

  private forward(tokens: Int32Array, segments: readonly Segment[], attend: Attend, options: ForwardOptions): Tensor2D {
    const { trace } = options;
    return tf.tidy(() => {
      const { cos, sin } = this.rope.tables(segments);
      const { config, compute } = this;
      const shared = { config, compute, attend, dropoutSeed: options.dropoutSeed ?? null, trace };
      const recompute = this.gradientCheckpointing && tf.engine().state.gradientDepth > 0;
      let x = embedding(tf.tensor1d(tokens, 'int32'), this.tensor(EMBEDDING) as Tensor2D);
      trace?.('embed', x);
      for (const layer of this.layers) {
        const run = (input: Tensor2D, tables: readonly Tensor[]): Tensor2D =>
          decoderLayer(input, layer, { ...shared, cos: tables[0] as Tensor2D, sin: tables[1] as Tensor2D });
        const y = recompute ? checkpointed(run, x, [cos, sin], this.layerVariables[layer.index]!) : run(x, [cos, sin]);
        // Whatever a gradient needs of x is held by the tape.
        x.dispose();
        x = y;
        trace?.(`layer.${layer.index}`, x);
      }
      const normed = rmsNorm(x, this.tensor(FINAL_NORM) as Tensor1D, config.rmsNormEps);
      trace?.('norm', normed);
      return normed;
    });
  }

  private outputMatrix(): Tensor2D {
    return this.tensor(this.config.tieWordEmbeddings ? EMBEDDING : LM_HEAD) as Tensor2D;
  }

  private tensor(name: string): Tensor {
    const tensor = this.weights.get(name);
    if (tensor === undefined) throw new NiftError('NIFT_INTERNAL', `the model has no tensor ${name}`);
    return tensor;
  }

  private buildLayer(index: number): DecoderLayer {
    const prefix = layerPrefix(index);
    const vector = (name: string): Tensor1D => this.tensor(prefix + name) as Tensor1D;
    const projections = Object.fromEntries(
      LINEAR_MODULES.map((module): [LinearModule, Projection] => {
        const bias = this.weights.get(`${prefix}${module}.bias`) as Tensor1D | undefined;
        return [
          module,
          { weight: this.tensor(`${prefix}${module}.weight`) as Tensor2D, bias, lora: this.adapter?.pairOf(index, module) },
        ];
      }),
    ) as Record<LinearModule, Projection>;
    const { qkNorm } = this.config;
    return {
      index,
      projections,
      inputNorm: vector('input_layernorm.weight'),
      postAttentionNorm: vector('post_attention_layernorm.weight'),
      queryNorm: qkNorm ? vector('self_attn.q_norm.weight') : undefined,
      keyNorm: qkNorm ? vector('self_attn.k_norm.weight') : undefined,
    };
  }

  /** What the backward pass of a checkpointed layer must give gradients for. */
  private variablesOf(layer: DecoderLayer): Variable[] {
    const prefix = layerPrefix(layer.index);
    const full = this.trainMode === 'full';
    if (full) return [...this.weights].filter(([name]) => name.startsWith(prefix)).map(([, tensor]) => tensor as Variable);
    if (this.trainMode === undefined) return [];
    return LINEAR_MODULES.flatMap((module) => {
      const { lora } = layer.projections[module];
      return lora ? [lora.a, lora.b] : [];
    });
  }

  private checkLengths(segments: readonly Segment[]): void {
    const { contextLength } = this.config;
    segments.forEach(({ past, count }, b) => {
      if (past + count <= contextLength) return;
      throw new NiftError(
        'NIFT_CONTEXT_LENGTH',
        `sequence ${b} has ${past + count} tokens, the model's context is ${contextLength} tokens.`,
        { hint: 'Shorten the text, or ask for fewer new tokens.', details: { sequence: b, tokens: past + count, contextLength } },
      );
    });
  }
}

function checkOptions(options: LoadOptions): void {
  if (options.train === 'lora' && options.adapter === undefined && options.lora === undefined) {
    throw new NiftError('NIFT_USAGE', 'training LoRA needs an adapter folder or a LoRA configuration.');
  }
  if (options.train === 'full' && (options.adapter !== undefined || options.lora !== undefined)) {
    throw new NiftError('NIFT_USAGE', 'full fine-tuning on top of an adapter is not implemented.', {
      hint: 'Merge the adapter into the base first.',
    });
  }
}

function makeAdapter(config: ModelConfig, options: LoadOptions): Adapter | undefined {
  if (options.adapter !== undefined) return Adapter.open(config, options.adapter);
  return options.lora === undefined ? undefined : Adapter.fresh(config, options.lora, options.seed ?? DEFAULT_SEED);
}
