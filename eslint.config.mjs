import tseslint from 'typescript-eslint';
import { layers } from './scripts/eslint-layers.mjs';

export default tseslint.config(
  { ignores: ['dist/**', 'build/**', 'node_modules/**', 'coverage/**', 'tmp/**'] },
  ...tseslint.configs.recommendedTypeChecked.map((config) => ({ ...config, files: ['**/*.ts'] })),
  {
    files: ['**/*.ts'],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/no-unused-vars': ['error', { argsIgnorePattern: '^_', varsIgnorePattern: '^_' }],
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/require-await': 'off',
      '@typescript-eslint/no-empty-object-type': 'off',
      '@typescript-eslint/restrict-template-expressions': 'off',
      eqeqeq: ['error', 'always'],
      'max-depth': ['error', 4],
    },
  },
  {
    files: ['src/**/*.ts'],
    plugins: { nift: { rules: { layers } } },
    rules: {
      'nift/layers': 'error',
      'no-restricted-imports': [
        'error',
        { patterns: [{ group: ['@tensorflow/*'], message: 'Import { tf } from src/backend/tf.ts: TF.js must be loaded once.' }] },
      ],
      'no-restricted-properties': [
        'error',
        { object: 'process', property: 'exit', message: 'Only src/cli decides how the process ends.' },
        { object: 'process', property: 'env', message: 'Environment variables are read in src/config/env.ts.' },
      ],
      'no-console': 'error',
    },
  },
  { files: ['src/backend/**/*.ts'], rules: { 'no-restricted-imports': 'off' } },
  {
    files: ['src/cli/**/*.ts', 'src/config/env.ts', 'src/backend/addon.ts'],
    rules: { 'no-restricted-properties': 'off', 'no-console': 'off' },
  },
  {
    files: ['test/**/*.ts'],
    rules: {
      '@typescript-eslint/no-unsafe-assignment': 'off',
      '@typescript-eslint/no-unsafe-member-access': 'off',
      '@typescript-eslint/no-unsafe-argument': 'off',
      '@typescript-eslint/no-unsafe-call': 'off',
      '@typescript-eslint/no-unsafe-return': 'off',
    },
  },
);
