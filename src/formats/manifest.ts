/** `nift_manifest.json`: which version, command, config and base made a folder, and the size and hash of each file in it. */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { z } from 'zod';
import { NiftError } from '../errors.js';
import { VERSION } from '../version.js';
import { atomicFile, sha256File } from './atomic.js';
import { crc32File } from './crc32.js';
import { guardIo } from './io.js';
import { readJsonObject } from './jsonText.js';

export const MANIFEST_FILE = 'nift_manifest.json';
const FORMAT = 1;

const manifestSchema = z.object({
  format: z.int(),
  nift: z.string(),
  command: z.string(),
  config: z.unknown(),
  base: z.object({ path: z.string(), identity: z.string() }).nullable(),
  // Large files may have the CRC-32 that their writer computed on the way instead of a hash that needs a second pass.
  files: z.record(z.string(), z.object({ bytes: z.number(), sha256: z.string().optional(), crc32: z.string().optional() })),
});
export type Manifest = z.infer<typeof manifestSchema>;

export interface ManifestContent {
  /** The command that made the folder ("train recipe.yaml"). */
  command: string;
  /** The resolved configuration, plain JSON. */
  config: unknown;
  /** Folder of the base checkpoint. */
  base?: string;
  /** CRC-32 (8 hexadecimal digits) by file name, for files that are not to be read again. */
  crc32?: ReadonlyMap<string, string>;
  /** A file that will be gone when the folder is complete. */
  except?: string;
}

/** Writes the manifest of all files below `folder`; it comes last. */
export function writeManifest(folder: string, content: ManifestContent): Manifest {
  const manifest: Manifest = {
    format: FORMAT,
    nift: VERSION,
    command: content.command,
    config: content.config,
    base: content.base === undefined ? null : { path: content.base, identity: checkpointIdentity(content.base) },
    files: Object.fromEntries(
      filesBelow(folder)
        .filter((name) => name !== MANIFEST_FILE && name !== content.except)
        .map((name) => [name, describeFile(path.join(folder, name), content.crc32?.get(name))]),
    ),
  };
  atomicFile(path.join(folder, MANIFEST_FILE), `${JSON.stringify(manifest, null, 2)}\n`);
  return manifest;
}

const describeFile = (file: string, crc32: string | undefined): Manifest['files'][string] => ({
  bytes: statSync(file).size,
  ...(crc32 === undefined ? { sha256: sha256File(file) } : { crc32 }),
});

/** null when the folder has none. @throws NIFT_JSON for a damaged one or one of a later version */
export function readManifest(folder: string): Manifest | null {
  const file = path.join(folder, MANIFEST_FILE);
  if (!existsSync(file)) return null;
  const result = manifestSchema.safeParse(readJsonObject(file));
  if (!result.success) throw new NiftError('NIFT_JSON', `${file}: not a manifest: ${z.prettifyError(result.error)}`);
  if (result.data.format > FORMAT)
    throw new NiftError(
      'NIFT_JSON',
      `${file}: written in format ${result.data.format} by nift ${result.data.nift}, this is nift ${VERSION}`,
      {
        hint: `Use nift ${result.data.nift} or later.`,
      },
    );
  return result.data;
}

/** One sentence per file that is missing or is not what the manifest says. */
export function verifyManifest(folder: string, manifest: Manifest): string[] {
  const problems: string[] = [];
  for (const [name, { bytes, sha256, crc32 }] of Object.entries(manifest.files)) {
    const file = path.join(folder, name);
    if (!existsSync(file)) problems.push(`${name} is missing`);
    else if (statSync(file).size !== bytes) problems.push(`${name} has ${statSync(file).size} bytes, expected ${bytes}`);
    else if (sha256 !== undefined && sha256File(file) !== sha256) problems.push(`${name} has another content`);
    else if (crc32 !== undefined && crc32File(file) !== crc32) problems.push(`${name} has another content`);
  }
  return problems;
}

/** Which checkpoint this is: a hash of config.json and of the index, or of the single file's name and size. */
export function checkpointIdentity(folder: string): string {
  const hash = createHash('sha256');
  for (const name of ['config.json', 'model.safetensors.index.json']) {
    const file = path.join(folder, name);
    hash.update(`${name}:${existsSync(file) ? sha256File(file) : ''}\n`);
  }
  for (const name of guardIo(folder, 'list', () => readdirSync(folder)).sort())
    if (name.endsWith('.safetensors')) hash.update(`${name}:${statSync(path.join(folder, name)).size}\n`);
  return hash.digest('hex');
}

function filesBelow(folder: string, prefix = ''): string[] {
  return readdirSync(path.join(folder, prefix), { withFileTypes: true })
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const name = path.posix.join(prefix, entry.name);
      return entry.isDirectory() ? filesBelow(folder, name) : entry.isFile() ? [name] : [];
    });
}
