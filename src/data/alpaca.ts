/**
 * Alpaca rows as turns, LLaMA-Factory's alignment: question = prompt and query, both when not empty, joined by one line feed;
 * `history` = list of [question, answer] pairs put before it and trained on too; `system` as it stands.
 *
 * Differs: a row that has neither prompt nor query at all (a misnamed column) is dropped and counted; LLaMA-Factory 0.5.2 would
 * train on its response alone. An empty prompt is still allowed.
 */
import { isJsonObject } from '../formats/jsonText.js';
import type { JsonObject, JsonValue } from '../formats/jsonText.js';
import type { Conversation, Turn } from '../templates/index.js';
import type { AlpacaColumns } from './datasetInfo.js';

/** The row's turns, or the cause why it cannot be trained on. */
export function alignAlpaca(row: JsonValue, columns: AlpacaColumns): Conversation | string {
  if (!isJsonObject(row)) return 'the row is no JSON object';
  const prompt = textOf(row, columns.prompt);
  const query = textOf(row, columns.query);
  if (prompt === false || query === false) return 'the prompt is no text';
  if (prompt === null && query === null) {
    return `no column ${[columns.prompt, columns.query].filter((c) => c !== null).join(' or ')}`;
  }
  const response = responseOf(row, columns.response);
  if (typeof response !== 'object') return response;
  const history = historyOf(row, columns.history);
  if (history === null) return `column ${columns.history} is no list of [question, answer] pairs`;
  const system = textOf(row, columns.system);
  if (system === false) return `column ${columns.system} is no text`;
  const question = [prompt, query].filter((text) => text !== null && text !== '').join('\n');
  return { system: system ?? undefined, turns: [...history, { prompt: question, response: response.text }] };
}

/** Text of a column; null where there is none, false where it is something else. */
function textOf(row: JsonObject, column: string | null): string | null | false {
  const value = column === null ? null : (row[column] ?? null);
  if (value === null) return null;
  return typeof value === 'string' ? value : false;
}

/** The one answer, or why there is none. A list of one counts as text, a longer one is ranking data. */
function responseOf(row: JsonObject, column: string | null): { text: string } | string {
  const value = column === null ? null : (row[column] ?? null);
  if (value === null) return `no column ${column}`;
  const single = Array.isArray(value) && value.length === 1 ? value[0] : value;
  if (typeof single === 'string') return { text: single };
  return Array.isArray(value) ? `column ${column} holds ${value.length} answers (ranking data)` : `column ${column} is no text`;
}

function historyOf(row: JsonObject, column: string | null): Turn[] | null {
  const value = column === null ? null : (row[column] ?? null);
  if (value === null) return [];
  if (!Array.isArray(value)) return null;
  const turns: Turn[] = [];
  for (const pair of value) {
    if (!Array.isArray(pair) || pair.length !== 2) return null;
    const [prompt, response] = pair;
    if (typeof prompt !== 'string' || typeof response !== 'string') return null;
    turns.push({ prompt, response });
  }
  return turns;
}
