/** Animal portraits, recipes and instructions. The animals' traits are rough schoolbook facts. */
import type { Random } from '../../random.js';
import { between, enumerate, paragraph, pick, sample, type Facts } from '../grammar.js';
import { COLOURS, MEN, TOWNS, TRADES, WOMEN } from '../words.js';

/** name, home, food, trait, young, sleeping place, sound */
const ANIMALS: readonly (readonly [string, string, string, string, string, string, string])[] = [
  ['fox', 'forest', 'mice and berries', 'a thick tail', 'cubs', 'a den under the roots', 'barks'],
  ['owl', 'forest', 'mice and beetles', 'large round eyes', 'owlets', 'a hollow tree', 'hoots'],
  ['beaver', 'river', 'bark and leaves', 'strong front teeth', 'kits', 'a lodge of branches', 'slaps the water'],
  ['hedgehog', 'hedge', 'worms and snails', 'thousands of spines', 'hoglets', 'a nest of leaves', 'grunts'],
  ['heron', 'marsh', 'fish and frogs', 'long thin legs', 'chicks', 'a nest in tall trees', 'croaks'],
  ['badger', 'forest', 'roots and worms', 'a striped face', 'cubs', 'a large burrow', 'growls'],
  ['otter', 'river', 'fish and crabs', 'webbed feet', 'pups', 'a hole in the bank', 'whistles'],
  ['squirrel', 'park', 'nuts and seeds', 'a bushy tail', 'kits', 'a round nest of twigs', 'chatters'],
  ['hare', 'field', 'grass and herbs', 'very long ears', 'leverets', 'a hollow in the grass', 'is nearly always silent'],
  ['seal', 'coast', 'fish and squid', 'a layer of fat', 'pups', 'a sandbank', 'howls'],
  ['bat', 'cave', 'moths and gnats', 'wings of thin skin', 'pups', 'a dark crack in the rock', 'squeaks'],
  ['stork', 'meadow', 'frogs and insects', 'a long red beak', 'chicks', 'a big nest on a roof', 'claps its beak'],
  ['deer', 'forest', 'grass and buds', 'slender legs', 'fawns', 'a bed of moss', 'barks when it is afraid'],
  ['frog', 'pond', 'flies and worms', 'a long sticky tongue', 'tadpoles', 'the mud of the pond', 'croaks'],
  ['crane', 'marsh', 'seeds and insects', 'a long neck', 'chicks', 'shallow water', 'trumpets'],
  ['mole', 'garden', 'worms and grubs', 'broad front paws', 'pups', 'a chamber under the earth', 'squeaks'],
  ['eagle', 'mountains', 'hares and fish', 'sharp claws', 'eaglets', 'a nest on a cliff', 'screams'],
  ['salmon', 'river', 'insects and shrimps', 'a strong tail fin', 'fry', 'calm deep water', 'makes no sound'],
  ['bee', 'meadow', 'nectar and pollen', 'two pairs of wings', 'larvae', 'a hive', 'hums'],
  ['wild goose', 'lake', 'grass and grain', 'a strong beak', 'goslings', 'the reeds', 'honks'],
  ['lynx', 'mountains', 'hares and deer', 'tufts on its ears', 'kittens', 'a cave between rocks', 'meows softly'],
  ['tortoise', 'dry hills', 'leaves and flowers', 'a hard shell', 'hatchlings', 'a hole in the sand', 'hisses'],
];

export function animalPortrait(random: Random): string {
  const [animal, home, food, trait, young, bed, sound] = pick(ANIMALS, random);
  const all: Facts = {
    animal,
    home,
    food,
    trait,
    young,
    bed,
    sound,
    count: pick(['one', 'two', 'three', 'four', 'five', 'six'], random),
    season: pick(['spring', 'early summer', 'late winter'], random),
    years: between(3, 25, random),
    watcher: pick([...WOMEN, ...MEN], random),
    town: pick(TOWNS, random),
    time: pick(['night', 'early morning', 'evening', 'day'], random),
    colour: pick(COLOURS, random),
  };
  return [
    paragraph(
      [
        [
          'the $animal {lives|is at home} in the $home {and|where it} {eats|looks for} $food.',
          '{whoever|anyone who} walks {near|through} the $home with open eyes may {see|meet} a $animal.',
        ],
        [
          'it {is easy to recognise by|can be recognised by} $trait.',
          'the $animal has $trait, {which help it to find food|which everybody knows}.',
        ],
        [
          'it {is active|looks for food} mostly in the $time.',
          'its food is $food.',
          'the $animal $sound{|, above all in the $time}.',
        ],
      ],
      all,
      random,
    ),
    paragraph(
      [
        ['it {sleeps|rests} in $bed.', 'when the $animal is tired, it {goes back to|rests in} $bed.'],
        ['in $season the female {has|raises} {about |}$count $young.', 'the $young of the $animal {are born|appear} in $season.'],
        [
          'the $young {stay with|follow} their parents for {some weeks|several months|a summer} and learn to find $food.',
          'the parents {feed|protect} the $young {day and night|until they are big enough}.',
        ],
        ['a $animal can {live for|become} $years years{| old}.', ''],
      ],
      all,
      random,
    ),
    paragraph(
      [
        [
          '$watcher from $town has {watched|drawn|counted} {this animal|every $animal in the $home} for $years years.',
          '"the $animal is {shy|cleverer than people think}," says $watcher, who {lives|works} near $town.',
        ],
        [
          '$watcher wears a $colour {coat|hat} so that {the animals know it|nobody gets lost in the $home}.',
          '{people|children} who find $young should {not touch them|leave them alone}.',
        ],
        [
          '{so|and so} the $animal {needs|deserves} our {care|respect}: without the $home there would be no $animal.',
          'as long as there is {a quiet|a clean} $home, the $animal will {stay|live there}.',
        ],
      ],
      all,
      random,
    ),
  ].join('\n\n');
}

const DISHES: readonly (readonly [string, readonly string[], string])[] = [
  ['potato soup', ['potatoes', 'carrots', 'onions', 'butter', 'salt', 'parsley'], 'pot'],
  ['apple pie', ['apples', 'flour', 'butter', 'sugar', 'cinnamon', 'eggs'], 'oven'],
  ['bean stew', ['beans', 'tomatoes', 'onions', 'garlic', 'pepper', 'oil'], 'pot'],
  ['pancakes', ['flour', 'milk', 'eggs', 'sugar', 'salt', 'butter'], 'pan'],
  ['mushroom rice', ['rice', 'mushrooms', 'onions', 'cream', 'salt', 'parsley'], 'pot'],
  ['honey bread', ['flour', 'honey', 'yeast', 'milk', 'nuts', 'salt'], 'oven'],
  ['pumpkin soup', ['pumpkin', 'ginger', 'onions', 'cream', 'pepper', 'salt'], 'pot'],
  ['cheese omelette', ['eggs', 'cheese', 'chives', 'butter', 'pepper', 'milk'], 'pan'],
  ['plum cake', ['plums', 'flour', 'sugar', 'eggs', 'yeast', 'butter'], 'oven'],
  ['lentil salad', ['lentils', 'onions', 'vinegar', 'oil', 'carrots', 'mustard'], 'bowl'],
  ['baked fish', ['fish', 'lemons', 'potatoes', 'oil', 'thyme', 'salt'], 'oven'],
  ['vegetable pie', ['leeks', 'carrots', 'flour', 'cheese', 'eggs', 'cream'], 'oven'],
];

export function recipe(random: Random): string {
  const [dish, ingredients, vessel] = pick(DISHES, random);
  const used = sample(ingredients, 5, random);
  const all: Facts = {
    dish,
    vessel,
    first: used[0]!,
    second: used[1]!,
    third: used[2]!,
    fourth: used[3]!,
    list: enumerate(used),
    persons: pick(['two', 'four', 'six'], random),
    cook: `${pick(WOMEN, random)}`,
    town: pick(TOWNS, random),
    minutes: between(2, 12, random) * 5,
    rest: between(1, 4, random) * 5,
    relative: pick(['grandmother', 'mother', 'aunt', 'neighbour', 'father', 'uncle'], random),
    trade: pick(TRADES, random),
  };
  return [
    paragraph(
      [
        [
          'this $dish {comes from|is from} $town, where $cook {cooks|makes} it {every week|on Sundays|for guests}.',
          '$cook from $town {learned|got} this recipe for $dish from a $relative{| who was a $trade}.',
        ],
        'for $persons people you need $list.',
      ],
      all,
      random,
    ),
    paragraph(
      [
        [
          'first {wash|prepare|weigh} the $first and {put|place} {it all|everything} on the table.',
          '{begin|start} with the $first: {cut|measure|clean} what you need{| and put it aside}.',
        ],
        [
          'then {mix|stir} the $first {and|with} the $second in a {large|deep|warm} bowl.',
          'add the $second and {stir|mix} well.',
        ],
        ['let {it|everything} rest for $rest minutes.', 'after $rest minutes {add|stir in} the $third.'],
        [
          '{add|put in} the $third and the $fourth, {a little at a time|and stir again}.',
          'now {comes|add} the $fourth{|, but not too much}.',
        ],
        {
          pot: 'cook the $dish in the pot for $minutes minutes {on a low fire|with the lid on}.',
          oven: 'bake the $dish in the oven for $minutes minutes{| until it is golden}.',
          pan: 'fry the $dish in the pan {with a little butter|on both sides} for $minutes minutes.',
          bowl: 'leave the $dish in the bowl for $minutes minutes{| in a cool place}.',
        }[vessel]!,
      ],
      all,
      random,
    ),
    paragraph(
      [
        [
          'serve the $dish {hot|warm|with fresh bread|with a glass of milk}.',
          'the $dish tastes best {warm|the next day|with bread}.',
        ],
        [
          '"{never forget|the secret is} the $third," says $cook.',
          '"my $relative always took more $fourth," says $cook{| and laughs}.',
        ],
        ['{what is left|the rest} can be {kept|eaten} {for two days|the next day}.', ''],
        'enjoy your meal!',
      ],
      all,
      random,
    ),
  ].join('\n\n');
}

/** task, materials, first, second, third step, the finished thing */
const TASKS: readonly (readonly [string, readonly string[], string, string, string, string])[] = [
  ['build a bird house', ['six boards', 'nails', 'a hammer', 'a saw', 'some paint'], 'saw the boards to the right length', 'nail the walls to the floor', 'put the roof on and paint it', 'bird house'],
  ['plant a tree', ['a young tree', 'a spade', 'a bucket of water', 'a stake', 'some string'], 'dig a hole that is twice as wide as the roots', 'set the tree into the hole and fill it with earth', 'tie the tree to the stake and water it', 'tree'],
  ['repair a bicycle tyre', ['a patch', 'glue', 'a pump', 'a bowl of water', 'sandpaper'], 'take the tube out and look for the hole in the water', 'roughen the place around the hole and spread glue on it', 'press the patch on and pump the tyre up', 'tyre'],
  ['make a kite', ['two thin sticks', 'paper', 'string', 'glue', 'scissors'], 'tie the two sticks together as a cross', 'stretch the string around the ends and glue the paper on', 'fasten a long string in the middle', 'kite'],
  ['paint a wall', ['a bucket of paint', 'a brush', 'a roller', 'tape', 'old newspapers'], 'cover the floor and tape the edges', 'paint the corners with the brush', 'roll the paint from the top to the bottom', 'wall'],
  ['bind a book', ['paper', 'a needle', 'strong thread', 'cardboard', 'glue'], 'fold the sheets and lay them on top of each other', 'sew the sheets together along the fold', 'glue the back to the cardboard', 'book'],
  ['make a candle', ['wax', 'a wick', 'a small tin', 'a pot', 'a wooden stick'], 'melt the wax slowly in the pot', 'hang the wick from the stick into the tin', 'pour the wax in and wait until it is hard', 'candle'],
  ['grow tomatoes', ['seeds', 'small pots', 'good soil', 'a sunny window', 'sticks'], 'put two seeds into each pot and cover them with soil', 'move the plants outside when the nights are warm', 'tie the plants to the sticks and water them every day', 'tomatoes'],
  ['sharpen a knife', ['a whetstone', 'water', 'a cloth', 'a steady table', 'a blunt knife'], 'lay the stone in water until it is wet', 'draw the blade over the stone at a flat angle', 'turn the knife over and do the other side', 'knife'],
  ['set up a tent', ['a tent', 'poles', 'pegs', 'a hammer', 'a flat place'], 'clear the ground of stones and branches', 'push the poles through the cloth and raise the tent', 'stretch the ropes and drive in the pegs', 'tent'],
]; // prettier-ignore

export function howTo(random: Random): string {
  const [task, materials, first, second, third, thing] = pick(TASKS, random);
  const [tool, other] = sample(materials, 2, random) as [string, string];
  const all: Facts = {
    task,
    first,
    second,
    third,
    thing,
    tool,
    other,
    list: enumerate(sample(materials, 4, random)),
    expert: `${pick([...WOMEN, ...MEN], random)}`,
    trade: pick(TRADES, random),
    town: pick(TOWNS, random),
    time: pick(['half an hour', 'an hour', 'two hours', 'an afternoon', 'a day'], random),
    colour: pick(COLOURS, random),
  };
  return [
    paragraph(
      [
        [
          'how to $task. {it takes|you need} {about |}$time{| and a little patience}.',
          '{anyone|everybody|even a child} can $task. {it takes|you need} {about |}$time.',
        ],
        ['you {also |}need $list.', 'have these things ready: $list.'],
        ['$expert, a $trade from $town, {explains|shows} how it is done.', 'the advice comes from $expert, a $trade in $town.'],
      ],
      all,
      random,
    ),
    paragraph(
      [
        'first, $first.',
        [
          '{take your time|work slowly|do not hurry}: {this is the most important step|mistakes here cannot be repaired}.',
          '"here most people {make mistakes|hurry too much}," says $expert.',
          '',
        ],
        'second, $second.',
        [
          'for this you {need|use} $tool{| and $other}.',
          'if $tool {is missing|breaks}, ask {a neighbour|a friend} for help.',
          '',
        ],
        'third, $third.',
      ],
      all,
      random,
    ),
    paragraph(
      [
        [
          '{now|at last} the $thing is {ready|finished|done}.',
          'when everything is {dry|done|in place}, look at your $thing{| from all sides}.',
        ],
        [
          '$expert {likes|prefers} the colour $colour, but {that is a matter of taste|any colour will do}.',
          '"my first $thing was $colour and {crooked|ugly}," says $expert and laughs.',
          '',
        ],
        ['put $tool away and clean {the table|your hands|the place}.', ''],
        [
          'with a little {care|luck} {it|the result} will {last|be good} for many years.',
          'whoever has {learned to|managed to} $task once {will never forget it|can do it again}.',
        ],
      ],
      all,
      random,
    ),
  ].join('\n\n');
}
