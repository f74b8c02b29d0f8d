/** Word lists that several genres share. All names are made up. */

const list = (text: string): readonly string[] =>
  text
    .trim()
    .split(/\s*,\s*/)
    .map((word) => word.replace(/\s+/g, ' '));

export const TOWNS = list(`Harrowmere, Ashby Cross, Tillbury, Penrose, Marlow Bay, Oakhollow, Dunmore, Wexley, Stonebridge,
  Fairwater, Brindle, Calder Point, Elmstead, Greywick, Lindale, Merrow, Northam, Orchard Hill, Pinehurst, Quarry Bank,
  Redcliff, Saltmarsh, Thornby, Upper Vale, Westerly, Yarrow, Birchfield, Copperton, Dovecote, Eastlow, Fernley, Glenmoor,
  Hazelden, Ivybridge, Kestrel Down, Lowfield, Mossbank, Netherby, Osterley, Primrose Hill, Ravenscar, Silverton, Tarn End,
  Willowby, Applegarth, Beacon Rock, Cloverley, Driftwood Bay, Foxholm, Heathrow Cross`);

export const RIVERS = list(`Alder, Bray, Corrin, Dell, Esk, Fenn, Garrow, Hale, Ister, Jarrow, Kell, Lune, Mere, Nidd, Orr, Pell,
  Rill, Sarn, Teal, Wend`);

export const WOMEN =
  list(`Anna, Bella, Clara, Dora, Edith, Flora, Greta, Hanna, Ida, Julia, Katrin, Lena, Mira, Nora, Olga, Paula,
  Rosa, Sofia, Tilda, Vera, Wanda, Alma, Carla, Elsa, Frida, Ines, Lotte, Marta, Nina, Selma`);

export const MEN =
  list(`Adam, Ben, Carl, David, Emil, Felix, Georg, Henry, Ivan, Jonas, Karl, Leo, Max, Nils, Oscar, Peter, Robert,
  Simon, Tom, Victor, Walter, Arthur, Daniel, Erik, Frank, Hugo, Jakob, Martin, Otto, Paul`);

export const FAMILIES = list(`Adler, Barton, Carver, Dalton, Ellis, Foster, Garner, Holt, Irving, Keller, Larsen, Miller, Norton,
  Olsen, Parker, Quinn, Reed, Sawyer, Turner, Vance, Walker, Weaver, Young, Baker, Cooper, Fisher, Hunter, Mason, Potter, Smith`);

export const TRADES = list(`baker, carpenter, blacksmith, tailor, gardener, teacher, doctor, printer, potter, weaver, clockmaker,
  farmer, miller, shepherd, fisherman, painter, bookbinder, beekeeper, mason, cook, librarian, postman, glassblower, shoemaker,
  ferryman, violin maker, lamp lighter, brewer, basket maker, innkeeper`);

export const COLOURS = list(`red, blue, green, yellow, white, black, brown, grey, orange, purple, silver, golden, pink, dark blue,
  pale green, cream`);

export const MONTHS = list(`January, February, March, April, May, June, July, August, September, October, November, December`);

export const WEEKDAYS = list('Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday');

export const GOODS =
  list(`wool, honey, cheese, apples, pottery, paper, salt, timber, glass, leather, linen, candles, barley, wine,
  roof tiles, rope, baskets, copper pots, dried fish, flour, cherries, lace, soap, clocks, knives`);

export const LANDMARKS = list(`stone bridge, old mill, clock tower, market hall, lighthouse, town gate, white church, round tower,
  fountain, castle ruin, windmill, covered market, wooden theatre, harbour wall, botanical garden, railway station, town library,
  iron footbridge, bell tower, granary`);

export const LOST_THINGS =
  list(`brass key, silver watch, red scarf, wooden flute, little map, leather notebook, blue kite, music box,
  green umbrella, tin drum, glass marble, woollen hat, pocket lamp, golden ring, paper boat, copper bell, old compass, chess piece,
  letter, toy horse, picnic basket, ball of yarn, straw hat, spyglass`);

export const PLACES =
  list(`attic, garden, cellar, kitchen, barn, orchard, library, stable, workshop, boathouse, greenhouse, bakery,
  schoolhouse, churchyard, market square, woodshed, hen house, meadow, waiting room, laundry room`);

export const ANIMAL_FRIENDS =
  list(`dog, cat, goat, donkey, goose, rabbit, pony, parrot, hen, lamb, hedgehog, tame crow, duck, piglet,
  tortoise`);

export const FEELINGS = list('happy, proud, calm, relieved, cheerful, glad, content, delighted');
