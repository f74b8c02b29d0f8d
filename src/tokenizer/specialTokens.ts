/** Which tokens begin, end and pad a sequence: tokenizer_config.json, then special_tokens_map.json, then the model's config. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { isJsonObject, readJsonObject } from '../formats/jsonText.js';
import type { JsonObject, JsonValue } from '../formats/jsonText.js';

export interface SpecialTokens {
  bosId: number | null;
  eosId: number | null;
  /** The pad token, else the end token: padding is told by position, so sharing is harmless. */
  padId: number | null;
  unkId: number | null;
  /** Every id that ends a generation: the tokenizer's and those of config.json and generation_config.json. */
  eosIds: number[];
}

export function readOptional(folder: string, file: string): JsonObject {
  const full = path.join(folder, file);
  return existsSync(full) ? readJsonObject(full) : {};
}

/** A special token is written as text or as an object with `content`. */
function contentOf(value: JsonValue | undefined): string | undefined {
  if (typeof value === 'string') return value;
  if (isJsonObject(value) && typeof value.content === 'string') return value.content;
  return undefined;
}

function idsOf(value: JsonValue | undefined): number[] {
  const values = Array.isArray(value) ? value : [value];
  return values.filter((id): id is number => Number.isSafeInteger(id) && (id as number) >= 0);
}

/** @param idOf the id of a token's text, or undefined */
export function readSpecialTokens(folder: string, idOf: (token: string) => number | undefined): SpecialTokens {
  const named = [readOptional(folder, 'tokenizer_config.json'), readOptional(folder, 'special_tokens_map.json')];
  const numbered = [readOptional(folder, 'config.json'), readOptional(folder, 'generation_config.json')];
  const find = (role: string): number | null => {
    for (const source of named) {
      const content = contentOf(source[`${role}_token`]);
      const id = content === undefined ? undefined : idOf(content);
      if (id !== undefined) return id;
    }
    for (const source of numbered) {
      const id = idsOf(source[`${role}_token_id`])[0];
      if (id !== undefined) return id;
    }
    return null;
  };
  const eosId = find('eos');
  const eosIds = new Set([...(eosId === null ? [] : [eosId]), ...numbered.flatMap((source) => idsOf(source.eos_token_id))]);
  return { bosId: find('bos'), eosId, padId: find('pad') ?? eosId, unkId: find('unk'), eosIds: [...eosIds] };
}
