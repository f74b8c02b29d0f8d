/** Text of a growing list of ids, piece by piece. The pieces joined are exactly the decoded whole. */
import type { Tokenizer } from './tokenizer.js';

/**
 * Holds text back while the next token could still change it: inside a run of byte tokens (decoded as a whole) and behind an
 * incomplete UTF-8 character. Decodes a short window only, so that each token costs the same however long the text is.
 */
export class StreamDecoder {
  private ids: number[] = [];
  /** Text of ids[0 .. settled) has been given out; ids before it are context for the decoder (a leading space is dropped). */
  private settled = 0;

  constructor(
    private readonly tokenizer: Tokenizer,
    private readonly options: { skipSpecial?: boolean } = {},
  ) {}

  /** The text that became certain with these ids; often one token's, sometimes none. */
  push(...ids: number[]): string {
    let text = '';
    for (const id of ids) {
      if (this.options.skipSpecial !== false && this.tokenizer.isSpecial(id)) continue;
      this.ids.push(id);
      if (!this.tokenizer.isByte(id)) text += this.take(false);
    }
    return text;
  }

  /** The rest, after the last id. */
  end(): string {
    const text = this.take(true);
    this.ids = [];
    this.settled = 0;
    return text;
  }

  private take(force: boolean): string {
    const decode = (ids: number[]): string => this.tokenizer.decode(ids, { skipSpecial: false });
    const all = decode(this.ids);
    if (!force && all.endsWith('\ufffd')) return '';
    const known = decode(this.ids.slice(0, this.settled)).length;
    this.ids = this.ids.slice(this.settled);
    this.settled = this.ids.length;
    return all.slice(known);
  }
}
