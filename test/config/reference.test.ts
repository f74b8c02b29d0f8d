/** docs/recipe.md is the key table; `npx vitest run test/config -u` writes it anew. */
import { expect, it } from 'vitest';
import { recipeReference } from '../../src/config/reference.js';
import { recipeKeys } from '../../src/config/recipe.js';

it('names every key once', () => {
  const page = recipeReference();
  for (const { name } of recipeKeys()) expect(page.split(`\n| \`${name}\` |`).length, name).toBe(2);
});

it('is the committed page', async () => {
  await expect(recipeReference()).toMatchFileSnapshot('../../docs/recipe.md');
});
