/**
 * The keys of a training recipe, LLaMA-Factory's names. This table is the single source: the schema, the command line's
 * flags, --help and docs/recipe.md are made from it. Defaults are those of LLaMA-Factory 0.5.2 and its Trainer, with the
 * paper's value where that differs: cosine schedule, `lora_target: all`, `logging_steps: 10`.
 */
import { anything, boolean, choice, integer, list, number, optional, string, stringOrBoolean } from './schema.js';
import type { Key, KeyGroup, KeyType } from './schema.js';

type Extra = Pick<Key<unknown>, 'required' | 'path' | 'noticed' | 'refused'>;

/** Table entries of one group: type, default, description. */
function group(name: KeyGroup) {
  return <T, D extends T>(type: KeyType<T>, value: D, description: string, extra: Extra = {}): Key<T> => ({
    ...type,
    default: value,
    description,
    group: name,
    ...extra,
  });
}

const model = group('model');
const method = group('method');
const data = group('data');
const output = group('output');
const train = group('train');
const precision = group('precision');
const compatibility = group('compatibility');

/** Accepted so that recipes written for LLaMA-Factory run; changes nothing here. */
const noticed = (description: string, reason: string): Key<unknown> =>
  compatibility(anything(), null, description, { noticed: reason });

/** Exists in LLaMA-Factory; only the value that changes nothing is accepted. */
const only = <T>(type: KeyType<T>, value: T, description: string, reason: string): Key<T> =>
  compatibility(type, value, description, { refused: reason });

const MODEL_KEYS = {
  model_name_or_path: model(string(), '', 'Folder of the Hugging Face checkpoint to train.', { required: true, path: true }),
  adapter_name_or_path: model(optional(string()), null, 'Adapter folder to start from and train on.', { path: true }),
  train_from_scratch: model(
    boolean(),
    false,
    'Start from random weights: only config.json and the tokenizer of the model folder are read. Needs finetuning_type: full.',
  ),
  backend: model(string(), 'native', 'Backend that computes: native, cpu, wasm, tensorflow, ...'),
  threads: model(optional(integer({ min: 1 })), null, 'CPU threads; unset = one per core.'),
};

const METHOD_KEYS = {
  stage: method(choice('sft'), 'sft', 'Kind of training; supervised fine-tuning is the only one.'),
  do_train: only(boolean(), true, 'Train.', 'nift train trains; remove the key'),
  finetuning_type: method(choice('lora', 'full'), 'lora', 'Train LoRA adapters, or every weight of the model.'),
  lora_rank: method(integer({ min: 1 }), 8, 'Rank r of the LoRA matrices.'),
  lora_alpha: method(optional(number({ above: 0 })), null, 'LoRA scaling is alpha / r; unset = 2 * lora_rank.'),
  lora_dropout: method(number({ min: 0, below: 1 }), 0, 'Dropout on the input of the LoRA branch.'),
  lora_target: method(list(), ['all'], 'Linear layers that get an adapter: names, or all.'),
  use_rslora: method(boolean(), false, 'Scale by alpha / sqrt(r) instead of alpha / r.'),
};

const DATA_KEYS = {
  template: data(string(), 'vanilla', 'How turns become tokens.'),
  dataset: data(list(), [] as string[], 'Names in dataset_info.json; several are joined in this order.', { required: true }),
  dataset_dir: data(string(), 'data', 'Folder that holds dataset_info.json and the files it names.', { path: true }),
  cutoff_len: data(integer({ min: 1 }), 1024, 'Longest row in tokens: prompt, response and end token together.'),
  reserved_label_len: data(integer({ min: 0 }), 1, 'Response tokens that truncation keeps at least.'),
  max_samples: data(optional(integer({ min: 1 })), null, 'Take the first N rows of each dataset.'),
  train_on_prompt: data(boolean(), false, 'Also train on the tokens of the prompt.'),
  add_bos: data(boolean(), false, 'Begin each row with the beginning-of-sequence token.'),
  disable_shuffling: data(boolean(), false, 'Take the rows in file order in every epoch.'),
  overwrite_cache: data(anything(), null, 'Rebuild the token cache.', {
    noticed: 'rows are tokenised anew in every run',
  }),
  preprocessing_num_workers: data(anything(), null, 'Workers for tokenising.', {
    noticed: 'rows are tokenised in one thread',
  }),
  val_size: data(number({ min: 0 }), 0, 'Share or number of rows held out for validation.', {
    refused: 'validation comes with the next version; train on all rows and score a held-out file with nift score',
  }),
};

const OUTPUT_KEYS = {
  output_dir: output(string(), '', 'Folder for the result, checkpoints and logs.', { required: true }),
  overwrite_output_dir: output(boolean(), false, 'Start anew in a folder that already holds files.'),
  resume_from_checkpoint: output(
    optional(stringOrBoolean()),
    null,
    'Checkpoint folder to go on from; true = newest in output_dir; unset = resume an unfinished run of ours; false = never.',
    { path: true },
  ),
  logging_steps: output(integer({ min: 1 }), 10, 'Steps between two rows of the log.'),
  save_steps: output(integer({ min: 1 }), 500, 'Steps between two checkpoints.'),
  save_minutes: output(
    optional(number({ above: 0 })),
    null,
    'Also save when this many minutes have passed since the last checkpoint.',
  ),
  save_total_limit: output(optional(integer({ min: 1 })), null, 'Keep only the newest N checkpoints.'),
  plot_loss: output(boolean(), false, 'Draw training_loss.png and .svg at the end.'),
  report_to: output(list(), ['none'], 'Experiment trackers.', {
    refused: 'trackers are not built in; trainer_log.jsonl holds every logged step',
  }),
};

const TRAIN_KEYS = {
  per_device_train_batch_size: train(integer({ min: 1 }), 8, 'Rows per micro-batch.'),
  gradient_accumulation_steps: train(integer({ min: 1 }), 1, 'Micro-batches per optimizer step.'),
  gradient_accumulation_mode: train(
    choice('token', 'micro_mean'),
    'token',
    'token = mean over all supervised tokens of the step, windows end with the epoch; micro_mean = mean of micro-batch means, windows run on (LLaMA-Factory 0.5.2).',
  ),
  learning_rate: train(number({ min: 0 }), 5e-5, 'Peak learning rate.'),
  num_train_epochs: train(number({ above: 0 }), 3, 'Passes over the data; may be a fraction.'),
  max_steps: train(integer({ min: -1 }), -1, 'Optimizer steps; above 0 it replaces num_train_epochs.'),
  lr_scheduler_type: train(
    choice('cosine', 'linear', 'constant', 'constant_with_warmup'),
    'cosine',
    'Learning rate over the steps; cosine and linear fall to zero.',
  ),
  warmup_ratio: train(number({ min: 0, max: 1 }), 0, 'Share of the steps over which the learning rate rises from zero.'),
  warmup_steps: train(integer({ min: 0 }), 0, 'The same as a number of steps; wins over warmup_ratio.'),
  max_grad_norm: train(number({ min: 0 }), 1, 'Global L2 norm that gradients are clipped to; 0 = no clipping.'),
  weight_decay: train(number({ min: 0 }), 0, 'Decoupled weight decay of AdamW.'),
  adam_beta1: train(number({ min: 0, below: 1 }), 0.9, 'Decay of the first moment.'),
  adam_beta2: train(number({ min: 0, below: 1 }), 0.999, 'Decay of the second moment.'),
  adam_epsilon: train(number({ above: 0 }), 1e-8, 'Added to the root of the second moment.'),
  optim: train(choice('adamw_torch'), 'adamw_torch', 'Optimizer; AdamW is the only one.'),
  seed: train(
    integer({ min: 0, max: 2 ** 32 - 1 }),
    42,
    'Seed of initialisation, dropout and (unless data_seed is set) shuffling.',
  ),
  data_seed: train(optional(integer({ min: 0, max: 2 ** 32 - 1 })), null, 'Seed of shuffling; unset = seed.'),
  gradient_checkpointing: train(
    boolean(),
    false,
    'Recompute each layer in the backward pass: less memory, more time, same numbers.',
  ),
  disable_gradient_checkpointing: train(
    optional(boolean()),
    null,
    "LLaMA-Factory's spelling: false turns gradient_checkpointing on, true turns it off.",
  ),
};

const PRECISION_KEYS = {
  dtype: precision(
    choice('auto', 'float32', 'bfloat16', 'float16'),
    'auto',
    'Storage of frozen weights and rounding of matrix products; auto = as the checkpoint and the backend suggest.',
  ),
  fp16: precision(boolean(), false, 'The same as dtype: float16.'),
  bf16: precision(boolean(), false, 'The same as dtype: bfloat16.'),
  loss_scale: precision(number({ min: 0 }), 0, 'float16: fixed loss scale; 0 = dynamic.'),
  initial_scale_power: precision(integer({ min: 0, max: 32 }), 16, 'float16: the dynamic loss scale starts at 2 to this power.'),
  loss_scale_window: precision(integer({ min: 1 }), 1000, 'float16: steps without overflow after which the scale doubles.'),
  hysteresis: precision(integer({ min: 1 }), 2, 'float16: overflows before the scale is halved.'),
  min_loss_scale: precision(number({ above: 0 }), 1, 'float16: an overflow at this scale ends the run.'),
};

const LATER = 'not supported yet';
const COMPATIBILITY_KEYS = {
  trust_remote_code: noticed('Run code from the checkpoint.', 'no code of a checkpoint is ever run'),
  use_fast_tokenizer: noticed('Kind of tokenizer.', 'tokenizer.json is always used'),
  flash_attn: noticed('Attention kernel.', 'attention never holds the whole matrix of scores'),
  dataloader_num_workers: noticed('Data workers.', 'rows are in memory'),
  ddp_timeout: noticed('Time-out of collectives.', 'one process trains'),
  ddp_find_unused_parameters: noticed('Option of PyTorch.', 'there is no PyTorch'),
  remove_unused_columns: noticed('Option of the Trainer.', 'only the named columns are read'),
  include_num_input_tokens_seen: noticed('Count tokens.', 'tokens are always counted'),
  logging_dir: noticed('Folder of a tracker.', 'logs go to output_dir'),
  run_name: noticed('Name for a tracker.', 'there is no tracker'),
  cache_dir: noticed('Download cache.', 'nothing is downloaded'),
  per_device_eval_batch_size: noticed('Batch size of validation.', 'there is no validation during training'),
  eval_steps: noticed('Steps between validations.', 'there is no validation during training'),
  split_special_tokens: only(boolean(), false, 'Treat special tokens in the data as plain text.', LATER),
  do_eval: only(boolean(), false, 'Validate.', 'validation comes with the next version'),
  do_predict: only(boolean(), false, 'Predict.', 'use nift generate'),
  evaluation_strategy: only(choice('no'), 'no', 'When to validate.', 'validation comes with the next version'),
  eval_strategy: only(choice('no'), 'no', 'When to validate.', 'validation comes with the next version'),
  save_strategy: only(choice('steps'), 'steps', 'When to save.', 'checkpoints follow save_steps and save_minutes'),
  logging_strategy: only(choice('steps'), 'steps', 'When to log.', 'the log follows logging_steps'),
  save_only_model: only(
    boolean(),
    false,
    'Leave the optimizer out of checkpoints.',
    'a checkpoint always holds what resuming needs',
  ),
  packing: only(boolean(), false, 'Pack rows together.', `${LATER}; batches are packed without padding anyway`),
  sft_packing: only(boolean(), false, 'Pack rows together.', `${LATER}; batches are packed without padding anyway`),
  streaming: only(boolean(), false, 'Stream the dataset.', LATER),
  mix_strategy: only(choice('concat'), 'concat', 'How several datasets are joined.', `${LATER}; datasets are concatenated`),
  group_by_length: only(boolean(), false, 'Batch rows of similar length.', `${LATER}; padding costs nothing here`),
  label_smoothing_factor: only(number(), 0, 'Label smoothing.', LATER),
  neftune_noise_alpha: only(optional(number()), null, 'Noise on embeddings.', LATER),
  additional_target: only(optional(list()), null, 'Modules trained besides LoRA.', LATER),
  use_dora: only(boolean(), false, 'Weight-decomposed LoRA.', LATER),
  loraplus_lr_ratio: only(optional(number()), null, 'LoRA+.', LATER),
  quantization_bit: only(optional(integer()), null, 'Quantised base weights.', LATER),
  deepspeed: only(
    optional(string()),
    null,
    'DeepSpeed configuration.',
    'there is no DeepSpeed; its loss-scale keys are keys here',
  ),
};

export const KEYS = {
  ...MODEL_KEYS,
  ...METHOD_KEYS,
  ...DATA_KEYS,
  ...OUTPUT_KEYS,
  ...TRAIN_KEYS,
  ...PRECISION_KEYS,
  ...COMPATIBILITY_KEYS,
};

export type KeyName = keyof typeof KEYS;
type ValueOf<K> = K extends Key<infer T> ? T : never;
/** One value per key, under the name that stands in the YAML file. */
export type RawValues = { [K in KeyName]: ValueOf<(typeof KEYS)[K]> };

export const KEY_NAMES = Object.keys(KEYS) as KeyName[];
export const keyOf = (name: KeyName): Key<unknown> => KEYS[name];
export const isKey = (name: string): name is KeyName => Object.hasOwn(KEYS, name);
