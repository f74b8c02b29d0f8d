/**
 * TIES' trim: which elements of a tensor are the `keep` largest by magnitude, found without sorting or holding it.
 *
 * A float's magnitude orders as its bits do. Two passes over the blocks count the upper 16 and then the lower 15 of those 31 bits, which
 * gives the exact magnitude of the last one kept; the third pass applies it. Of equal magnitudes the first in the tensor are kept.
 */
const HIGH = 1 << 16;
const LOW = 1 << 15;

export class Trim {
  private high: Float64Array | null = new Float64Array(HIGH);
  private low: Float64Array | null = null;
  private bucket = 0;
  /** Elements that are still wanted among those of `bucket`, then among those of magnitude `threshold`. */
  private left: number;
  private threshold = -1;

  /** @param keep number of elements that stay, at least 1 */
  constructor(keep: number) {
    this.left = keep;
  }

  /** First pass. */
  countHigh(delta: Float32Array): void {
    const counts = this.high!;
    const words = bitsOf(delta);
    for (let i = 0; i < words.length; i++) counts[(words[i]! & 0x7fffffff) >>> 15]!++;
  }

  /** Second pass, when the first is over. */
  countLow(delta: Float32Array): void {
    if (this.high) {
      this.bucket = this.descend(this.high);
      this.high = null;
      this.low = new Float64Array(LOW);
    }
    const counts = this.low!;
    const words = bitsOf(delta);
    for (let i = 0; i < words.length; i++) if ((words[i]! & 0x7fffffff) >>> 15 === this.bucket) counts[words[i]! & (LOW - 1)]!++;
  }

  /** Third pass: zeroes what is not kept, in place. Blocks must come in the tensor's order. */
  apply(delta: Float32Array): void {
    if (this.low) {
      this.threshold = this.bucket * LOW + this.descend(this.low);
      this.low = null;
    }
    const words = bitsOf(delta);
    for (let i = 0; i < words.length; i++) {
      const magnitude = words[i]! & 0x7fffffff;
      if (magnitude > this.threshold || (magnitude === this.threshold && this.left-- > 0)) continue;
      delta[i] = 0;
    }
  }

  /** The bin that holds the last element kept; `left` becomes how many of that bin are kept. */
  private descend(counts: Float64Array): number {
    let bin = counts.length - 1;
    while (bin > 0 && counts[bin]! < this.left) this.left -= counts[bin--]!;
    return bin;
  }
}

const bitsOf = (values: Float32Array): Uint32Array => new Uint32Array(values.buffer, values.byteOffset, values.length);
