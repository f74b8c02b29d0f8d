/**
 * The demo's texts: little articles from a seeded generator, in eleven genres. A text brings in names, places, things and
 * numbers and returns to them, so that its first half says a good deal about the second, and it ends where it should.
 * Article i of a seed is the same on every machine, and independent of how many are asked for.
 */
import { Random } from '../random.js';
import { animalPortrait, howTo, recipe } from './genres/knowledge.js';
import { townNews, townPortrait, travelNotes, weatherReport } from './genres/places.js';
import { craftsperson, fable, letter, lostThing } from './genres/stories.js';

const GENRES = {
  animal: animalPortrait,
  craft: craftsperson,
  fable,
  letter,
  lost: lostThing,
  news: townNews,
  recipe,
  howto: howTo,
  town: townPortrait,
  travel: travelNotes,
  weather: weatherReport,
} as const;

export type Genre = keyof typeof GENRES;
export const GENRE_NAMES = Object.keys(GENRES) as Genre[];

export interface Article {
  genre: Genre;
  text: string;
}

/** Article number `index` of the endless collection that belongs to `seed`. */
export function article(seed: number, index: number): Article {
  const random = new Random(seed, index);
  const genre = GENRE_NAMES[random.integer(GENRE_NAMES.length)]!;
  return { genre, text: GENRES[genre](random) };
}

/** `count` articles from number `first` on. */
export function articles(seed: number, count: number, first = 0): Article[] {
  return Array.from({ length: count }, (_, i) => article(seed, first + i));
}
