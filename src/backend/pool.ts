/**
 * Buffers that kernels write their outputs to, kept for reuse by size class, so that a step that repeats allocates nothing
 * and touches no fresh page. Who hands a buffer back promises that nobody else holds it.
 */

/** Smaller outputs are cheaper to allocate than to look up. */
export const MIN_POOLED_BYTES = 1024;
/** Idle memory that is kept whatever the program's working set is. */
const FREE_ALLOWANCE = 32 * 2 ** 20;
/** The high-water mark falls back to the recent peak once per this many buffers taken. */
const WINDOW = 1 << 14;

interface SizeClass {
  free: ArrayBuffer[];
  lastUse: number;
}

/** Rounds up to one of eight steps per power of two: at most 12.5 % is lost. */
export function classBytes(bytes: number): number {
  const step = 2 ** Math.max(6, Math.floor(Math.log2(bytes)) - 3);
  return Math.ceil(bytes / step) * step;
}

export class BufferPool {
  private readonly classes = new Map<number, SizeClass>();
  private clock = 0;
  private live = 0;
  private idle = 0;
  private highWater = 0;
  private recentPeak = 0;

  /** `allocate` makes a buffer of exactly that many bytes; its contents do not matter. */
  constructor(private readonly allocate: (bytes: number) => ArrayBuffer = (bytes) => new ArrayBuffer(bytes)) {}

  /** Bytes that wait for reuse. */
  get idleBytes(): number {
    return this.idle;
  }

  /** An uninitialised buffer of at least `bytes`. */
  take(bytes: number): ArrayBuffer {
    const capacity = classBytes(bytes);
    const sizeClass = this.classOf(capacity);
    sizeClass.lastUse = ++this.clock;
    if (this.clock % WINDOW === 0) {
      this.highWater = this.recentPeak;
      this.recentPeak = this.live;
    }
    this.live += capacity;
    this.recentPeak = Math.max(this.recentPeak, this.live);
    this.highWater = Math.max(this.highWater, this.live);
    const buffer = sizeClass.free.pop();
    if (buffer === undefined) return this.allocate(capacity);
    this.idle -= capacity;
    return buffer;
  }

  /** Takes a buffer back for reuse. */
  give(buffer: ArrayBuffer): void {
    this.live -= buffer.byteLength;
    this.idle += buffer.byteLength;
    this.classOf(buffer.byteLength).free.push(buffer);
    this.trim(this.highWater + (this.highWater >> 3) + FREE_ALLOWANCE);
  }

  /** Forgets a buffer that somebody else still holds. */
  lose(buffer: ArrayBuffer): void {
    this.live -= buffer.byteLength;
  }

  /** Frees all idle buffers. */
  clear(): void {
    this.classes.clear();
    this.idle = 0;
  }

  /** Frees idle buffers, longest unused size first, until what the pool holds fits into `limit` bytes. */
  private trim(limit: number): void {
    while (this.idle > 0 && this.live + this.idle > limit) {
      let oldest: [number, SizeClass] | undefined;
      for (const entry of this.classes)
        if (entry[1].free.length > 0 && (!oldest || entry[1].lastUse < oldest[1].lastUse)) oldest = entry;
      if (!oldest) return;
      oldest[1].free.pop();
      this.idle -= oldest[0];
    }
  }

  private classOf(capacity: number): SizeClass {
    let sizeClass = this.classes.get(capacity);
    if (!sizeClass) {
      sizeClass = { free: [], lastUse: 0 };
      this.classes.set(capacity, sizeClass);
    }
    return sizeClass;
  }
}
