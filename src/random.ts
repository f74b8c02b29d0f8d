/**
 * Seeded random numbers that are the same on every machine and need no state: value `counter` of stream `stream` of a
 * seed is a hash of the three. Whoever resumes a run only has to know how far it had come.
 *
 * Numerics: two rounds of the 32-bit finaliser of MurmurHash3 per word (Appleby, public domain), 53-bit uniforms.
 */
const GOLDEN = 0x9e3779b9;

function mix(value: number): number {
  let h = value | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** 32-bit hash of the integers given, in order; also derives one seed from another. */
export function hash32(...words: number[]): number {
  let h = 0;
  for (const word of words) {
    // Seeds and counters may exceed 32 bits: both halves count.
    h = mix(h + GOLDEN + mix(word >>> 0));
    h = mix(h + GOLDEN + mix(Math.floor(word / 2 ** 32) >>> 0));
  }
  return h;
}

/** 32-bit seed for a purpose named in plain text, so that two users of one seed never share a stream. */
export function deriveSeed(seed: number, name: string): number {
  return hash32(seed, ...Array.from(name, (c) => c.codePointAt(0)!));
}

export class Random {
  private readonly high: number;
  private readonly low: number;

  /**
   * @param seed any non-negative safe integer
   * @param stream an epoch, a tensor's index, or 0; different streams are independent
   * @param counter how many uniforms were drawn before (to continue a sequence)
   */
  constructor(
    seed: number,
    stream = 0,
    public counter = 0,
  ) {
    this.high = hash32(seed, stream, 1);
    this.low = hash32(seed, stream, 2);
  }

  /** Uniform in [0, 1) with 53 random bits. */
  uniform(): number {
    const at = this.counter++;
    const lowWord = at >>> 0;
    const highWord = Math.floor(at / 2 ** 32) >>> 0;
    const a = mix(mix(lowWord ^ this.high) + Math.imul(highWord, GOLDEN) + this.low);
    const b = mix(mix(lowWord ^ this.low) + Math.imul(highWord, GOLDEN) + a);
    return ((a >>> 5) * 67108864 + (b >>> 6)) / 9007199254740992;
  }

  /** Whole number in [0, limit). */
  integer(limit: number): number {
    return Math.floor(this.uniform() * limit);
  }

  /** Standard normal (Box-Muller, one value per two uniforms). */
  normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    return radius * Math.cos(2 * Math.PI * this.uniform());
  }

  /** A permutation of 0..length-1 (Fisher-Yates). */
  permutation(length: number): Uint32Array {
    const order = Uint32Array.from({ length }, (_, i) => i);
    for (let i = length - 1; i > 0; i--) {
      const j = this.integer(i + 1);
      const kept = order[i]!;
      order[i] = order[j]!;
      order[j] = kept;
    }
    return order;
  }
}

/** `length` normals with mean 0 as float32: weight initialisation. */
export function normalArray(length: number, deviation: number, seed: number, stream = 0): Float32Array {
  const random = new Random(seed, stream);
  const values = new Float32Array(length);
  for (let i = 0; i < length; i++) values[i] = random.normal() * deviation;
  return values;
}

/** `length` uniforms in [-bound, bound) as float32. */
export function uniformArray(length: number, bound: number, seed: number, stream = 0): Float32Array {
  const random = new Random(seed, stream);
  const values = new Float32Array(length);
  for (let i = 0; i < length; i++) values[i] = (2 * random.uniform() - 1) * bound;
  return values;
}
