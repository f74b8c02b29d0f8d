/** Town portraits, weather reports, town news and travel notes. */
import type { Random } from '../../random.js';
import { between, enumerate, paragraph, pick, sample, type Facts } from '../grammar.js';
import { FAMILIES, GOODS, LANDMARKS, MEN, MONTHS, RIVERS, TOWNS, TRADES, WEEKDAYS, WOMEN } from '../words.js';

export function townPortrait(random: Random): string {
  const [goods, second] = sample(GOODS, 2, random) as [string, string];
  const [landmark, other] = sample(LANDMARKS, 2, random) as [string, string];
  const facts: Facts = {
    town: pick(TOWNS, random),
    river: pick(RIVERS, random),
    goods,
    second,
    landmark,
    other,
    year: between(1120, 1890, random),
    people: between(8, 95, random) * 100,
    founder: `${pick(MEN, random)} ${pick(FAMILIES, random)}`,
    mayor: `${pick(WOMEN, random)} ${pick(FAMILIES, random)}`,
    month: pick(MONTHS, random),
    direction: pick(['north', 'south', 'east', 'west'], random),
    land: pick(['hills', 'woods', 'fields', 'meadows', 'vineyards', 'moors', 'cliffs', 'orchards'], random),
  };
  const opening = paragraph(
    [
      [
        '{the town of $town|$town} {lies|stands|sits} {on the banks of|beside|at a bend of} the river $river, {surrounded by|between|in the middle of} $land.',
        '$town is a {small|quiet|busy|friendly|pretty} town on the river $river, {with|known for its} $land to the $direction.',
      ],
      ['about $people people live {there|in the town}{| today}.', 'it has {about|around|nearly} $people inhabitants.'],
      [
        'it was founded in $year by $founder, {who built the first houses near the $landmark|a merchant who sold $goods}.',
        '{according to the chronicle|as every child in $town knows}, $founder founded the town in $year.',
      ],
    ],
    facts,
    random,
  );
  const middle = paragraph(
    [
      [
        '{for centuries|for many years|since the early days} the people of $town have {lived from|made and sold} $goods.',
        'the town is {famous|well known} for its $goods, which {are|were} sold as far away as the coast.',
      ],
      [
        'later $second {became important too|brought new wealth to the town}.',
        'today {many|some} families live from $second.',
        '',
      ],
      [
        'visitors {like|come} to see the $landmark, {which is more than two hundred years old|which was restored a few years ago}.',
        'the $landmark {in the centre|by the river $river} is the {pride|symbol} of $town.',
      ],
      ['not far from it stands the $other.', 'the $other is {also worth a visit|a short walk away}.', ''],
    ],
    facts,
    random,
  );
  const closing = paragraph(
    [
      [
        'every $month there is a {fair|festival|market} {in front of the $landmark|along the river $river}, {with music and dancing|where $goods are sold}.',
        'in $month the whole town {meets|gathers} for the {great|yearly} {fair|festival} of $goods.',
      ],
      [
        'the mayor, $mayor, {says that|likes to say that} $town is {small but proud|the best place to live in the whole valley}.',
        '"whoever has seen $town once will come back," says $mayor, the mayor.',
      ],
      [
        '{so|and so} the {life|story} of $town goes on by the river $river.',
        'those who visit $town once {seldom|never} forget it.',
      ],
    ],
    facts,
    random,
  );
  return [opening, middle, closing].join('\n\n');
}

const SKIES = ['sunny', 'cloudy', 'foggy', 'rainy', 'windy', 'stormy', 'clear', 'grey', 'snowy', 'mild'];

export function weatherReport(random: Random): string {
  const start = random.integer(7);
  const cold = between(-5, 12, random);
  const [sky, later, last] = sample(SKIES, 3, random) as [string, string, string];
  const facts: Facts = {
    town: pick(TOWNS, random),
    river: pick(RIVERS, random),
    first: WEEKDAYS[start]!,
    next: WEEKDAYS[(start + 1) % 7]!,
    third: WEEKDAYS[(start + 2) % 7]!,
    sky,
    later,
    last,
    low: cold,
    high: cold + between(4, 9, random),
    wind: pick(['north', 'south', 'east', 'west'], random),
    name: pick([...WOMEN, ...MEN], random),
    trade: pick(TRADES, random),
    month: pick(MONTHS, random),
  };
  const opening = paragraph(
    [
      '{weather report|weather} for $town and the valley of the $river.',
      [
        'on $first it will be $sky in $town, with {temperatures|values} between $low and $high degrees.',
        '$first {begins|starts} $sky, with $low degrees in the morning and $high degrees in the afternoon.',
      ],
      [
        'the wind {comes|blows} from the $wind{| and is weak| and is strong on the hills}.',
        'a {light|fresh|cold|gentle} wind blows from the $wind.',
      ],
    ],
    facts,
    random,
  );
  const middle = paragraph(
    [
      [
        'on $next it {turns|becomes|will be} $later, {especially|above all} {along the $river|in the evening}.',
        'in the night to $next the weather changes, and the day will be $later.',
      ],
      ['the $wind wind {drops|grows stronger|goes on}.', 'the temperature {stays at about|rises to|falls to} $high degrees.', ''],
      ['$third will be {$last|$last again|$last, but dry}.', 'from $third on we expect {$last days|$last weather}.'],
    ],
    facts,
    random,
  );
  const closing = paragraph(
    [
      [
        '$name, {the $trade|a $trade} {in|from} $town, {has seen|remembers} many such days in $month.',
        '"that is {normal|usual|nothing special} for $month," says $name, a $trade from $town.',
      ],
      [
        '{so take|please take|do not forget} {an umbrella|a warm coat|a scarf|a hat} {with you|when you go out}.',
        '{farmers|walkers|sailors on the $river} should {be careful|stay at home on $next|watch the sky}.',
      ],
      'the next report for $town {comes|follows} on $third {evening|morning|at noon}.',
    ],
    facts,
    random,
  );
  return [opening, `${middle} ${closing}`].join('\n\n');
}

const EVENTS: readonly (readonly [string, string])[] = [
  ['boat race', 'the fastest boat'], ['baking contest', 'the best cake'], ['flower show', 'the finest rose'],
  ['chess tournament', 'the best player'], ['kite festival', 'the highest kite'], ['singing contest', 'the best voice'],
  ['book fair', 'the best story'], ['pumpkin show', 'the heaviest pumpkin'], ['horse market', 'the finest horse'],
  ['lantern walk', 'the most beautiful lantern'], ['fishing contest', 'the biggest fish'], ['running race', 'the fastest runner'],
]; // prettier-ignore

export function townNews(random: Random): string {
  const [event, prize] = pick(EVENTS, random);
  const [winner, runnerUp] = sample([...WOMEN, ...MEN], 2, random) as [string, string];
  const facts: Facts = {
    town: pick(TOWNS, random),
    event,
    prize,
    winner,
    family: pick(FAMILIES, random),
    runnerUp,
    otherFamily: pick(FAMILIES, random),
    trade: pick(TRADES, random),
    day: pick(WEEKDAYS, random),
    date: between(1, 28, random),
    month: pick(MONTHS, random),
    guests: between(4, 60, random) * 10,
    place: pick(LANDMARKS, random),
    reward: pick(
      [
        'a silver cup',
        'a basket of apples',
        'a new bicycle',
        'fifty coins',
        'a barrel of honey',
        'a warm blanket',
        'a gold medal',
      ],
      random,
    ),
  };
  return [
    paragraph(
      [
        [
          'on $day, the $date of $month, the {yearly|great|traditional} $event took place in $town.',
          '$town {held|celebrated} its {yearly|great} $event on $day, the $date of $month.',
        ],
        [
          '{about|more than|nearly} $guests {people|guests} came to the $place to {watch|take part}.',
          'the square in front of the $place was full: {about|nearly} $guests people had come.',
        ],
        'the prize for $prize was $reward.',
      ],
      facts,
      random,
    ),
    paragraph(
      [
        [
          'it went to $winner $family, a $trade from $town.',
          '{in the end|after three hours} it went to $winner $family, {who works as a $trade|a young $trade}.',
        ],
        [
          '"{I did not expect this|I can hardly believe it|I have waited years for this day}," said $winner{| with a smile| and laughed}.',
          '$winner thanked {everybody|the whole town} and {smiled|held up the prize}.',
        ],
        [
          'second {place|prize} went to $runnerUp $otherFamily.',
          '$runnerUp $otherFamily came second{| and was content| by very little}.',
        ],
        ['the {judges|jury} said that {the choice had been hard|they had never seen so many good entries}.', ''],
        [
          '{in the evening|afterwards} there was {music|dancing|soup for everybody} at the $place.',
          '$winner will keep $reward {at home|in the shop}.',
        ],
        'the next $event in $town {will be|takes place} in $month {next year|of next year}.',
      ],
      facts,
      random,
    ),
  ].join('\n\n');
}

const VEHICLES = ['train', 'bicycle', 'cart', 'boat', 'coach', 'old bus', 'sledge', 'ferry'];

export function travelNotes(random: Random): string {
  const [from, via, to] = sample(TOWNS, 3, random) as [string, string, string];
  const [landmark, other] = sample(LANDMARKS, 2, random) as [string, string];
  const meal = sample(
    [
      'bread and cheese',
      'hot soup',
      'apple cake',
      'fried fish',
      'potatoes with herbs',
      'pancakes',
      'a bowl of stew',
      'fresh rolls',
    ],
    2,
    random,
  );
  const facts: Facts = {
    from,
    via,
    to,
    landmark,
    other,
    meal: meal[0]!,
    supper: meal[1]!,
    friend: pick([...WOMEN, ...MEN], random),
    host: `${pick(WOMEN, random)} ${pick(FAMILIES, random)}`,
    vehicle: pick(VEHICLES, random),
    days: pick(['two', 'three', 'four', 'five'], random),
    month: pick(MONTHS, random),
    river: pick(RIVERS, random),
    things: enumerate(
      sample(
        ['a map', 'a lamp', 'two blankets', 'a rope', 'a camera', 'a book', 'some apples', 'a compass', 'warm socks'],
        3,
        random,
      ),
    ),
  };
  return [
    paragraph(
      [
        [
          'in $month my friend $friend and I travelled from $from to $to by $vehicle.',
          'last $month I {went|travelled} from $from to $to by $vehicle, together with my friend $friend.',
        ],
        ['the journey took $days days.', 'we needed $days days{| for the whole way}.'],
        'we {took|packed} $things{| with us}.',
      ],
      facts,
      random,
    ),
    paragraph(
      [
        [
          'on the first day we {reached|came to} $via, a town on the river $river.',
          'our first stop was $via, on the river $river.',
        ],
        [
          'there we {saw|visited} the $landmark and {ate|had} $meal.',
          '$friend wanted to see the $landmark, so we stayed {for an hour|until noon} and ate $meal.',
        ],
        [
          '{then|after that} it began to rain, {but|and} the $vehicle went on.',
          'the weather was {fine|cold|warm} and $friend {sang|slept|told stories} all the way.',
          'behind $via the road {follows|leaves} the $river.',
        ],
      ],
      facts,
      random,
    ),
    paragraph(
      [
        [
          '{in the evening of the last day|at last} we {arrived in|reached} $to.',
          'when we {arrived in|reached} $to, it was {already dark|late}.',
        ],
        [
          'we {stayed|lived} with $host, {who cooked $supper for us|who gave us $supper}.',
          '$host {opened|was waiting at} the door and gave us $supper.',
        ],
        ['the next morning $friend showed me the $other.', 'the $other in $to is {beautiful|bigger than I had thought}.'],
        [
          'I will never forget {this journey|these $days days} with $friend.',
          'we were tired but happy, and we want to {come back to|see} $to {again|next $month}.',
        ],
      ],
      facts,
      random,
    ),
  ].join('\n\n');
}
