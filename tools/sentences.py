"""Invented sentences for the demo: one small grammar, cut into disjoint sets by a hash of the text."""

import random
import re
import zlib
from collections.abc import Iterator

PATTERNS = """
turn {switch} the {device} in the {room}
turn the {device} {switch} please
set the {device} to {number} percent
make the {room} {colour} and quiet
is the {device} in the {room} still {switch}
open the {room} window
close the {colour} door in the {room}
call {name} at {number} {number}
send {name} a short message
{name} will meet {name} in {city}
ask {name} to bring {food} and {food}
add {number} {food} to the list
we have no {food} and no {food} left
what is the weather in {city} on {day}
book a train from {city} to {city}
how far is {city} from {city}
wake me at {number} on {day}
{name} arrives on {day} at {number}
play some {colour} music for {name}
the code is {digit} {digit} {digit} {digit}
my number is {digit} {digit} {digit}
{digit} {digit} {digit} {digit}
{number} and {number} and {number}
the {colour} {device} costs {number} dollars
""".strip().splitlines()

WORDS = {
    "switch": "on off",
    "digit": "zero one two three four five six seven eight nine",
    "number": "three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety",
    "device": "light lamp heater fan radio television alarm oven kettle speaker camera printer",
    "room": "kitchen bedroom bathroom garage garden office hallway cellar",
    "colour": "red blue green yellow orange purple white black",
    "name": "anna peter maria david sarah thomas julia robert emma oliver sofia victor helen martin",
    "city": "london paris berlin madrid vienna oslo dublin lisbon athens warsaw",
    "day": "monday tuesday wednesday thursday friday saturday sunday",
    "food": "bread butter cheese apples coffee sugar milk tomatoes rice chicken lemons pepper",
}

CHOICES = {slot: words.split() for slot, words in WORDS.items()}
BUCKETS = {"test": range(0, 1), "validation": range(1, 2), "train": range(2, 10)}


def bucket(text: str) -> str:
    """The set a sentence belongs to, decided by its text alone, so that no set can share a sentence."""
    place = zlib.crc32(text.encode()) % 10
    return next(name for name, places in BUCKETS.items() if place in places)


def sentences(split: str, seed: int) -> Iterator[str]:
    """An endless, seeded stream of different sentences of one split."""
    rng = random.Random(f"{split}-{seed}")
    seen: set[str] = set()
    while True:
        text = re.sub(r"{(\w+)}", lambda slot: rng.choice(CHOICES[slot[1]]), rng.choice(PATTERNS))
        if bucket(text) == split and text not in seen:
            seen.add(text)
            yield text
