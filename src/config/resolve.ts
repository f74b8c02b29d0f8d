/** What one key means in the light of the others: values that follow from others, contradictions, keys without effect. */
import type { KeyName, RawValues } from './keys.js';
import { SOURCES } from './sources.js';
import type { Assignment, Problem } from './sources.js';

/** Values as the trainer reads them: everything that follows from another key is filled in. */
export type RecipeValues = Omit<RawValues, 'lora_alpha' | 'data_seed'> & { lora_alpha: number; data_seed: number };

interface Context {
  values: RawValues;
  /** What was set and where; a value that follows from another key gets that key's place. */
  set: Map<KeyName, Assignment>;
  problems: Problem[];
  notices: string[];
}

export function resolveValues(context: Context): RecipeValues {
  resolveDtype(context);
  resolveCheckpointing(context);
  checkMethod(context);
  checkSchedule(context);
  const { values, set } = context;
  if (values.lora_target.length > 1 && values.lora_target.includes('all')) {
    context.problems.push({
      where: place(set, 'lora_target'),
      message: '"lora_target" is either all or a list of names, not both',
    });
  }
  if (values.adapter_name_or_path?.includes(',')) {
    const message = '"adapter_name_or_path" takes one adapter; merge several first';
    context.problems.push({ where: place(set, 'adapter_name_or_path'), message });
  }
  return { ...values, lora_alpha: values.lora_alpha ?? 2 * values.lora_rank, data_seed: values.data_seed ?? values.seed };
}

/** The value of `key` came from `from`. */
function inherit(set: Context['set'], key: KeyName, from: KeyName): void {
  const origin = set.get(from);
  if (origin !== undefined && key !== from) set.set(key, { ...origin, key });
}

const place = (set: Context['set'], key: KeyName): string => set.get(key)?.where ?? key;

/** fp16, bf16 and dtype say the same thing three ways: the strongest source wins, and within one source they must agree. */
function resolveDtype({ values, set, problems, notices }: Context): void {
  const claims: { dtype: RawValues['dtype']; key: KeyName; rank: number }[] = [];
  const claim = (key: KeyName, dtype: RawValues['dtype']): void => {
    claims.push({ key, dtype, rank: SOURCES.indexOf(set.get(key)?.source ?? 'default') });
  };
  if (values.dtype !== 'auto') claim('dtype', values.dtype);
  if (values.fp16) claim('fp16', 'float16');
  if (values.bf16) claim('bf16', 'bfloat16');
  claims.sort((a, b) => b.rank - a.rank);
  const winner = claims[0];
  if (winner === undefined) return;
  for (const other of claims.slice(1)) {
    if (other.dtype === winner.dtype) continue;
    const pair = `"${winner.key}" says ${winner.dtype} and "${other.key}" says ${other.dtype}`;
    if (other.rank === winner.rank) problems.push({ where: place(set, other.key), message: `${pair}; keep one of them` });
    else notices.push(`${pair}; ${place(set, winner.key)} wins`);
  }
  values.dtype = winner.dtype;
  inherit(set, 'dtype', winner.key);
  values.fp16 = winner.dtype === 'float16';
  values.bf16 = winner.dtype === 'bfloat16';
}

function resolveCheckpointing({ values, set, problems }: Context): void {
  const off = values.disable_gradient_checkpointing;
  if (off === null) return;
  if (!set.has('gradient_checkpointing')) {
    values.gradient_checkpointing = !off;
    inherit(set, 'gradient_checkpointing', 'disable_gradient_checkpointing');
  } else if (values.gradient_checkpointing === off) {
    const message = '"gradient_checkpointing" and "disable_gradient_checkpointing" contradict each other; keep one of them';
    problems.push({ where: place(set, 'disable_gradient_checkpointing'), message });
  }
}

const LORA_KEYS: KeyName[] = ['lora_rank', 'lora_alpha', 'lora_dropout', 'lora_target', 'use_rslora'];

function checkMethod({ values, set, problems, notices }: Context): void {
  if (values.finetuning_type === 'full') {
    const unused = LORA_KEYS.filter((key) => set.has(key));
    if (unused.length > 0) notices.push(`${unused.join(', ')}: no effect with finetuning_type: full`);
    if (values.adapter_name_or_path !== null) {
      const message = '"adapter_name_or_path" needs finetuning_type: lora; merge the adapter first to train every weight';
      problems.push({ where: place(set, 'adapter_name_or_path'), message });
    }
  } else if (values.train_from_scratch) {
    const message = '"train_from_scratch" needs finetuning_type: full; adapters on random weights learn nothing';
    problems.push({ where: place(set, 'train_from_scratch'), message });
  }
  const scaling: KeyName[] = ['loss_scale', 'initial_scale_power', 'loss_scale_window', 'hysteresis', 'min_loss_scale'];
  const unused = values.dtype === 'float16' ? [] : scaling.filter((key) => set.has(key));
  if (unused.length > 0) notices.push(`${unused.join(', ')}: no effect unless dtype is float16`);
}

function checkSchedule({ values, set, notices }: Context): void {
  const warmup = values.warmup_steps > 0 || values.warmup_ratio > 0;
  if (warmup && values.lr_scheduler_type === 'constant') {
    notices.push('warmup has no effect with lr_scheduler_type: constant; constant_with_warmup uses it');
  }
  if (values.warmup_steps > 0 && values.warmup_ratio > 0) notices.push('warmup_steps replaces warmup_ratio');
  if (values.max_steps > 0 && set.has('num_train_epochs')) notices.push('max_steps replaces num_train_epochs');
}
