/** Everything that nift throws on purpose. Codes are stable, documented in docs/errors.md and never reused. */
export interface NiftErrorOptions {
  /** One sentence with a command or a key: what to do next. */
  hint?: string;
  /** Plain JSON for programs. */
  details?: Record<string, unknown>;
  cause?: unknown;
  /** 1 = failed while working, 2 = bad usage or bad input (default). */
  exitCode?: 1 | 2;
}

export class NiftError extends Error {
  readonly code: ErrorCode;
  readonly hint: string | undefined;
  readonly details: Record<string, unknown>;
  readonly exitCode: 1 | 2;

  /** @param message what happened: the value, where, what was expected. */
  constructor(code: ErrorCode, message: string, options: NiftErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'NiftError';
    this.code = code;
    this.hint = options.hint;
    this.details = options.details ?? {};
    this.exitCode = options.exitCode ?? 2;
  }
}

/** Quotes user data for a message: at most 200 characters, control characters escaped. */
export function quote(value: string, limit = 200): string {
  const cut = value.length > limit ? `${value.slice(0, limit)}...` : value;
  return JSON.stringify(cut);
}

/** The candidate closest to `name` by edit distance, when close enough to be a likely slip. */
export function nearest(name: string, candidates: Iterable<string>): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.max(2, Math.floor(name.length / 3)) + 1;
  for (const candidate of candidates) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) {
      bestDistance = distance;
      best = candidate;
    }
  }
  return best;
}

function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(substitution, (previous[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1));
    }
    previous = row;
  }
  return previous[b.length] ?? 0;
}

/** Every error code. docs/errors.md has one section each; a test checks both directions. */
export const ERROR_CODES = [
  'NIFT_USAGE',
  'NIFT_INTERNAL',
  // backend and ops
  'NIFT_BACKEND_UNKNOWN',
  'NIFT_NATIVE',
  'NIFT_OP_SHAPE',
  'NIFT_OUT_OF_MEMORY',
  // files
  'NIFT_FILE_NOT_FOUND',
  'NIFT_FILE_IO',
  'NIFT_SAFETENSORS_TRUNCATED',
  'NIFT_SAFETENSORS_HEADER_LENGTH',
  'NIFT_SAFETENSORS_UTF8',
  'NIFT_SAFETENSORS_JSON',
  'NIFT_SAFETENSORS_HEADER',
  'NIFT_SAFETENSORS_METADATA',
  'NIFT_SAFETENSORS_DTYPE',
  'NIFT_SAFETENSORS_OFFSETS',
  'NIFT_SAFETENSORS_OVERLAP',
  'NIFT_SAFETENSORS_GAP',
  'NIFT_SAFETENSORS_TRAILING',
  'NIFT_SAFETENSORS_SHAPE',
  'NIFT_SAFETENSORS_OVERFLOW',
  'NIFT_SAFETENSORS_SIZE',
  'NIFT_SAFETENSORS_DUPLICATE',
  'NIFT_TENSOR_NOT_FOUND',
  'NIFT_INDEX',
  'NIFT_INDEX_PATH',
  'NIFT_CHECKPOINT_MISMATCH',
  'NIFT_ADAPTER_MISMATCH',
  'NIFT_ADAPTER_CONFIG',
  'NIFT_JSON',
  // model
  'NIFT_MODEL_CONFIG',
  'NIFT_MODEL_UNSUPPORTED',
  'NIFT_CONTEXT_LENGTH',
  'NIFT_TOKEN_ID',
  // tokenizer, templates, data
  'NIFT_TOKENIZER',
  'NIFT_TEMPLATE_UNKNOWN',
  'NIFT_DATASET_INFO',
  'NIFT_DATA_ROW',
  'NIFT_DATA_NO_LABELS',
  // recipe
  'NIFT_RECIPE',
  // training
  'NIFT_OUTPUT_DIR',
  'NIFT_RESUME',
  'NIFT_NON_FINITE',
  'NIFT_LOSS_SCALE',
  'NIFT_DISK_FULL',
  // merging
  'NIFT_MERGE_BASE',
  'NIFT_MERGE_OVERFLOW',
  'NIFT_MERGE_CHECK',
  'NIFT_INTERRUPTED',
  // GGUF files and export
  'NIFT_GGUF_MAGIC',
  'NIFT_GGUF_VERSION',
  'NIFT_GGUF_TRUNCATED',
  'NIFT_GGUF_TRAILING',
  'NIFT_GGUF_UTF8',
  'NIFT_GGUF_KEY',
  'NIFT_GGUF_VALUE',
  'NIFT_GGUF_ALIGNMENT',
  'NIFT_GGUF_TENSOR',
  'NIFT_GGUF_DTYPE',
  'NIFT_GGUF_OFFSET',
  'NIFT_EXPORT_UNSUPPORTED',
  'NIFT_EXPORT_TOKENIZER',
  'NIFT_EXPORT_VALUES',
] as const;
export type ErrorCode = (typeof ERROR_CODES)[number];
