/** A training process for the tests that kill one. Argument: a JSON file with the recipe's values. Prints each step's number. */
import { readFileSync } from 'node:fs';
import { parseRecipe } from '../../src/config/recipe.js';
import { train } from '../../src/train/train.js';

const values = JSON.parse(readFileSync(process.argv[2]!, 'utf8')) as Record<string, unknown>;
await train(parseRecipe({ overrides: values, env: {} }), {
  onEvent: (event) => {
    if (event.type === 'step') process.stdout.write(`${event.step}\n`);
  },
});
