/** Whether an adapter belongs to a checkpoint, from what it says about its base, and what differs when it does not. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { NiftError, quote } from '../errors.js';
import { readConfig } from '../formats/checkpoint.js';
import type { JsonObject } from '../formats/jsonText.js';
import { checkpointIdentity, readManifest } from '../formats/manifest.js';
import type { MergeAdapter } from './adapterFile.js';
import { real } from './outputFolder.js';

export interface BaseCheck {
  adapter: string;
  /** What the adapter names as its base; null when it names none. */
  recorded: string | null;
  verdict: 'same' | 'unknown' | 'other';
  /** One sentence each, for verdict `other`. */
  differences: string[];
}

/**
 * The same base: equal identity (hash of config, index and file sizes) in the adapter's manifest; the same folder; a folder of equal
 * identity; or a name whose last component is that of the model's folder. An adapter that names no base is only held to its shapes.
 */
export function checkBase(model: string, adapter: MergeAdapter): BaseCheck {
  const recorded = adapter.config.base_model_name_or_path ?? null;
  const result = (verdict: BaseCheck['verdict'], differences: string[] = []): BaseCheck => ({
    adapter: adapter.folder,
    recorded,
    verdict,
    differences,
  });
  const identity = checkpointIdentity(model);
  const known = readManifest(adapter.folder)?.base?.identity;
  if (known === identity) return result('same');
  if (known === undefined && (recorded === null || recorded === '')) return result('unknown');
  const folder = recorded !== null && existsSync(path.join(recorded, 'config.json')) ? recorded : null;
  if (folder !== null && (real(folder) === real(model) || checkpointIdentity(folder) === identity)) return result('same');
  const named = recorded !== null && folder === null && namesOf(model).has(lastComponent(recorded).toLowerCase());
  if (named && known === undefined) return result('same');
  const differences = [`the adapter was trained on ${quote(recorded ?? 'another checkpoint')}, this is ${quote(model)}`];
  if (known !== undefined) differences.push('its manifest holds another identity (config.json, index, sizes of the weights)');
  if (folder !== null) differences.push(...configDifferences(readConfig(folder), readConfig(model)));
  return result('other', differences);
}

const lastComponent = (name: string): string =>
  name
    .replace(/[/\\]+$/, '')
    .split(/[/\\]/)
    .pop() ?? name;

/** Names that a folder goes by: its own, and the repository's in the hub's cache (models--ORG--NAME/snapshots/HASH). */
function namesOf(model: string): Set<string> {
  const names = [path.resolve(model), real(model)].flatMap((folder) => {
    const cached = folder.split(path.sep).find((part) => part.startsWith('models--'));
    return [path.basename(folder), ...(cached === undefined ? [] : [cached.split('--').pop()!])];
  });
  return new Set(names.map((name) => name.toLowerCase()));
}

const IRRELEVANT = new Set(['_name_or_path', 'transformers_version', 'torch_dtype', 'dtype', 'use_cache']);

/** Keys of two configs that differ, as sentences. */
export function configDifferences(base: JsonObject, model: JsonObject): string[] {
  const keys = [...new Set([...Object.keys(base), ...Object.keys(model)])].filter((key) => !IRRELEVANT.has(key)).sort();
  return keys
    .filter((key) => JSON.stringify(base[key]) !== JSON.stringify(model[key]))
    .map((key) => `config ${key}: ${text(base[key])} there, ${text(model[key])} here`);
}

const text = (value: unknown): string => (value === undefined ? 'absent' : quote(JSON.stringify(value), 60).slice(1, -1));

/** @throws NIFT_MERGE_BASE for a base that is another one */
export function requireBase(checks: readonly BaseCheck[]): void {
  const other = checks.filter((check) => check.verdict === 'other');
  if (other.length === 0) return;
  throw new NiftError(
    'NIFT_MERGE_BASE',
    other.map((check) => `${check.adapter}: ${check.differences.slice(0, 4).join('; ')}`).join('; '),
    {
      hint: 'To merge into a sibling of its base on purpose, add --lora-base (or --allow-base).',
      details: { checks: other },
    },
  );
}
