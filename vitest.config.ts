import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // A native crash takes one file, and its name is known.
    pool: 'forks',
    testTimeout: 60_000,
    hookTimeout: 120_000,
    // The kernels use every core themselves.
    maxWorkers: 2,
  },
});
