/**
 * Rotary frequencies.
 *
 *   default   f_i = 1 / theta^(2i/D), i = 0 ... D/2 - 1
 *   linear    f_i / factor                                            (position interpolation, arXiv:2306.15595)
 *   dynamic   theta grows with the sequence once it is longer than the trained context L0:
 *             theta * (factor * L / L0 - (factor - 1))^(D / (D - 2))   (NTK-aware)
 *   llama3    long wavelengths divided by factor, short ones kept, smooth in between (Llama 3.1)
 *
 * Numerics: every intermediate is float32, in transformers' order, so the values are transformers' bit for bit.
 * Source: transformers modeling_rope_utils.py.
 */
import { z } from 'zod';
import { NiftError, quote } from '../errors.js';

export const ROPE_TYPES = ['default', 'linear', 'dynamic', 'llama3'] as const;
export type RopeType = (typeof ROPE_TYPES)[number];

export interface RopeParameters {
  type: RopeType;
  theta: number;
  /** 1 for `default`. */
  factor: number;
  lowFreqFactor: number;
  highFreqFactor: number;
  /** Context that the frequencies were trained for: where `dynamic` starts, the yardstick of `llama3`. */
  originalContext: number;
}

const scalingSchema = z.object({
  factor: z.number().min(1).optional(),
  low_freq_factor: z.number().positive().optional(),
  high_freq_factor: z.number().positive().optional(),
  original_max_position_embeddings: z.number().int().positive().optional(),
  rope_theta: z.number().positive().optional(),
});

const KNOWN_KEYS = new Set([...Object.keys(scalingSchema.shape), 'rope_type', 'type', 'partial_rotary_factor']);

interface RopeKeys {
  rope_theta?: number | null | undefined;
  rope_scaling?: Record<string, unknown> | null | undefined;
  rope_parameters?: Record<string, unknown> | null | undefined;
}

const DEFAULT_THETA = 10000;

/**
 * Reads either spelling: `rope_parameters` (transformers 5) wins over `rope_scaling` + `rope_theta`.
 * @throws NIFT_MODEL_UNSUPPORTED for a rope type that is not implemented, NIFT_MODEL_CONFIG for missing or wrong numbers
 */
export function resolveRope(raw: RopeKeys, maxPositionEmbeddings: number, source: string): RopeParameters {
  const scaling = raw.rope_parameters ?? raw.rope_scaling ?? {};
  const name = scaling['rope_type'] ?? scaling['type'] ?? 'default';
  const type = ROPE_TYPES.find((known) => known === name);
  if (type === undefined) {
    throw new NiftError(
      'NIFT_MODEL_UNSUPPORTED',
      `${source}: rope type ${quote(typeof name === 'string' ? name : JSON.stringify(name))} is not supported.`,
      {
        hint: `Supported: ${ROPE_TYPES.join(', ')}.`,
      },
    );
  }
  const unknown = Object.keys(scaling).filter((key) => !KNOWN_KEYS.has(key));
  if (unknown.length > 0) {
    throw new NiftError(
      'NIFT_MODEL_UNSUPPORTED',
      `${source}: rope scaling has keys that are not implemented: ${unknown.map((key) => quote(key)).join(', ')}.`,
    );
  }
  const parsed = scalingSchema.safeParse(scaling);
  if (!parsed.success) {
    const issues = parsed.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`);
    throw new NiftError('NIFT_MODEL_CONFIG', `${source}: rope scaling: ${issues.join('; ')}.`, { details: { issues } });
  }
  const values = parsed.data;
  const required: (keyof typeof values)[] =
    type === 'llama3'
      ? ['factor', 'low_freq_factor', 'high_freq_factor', 'original_max_position_embeddings']
      : type === 'default'
        ? []
        : ['factor'];
  const missing = required.filter((key) => values[key] === undefined);
  if (missing.length > 0) throw new NiftError('NIFT_MODEL_CONFIG', `${source}: rope type "${type}" needs ${missing.join(', ')}.`);
  const low = values.low_freq_factor ?? 1;
  const high = values.high_freq_factor ?? 4;
  if (type === 'llama3' && high <= low) {
    throw new NiftError('NIFT_MODEL_CONFIG', `${source}: high_freq_factor ${high} must be above low_freq_factor ${low}.`);
  }
  return {
    type,
    theta: values.rope_theta ?? raw.rope_theta ?? DEFAULT_THETA,
    factor: type === 'default' ? 1 : (values.factor ?? 1),
    lowFreqFactor: low,
    highFreqFactor: high,
    originalContext: type === 'llama3' ? values.original_max_position_embeddings! : maxPositionEmbeddings,
  };
}

const f32 = Math.fround;

/**
 * Frequencies of one head, [headDim / 2] in radians per position.
 * @param sequenceLength tokens of the sequence so far; only `dynamic` looks at it
 */
export function inverseFrequencies(rope: RopeParameters, headDim: number, sequenceLength = 0): Float32Array {
  const theta = rope.type === 'dynamic' ? dynamicTheta(rope, headDim, sequenceLength) : rope.theta;
  const plain = Float32Array.from({ length: headDim / 2 }, (_, i) => f32(1 / f32(Math.pow(theta, f32((2 * i) / headDim)))));
  if (rope.type === 'linear') return plain.map((frequency) => frequency / rope.factor);
  if (rope.type === 'llama3') return plain.map((frequency) => llama3Frequency(frequency, rope));
  return plain;
}

function dynamicTheta(rope: RopeParameters, headDim: number, sequenceLength: number): number {
  const length = Math.max(sequenceLength, rope.originalContext);
  return rope.theta * ((rope.factor * length) / rope.originalContext - (rope.factor - 1)) ** (headDim / (headDim - 2));
}

function llama3Frequency(frequency: number, rope: RopeParameters): number {
  const { factor, lowFreqFactor: low, highFreqFactor: high, originalContext: context } = rope;
  // torch computes `number / tensor` as reciprocal times number.
  const wavelength = f32(f32(1 / frequency) * f32(2 * Math.PI));
  if (wavelength > context / low) return f32(frequency / factor);
  if (wavelength < context / high) return frequency;
  const smooth = f32(f32(f32(f32(1 / wavelength) * context) - low) / (high - low));
  return f32(f32(f32(f32(1 - smooth) * frequency) / factor) + f32(smooth * frequency));
}
