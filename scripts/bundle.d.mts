/** Bundles a TypeScript entry so that a plain `node` can run it. @returns the file to run */
export function bundle(entry: string): Promise<string>;
