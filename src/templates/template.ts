/**
 * A chat template: how turns become token ids. Training, generation, evaluation and serving use the same object, so that a
 * model is never asked in another form than it was taught.
 *
 * A template is data: a few slots in LLaMA-Factory's manner. Each piece of text between special tokens is tokenised on its own
 * (so every piece gets its own SentencePiece prefix), and empty text gives no tokens.
 */
import { createHash } from 'node:crypto';
import { NiftError } from '../errors.js';
import type { Tokenizer } from '../tokenizer/tokenizer.js';

export interface Turn {
  prompt: string;
  response: string;
}

export interface Conversation {
  system?: string | undefined;
  turns: Turn[];
}

export interface Message {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

/** What is trained on lies in `responseIds`; a row is the concatenation of all pairs. */
export interface EncodedTurn {
  promptIds: number[];
  responseIds: number[];
}

export interface EncodeOptions {
  /** Begin with the tokenizer's begin token (recipe key add_bos); text that brings its own gets no second one. */
  addBos?: boolean;
}

/** Text in which {{content}} is replaced, or a special token of the tokenizer. */
export type Slot = string | { token: 'bos' | 'eos' };

export interface TemplateDefinition {
  name: string;
  system: readonly Slot[];
  user: readonly Slot[];
  assistant: readonly Slot[];
  /** Between an answer and the next question. */
  separator: readonly Slot[];
  /** Tokens besides the end token that end an answer. */
  stopTokens: readonly string[];
}

export class Template {
  readonly name: string;
  /** SHA-256 of the definition, saved with what was trained under it. */
  readonly hash: string;

  constructor(readonly definition: TemplateDefinition) {
    this.name = definition.name;
    this.hash = createHash('sha256').update(JSON.stringify(definition)).digest('hex');
  }

  /** One pair of id lists per turn. @throws NiftError NIFT_TOKENIZER when the tokenizer lacks a token that a slot needs */
  encodeTurns(tokenizer: Tokenizer, conversation: Conversation, options: EncodeOptions = {}): EncodedTurn[] {
    const { system, turns } = conversation;
    const opening = this.opening(tokenizer, system, options);
    return turns.map((turn, i) => {
      const before = i === 0 ? opening : this.apply(tokenizer, this.definition.separator, '');
      const promptIds = [...before, ...this.apply(tokenizer, this.definition.user, turn.prompt)];
      return {
        promptIds: i === 0 ? singleBos(promptIds, tokenizer, options) : promptIds,
        responseIds: this.apply(tokenizer, this.definition.assistant, turn.response),
      };
    });
  }

  /**
   * Ids after which the model is to answer: finished turns as in training, then the last question.
   * @param messages an optional system message, then user and assistant in turn, user last
   * @throws NiftError NIFT_USAGE for another order
   */
  encodePrompt(tokenizer: Tokenizer, messages: readonly Message[], options: EncodeOptions = {}): number[] {
    const system = messages[0]?.role === 'system' ? messages[0].content : undefined;
    const rest = system === undefined ? messages : messages.slice(1);
    const parts = [this.opening(tokenizer, system, options)];
    rest.forEach((message, i) => {
      const expected = i % 2 === 0 ? 'user' : 'assistant';
      if (message.role !== expected) {
        throw new NiftError('NIFT_USAGE', `message ${i} of the conversation is from ${message.role}, expected ${expected}`);
      }
      if (expected === 'user' && i > 0) parts.push(this.apply(tokenizer, this.definition.separator, ''));
      parts.push(this.apply(tokenizer, this.definition[expected], message.content));
    });
    if (rest.length % 2 === 0) throw new NiftError('NIFT_USAGE', 'a conversation to answer ends with a user message');
    return singleBos(parts.flat(), tokenizer, options);
  }

  /** Ids that end an answer. */
  stopIds(tokenizer: Tokenizer): number[] {
    const named = this.definition.stopTokens.map((token) => tokenizer.idOf(token)).filter((id) => id !== undefined);
    return [...new Set([...tokenizer.eosIds, ...named])];
  }

  private opening(tokenizer: Tokenizer, system: string | undefined, options: EncodeOptions): number[] {
    const bos = options.addBos ? [tokenId(tokenizer, 'bos', this.name)] : [];
    return system === undefined || system === '' ? bos : [...bos, ...this.apply(tokenizer, this.definition.system, system)];
  }

  private apply(tokenizer: Tokenizer, slots: readonly Slot[], content: string): number[] {
    return slots.flatMap((slot) => {
      if (typeof slot !== 'string') return [tokenId(tokenizer, slot.token, this.name)];
      const text = slot.replaceAll('{{content}}', () => content);
      return text === '' ? [] : tokenizer.encode(text);
    });
  }
}

/** A begin token twice, ours and one that the text spells out, is a form no model was trained on. */
function singleBos(ids: number[], tokenizer: Tokenizer, options: EncodeOptions): number[] {
  return options.addBos && ids[0] === tokenizer.bosId && ids[1] === tokenizer.bosId ? ids.slice(1) : ids;
}

function tokenId(tokenizer: Tokenizer, token: 'bos' | 'eos', template: string): number {
  const id = token === 'bos' ? tokenizer.bosId : tokenizer.eosId;
  if (id !== null) return id;
  const kind = token === 'bos' ? 'beginning-of-sequence' : 'end-of-sequence';
  const hint = `set ${token}_token in tokenizer_config.json`;
  throw new NiftError('NIFT_TOKENIZER', `template ${template} needs a ${kind} token, and ${tokenizer.folder} names none`, {
    hint,
  });
}
