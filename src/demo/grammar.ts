/**
 * A small text grammar. A template is plain text with {a|b|c} for a choice (nested at will, an empty branch allowed) and
 * $name for a fact. Expansion draws from a seeded generator, so a seed fixes the text.
 */
import type { Random } from '../random.js';

export type Facts = Record<string, string | number>;

export function pick<T>(list: readonly T[], random: Random): T {
  return list[random.integer(list.length)]!;
}

/** `count` different elements in random order. */
export function sample<T>(list: readonly T[], count: number, random: Random): T[] {
  const order = random.permutation(list.length);
  return Array.from({ length: Math.min(count, list.length) }, (_, i) => list[order[i]!]!);
}

/** Whole number in low ... high. */
export function between(low: number, high: number, random: Random): number {
  return low + random.integer(high - low + 1);
}

/** One sentence or several: choices made, facts filled in, sentences begun upper-case, "a" made "an" where it must be. */
export function expand(template: string, facts: Facts, random: Random): string {
  const filled = choose(template, random).replace(/\$(\w+)/g, (_, name: string) => {
    const value = facts[name];
    if (value === undefined) throw new Error(`grammar: no fact "${name}" for "${template}"`);
    return String(value);
  });
  return filled
    .replace(/ {2,}/g, ' ')
    .replace(/ ([,.;:!?])/g, '$1')
    .replace(/\b([Aa]) (?=[aeiou])/g, '$1n ')
    .trim()
    .replace(/(^|[.?!] |\." |(?:^|[.?!:] |\." )")([a-z])/g, (_, before: string, letter: string) => before + letter.toUpperCase());
}

/** Each slot gives one of its templates; the sentences of a paragraph are joined by spaces. Empty results vanish. */
export function paragraph(slots: readonly (readonly string[] | string)[], facts: Facts, random: Random): string {
  return slots
    .map((slot) => expand(typeof slot === 'string' ? slot : pick(slot, random), facts, random))
    .filter((sentence) => sentence !== '')
    .join(' ');
}

/** "a, b and c" */
export function enumerate(items: readonly string[]): string {
  return items.length < 2 ? (items[0] ?? '') : `${items.slice(0, -1).join(', ')} and ${items[items.length - 1]!}`;
}

/** Replaces innermost choices until none is left. */
function choose(template: string, random: Random): string {
  let text = template;
  for (;;) {
    const next = text.replace(/\{([^{}]*)\}/g, (_, branches: string) => pick(branches.split('|'), random));
    if (next === text) return text;
    text = next;
  }
}
