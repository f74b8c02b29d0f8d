/** Short stories, portraits of craftspeople, letters and fables. Names and objects stay the same through a text. */
import type { Random } from '../../random.js';
import { between, paragraph, pick, sample, type Facts } from '../grammar.js';
import { ANIMAL_FRIENDS, COLOURS, FAMILIES, FEELINGS, GOODS, LOST_THINGS, MEN, MONTHS, PLACES, RIVERS, TOWNS, TRADES, WOMEN } from '../words.js'; // prettier-ignore

interface Person {
  name: string;
  he: string;
  his: string;
  him: string;
  noun: string;
}

function person(random: Random, except = ''): Person {
  const woman = random.integer(2) === 0;
  const name = pick(
    (woman ? WOMEN : MEN).filter((candidate) => candidate !== except),
    random,
  );
  return woman
    ? { name, he: 'she', his: 'her', him: 'her', noun: 'girl' }
    : { name, he: 'he', his: 'his', him: 'him', noun: 'boy' };
}

const facts = (p: Person): Facts => ({ hero: p.name, he: p.he, his: p.his, him: p.him, noun: p.noun });

export function lostThing(random: Random): string {
  const hero = person(random);
  const friend = person(random, hero.name);
  const places = sample(PLACES, 3, random);
  const all: Facts = {
    ...facts(hero),
    friend: friend.name,
    friendHe: friend.he,
    thing: pick(LOST_THINGS, random),
    town: pick(TOWNS, random),
    animal: pick(ANIMAL_FRIENDS, random),
    pet: pick(['Pepper', 'Biscuit', 'Button', 'Pudding', 'Socks', 'Captain', 'Plum', 'Nutmeg', 'Whiskers', 'Dumpling'], random),
    first: places[0]!,
    second: places[1]!,
    third: places[2]!,
    feeling: pick(FEELINGS, random),
    relative: pick(['grandmother', 'grandfather', 'aunt', 'uncle', 'mother', 'father'], random),
    spot: pick(
      [
        'under an old blanket',
        'behind a barrel',
        'on a high shelf',
        'in a wooden box',
        'between two stones',
        'inside a boot',
        'under a pile of leaves',
        'in a flower pot',
      ],
      random,
    ),
  };
  return [
    paragraph(
      [
        [
          '{once there was|in $town there lived} a $noun called $hero, who had a $thing.',
          '$hero was a {little|clever|shy|brave} $noun from $town. $he had a $thing.',
        ],
        [
          'it was a {present|gift} from $his $relative, and $hero {loved it very much|took it everywhere}.',
          '$his $relative had given it to $him {long ago|on a birthday}.',
        ],
        ['one {morning|day|evening} the $thing was gone.', 'but one {morning|day} $hero could not find the $thing.'],
      ],
      all,
      random,
    ),
    paragraph(
      [
        [
          '$he asked $his friend $friend for help, and {together they|the two of them} looked in the $first.',
          '"I will help you," said $friend, {the best friend of $hero|who lived next door}. first they went to the $first.',
        ],
        ['there was nothing{| but dust| but an old chair}.', 'but the $thing was not there.'],
        [
          'then they {went to|searched} the $second{|, step by step|, where it was dark}.',
          '"maybe it is in the $second," said $friend.',
        ],
        [
          'but they {found|saw} only $pet, the $animal, {who was asleep|who looked at them}.',
          'in the $second sat $pet, the $animal of $friend.',
        ],
        [
          'suddenly $pet {jumped up|ran off|made a noise} and {led them|went} to the $third.',
          '$pet {stood up and|looked at $hero and} walked slowly to the $third.',
        ],
      ],
      all,
      random,
    ),
    paragraph(
      [
        ['and there, $spot, {lay|was} the $thing!', 'in the $third, $spot, $hero {found|saw} the $thing.'],
        [
          '"{good|clever|dear} $pet!" {cried|said} $hero and {hugged|thanked} the $animal.',
          '$hero was so $feeling that $he {danced|sang|laughed}.',
        ],
        ['$friend {laughed|smiled|clapped}.', ''],
        [
          'that evening they {told $his $relative everything|ate cake together|sat by the fire}, and $pet got {a big bone|an apple|a warm place by the stove|the largest piece}.',
          '',
        ],
        [
          'from that day on $hero {took good care of|never lost} the $thing{| again}.',
          'and $hero, $friend and $pet the $animal {stayed|were} friends for {ever|life|many years}.',
        ],
      ],
      all,
      random,
    ),
  ].join('\n\n');
}

export function craftsperson(random: Random): string {
  const hero = person(random);
  const [material, better] = sample(
    ['oak', 'copper', 'clay', 'wool', 'silver', 'linen', 'iron', 'glass', 'paper', 'leather'],
    2,
    random,
  );
  const born = between(1790, 1900, random);
  const all: Facts = {
    ...facts(hero),
    family: pick(FAMILIES, random),
    trade: pick(TRADES, random),
    parentTrade: pick(TRADES, random),
    town: pick(TOWNS, random),
    city: pick(TOWNS, random),
    born,
    start: born + between(13, 17, random),
    open: born + between(22, 34, random),
    died: born + between(60, 85, random),
    material: material!,
    better: better!,
    goods: pick(GOODS, random),
    master: `${pick(MEN, random)} ${pick(FAMILIES, random)}`,
    colour: pick(COLOURS, random),
    habit: pick(
      [
        'got up at five',
        'drank a cup of tea at four',
        'walked along the river',
        'wrote down every sale in a notebook',
        'fed the birds',
        'sang at work',
        'wore a hat',
      ],
      random,
    ),
  };
  return [
    paragraph(
      [
        [
          '$hero $family was born in $town in $born{|, the {first|second|third|youngest} child of a $parentTrade}.',
          '$hero $family, {a|the} {famous|well-known} $trade of $town, was born in $born.',
        ],
        [
          'in $start $he {began to learn|started to learn} the trade of a $trade {from|with} $master{| in $city}.',
          '$his teacher was $master, {a strict man|who worked in $city}, {to whom|where} $he came in $start.',
        ],
        [
          '$he learned {fast|slowly but well}{|, although the work was hard}.',
          '"{work slowly and you will be fast|good $material wants patience}," $master used to say.',
        ],
      ],
      all,
      random,
    ),
    paragraph(
      [
        [
          'in $open $hero opened {a shop|a workshop} of $his own in $town.',
          'after that $he came back to $town and opened a workshop in $open.',
        ],
        [
          'the {door|house|sign} was $colour, and everybody {knew|called} it the $colour {house|shop}.',
          'over the $colour door hung a sign {of|made of} $material.',
        ],
        [
          '$he was {the first|one of the first} to use $better instead of $material.',
          'people came from far away to {see|buy} {what $he made|$his work} {of|from} $better.',
        ],
        ['every {day|morning} $he $habit.', 'it is said that $he always $habit{| before work}.'],
      ],
      all,
      random,
    ),
    paragraph(
      [
        [
          '$hero $family {had many pupils|taught many young people} and {was never rich|never left $town again}.',
          '$he never {wanted to be rich|asked for too much money}.',
        ],
        ['$he died in $died{| at home}.', 'in $died $hero $family died in $town.'],
        [
          'the $colour {house|shop} {can still be seen|is now a small museum}.',
          'today a street in $town {has|bears} the name of $hero $family.',
        ],
      ],
      all,
      random,
    ),
  ].join('\n\n');
}

export function letter(random: Random): string {
  const writer = person(random);
  const reader = person(random, writer.name);
  const guest = person(random, writer.name);
  const all: Facts = {
    writer: writer.name,
    reader: reader.name,
    guest: guest.name,
    guestHe: guest.he,
    town: pick(TOWNS, random),
    month: pick(MONTHS, random),
    day: between(1, 28, random),
    room: pick(PLACES, random),
    animal: pick(ANIMAL_FRIENDS, random),
    goods: pick(GOODS, random),
    colour: pick(COLOURS, random),
    trade: pick(TRADES, random),
    feeling: pick(FEELINGS, random),
    thing: pick(LOST_THINGS, random),
    relative: pick(guest.noun === 'girl' ? ['sister', 'aunt', 'cousin'] : ['brother', 'uncle', 'cousin'], random),
  };
  return [
    paragraph(['$town, the $day of $month'], all, random),
    paragraph(['dear $reader,'], all, random),
    paragraph(
      [
        [
          '{thank you for|I was $feeling to get} your {long |last |kind |}letter.',
          'how are you? here in $town everything is {well|as always|fine}.',
        ],
        [
          '{since|after} you left, {a lot has happened|we have had much to do} in the $room.',
          'you will not believe what happened in the $room.',
        ],
        [
          '{our|my} $relative $guest {has become|is now} a $trade and {sells|makes} $goods.',
          '$guest, {our|my} $relative, came to visit us and brought $goods.',
        ],
        [
          '$guest has painted the $room $colour{|, and now it looks new}.',
          '$guest also brought a $colour $animal.',
          'now we have a $animal, and it sleeps in the $room.',
        ],
      ],
      all,
      random,
    ),
    paragraph(
      [
        [
          'do you remember the $thing? {$guest|I} found it in the $room{| last week}.',
          'I am sending you the $thing{|, please take care of it|, because it is yours}.',
        ],
        ['$guest {says hello|asks when you will come}.', 'please write to me {soon|what you think about $guest and the $goods}.'],
        ['in $month the days are {long|short|fine}, and we {think of|talk about} you {often|every evening}.', ''],
        'come back to $town {soon|when you can}!',
      ],
      all,
      random,
    ),
    paragraph(['{your friend|yours|with love}, $writer'], all, random),
  ].join('\n\n');
}

const FABLE_ANIMALS = [
  'fox',
  'crow',
  'bear',
  'hare',
  'wolf',
  'owl',
  'mouse',
  'frog',
  'stork',
  'badger',
  'snail',
  'goose',
  'ant',
  'sparrow',
];

export function fable(random: Random): string {
  const [first, second, judge] = sample(FABLE_ANIMALS, 3, random) as [string, string, string];
  const [strength, lesson] = pick(
    [
      ['the fastest', 'being fast is not the same as arriving'],
      ['the cleverest', 'whoever boasts has stopped learning'],
      ['the strongest', 'two who help each other are stronger than one'],
      ['the most patient', 'patience finds what hurry has lost'],
      ['the bravest', 'it takes courage to ask for help'],
      ['the richest', 'what you share you do not lose'],
    ] as const,
    random,
  );
  const all: Facts = {
    first,
    second,
    judge,
    strength,
    lesson,
    place: pick(['forest', 'valley', 'meadow', 'garden', 'mountains', 'reeds by the pond'], random),
    river: pick(RIVERS, random),
    food: pick(
      ['a piece of cheese', 'a basket of nuts', 'a ripe pear', 'a pot of honey', 'a golden apple', 'a sack of corn'],
      random,
    ),
    goal: pick(['the old oak', 'the round stone', 'the top of the hill', 'the other bank of the river', 'the mill'], random),
  };
  return [
    paragraph(
      [
        ['a $first and a $second lived in the $place{| near the $river}.', 'in the $place there lived a $first and a $second.'],
        [
          '{one day|once} the $first said: "I am $strength {of all|of all animals}."',
          'the $first {told everybody|always said}: "nobody can deny that I am $strength."',
        ],
        ['the $second {did not believe it|laughed|shook its head}. "{let us see|we shall see|prove it}," said the $second.'],
        'so they {went to|asked} the $judge, who was {old and wise|known to be fair}.',
      ],
      all,
      random,
    ),
    paragraph(
      [
        '"{go|run|walk} to $goal," said the $judge, "and bring me $food."',
        [
          'the $first {ran off|set out} at once{| and did not look back}.',
          'the $first {laughed|smiled} and {lay down to sleep first|set out without a plan}.',
        ],
        [
          'the $second {went|walked} {slowly|step by step} and asked {the birds|a snail|the wind} for the way.',
          'the $second first {thought|ate something} and then {went|walked} to $goal.',
        ],
        [
          'at $goal the $first {slipped|got stuck|fell into a hole} and could not {move|get out}.',
          'when the $first {came to|reached} $goal, it could not {carry|find} $food alone.',
        ],
        ['then the $second {came|arrived} and {helped|pulled} the $first{| out}.', '"wait, I will help you," said the $second.'],
        'together they {brought|carried} $food back to the $judge.',
      ],
      all,
      random,
    ),
    paragraph(
      [
        [
          '"{now|well}, who is $strength?" asked the $judge{|, and smiled}.',
          '"so which of you is $strength?" the $judge {asked|wanted to know}.',
        ],
        [
          'the $first {was silent|looked at the ground} and {shared|divided} $food with the $second.',
          '"{the two of us|neither}," said the $first, and they shared $food with the $judge.',
        ],
        ['and the {moral|lesson} {is|of the story is}: $lesson.', 'the $first had learned that $lesson.'],
      ],
      all,
      random,
    ),
  ].join('\n\n');
}
