"""The 30 held-out subjects: what the content LoRAs are trained on, split as the paper's Table A1 (20-5-5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import eq

import numpy as np

from miniature.subjects import COLOURS, KINDS, Subject, sample_subject

ALIKE = 4  # of the six looks (three colours, marking, accessory and its colour) that make two of a kind too alike


@dataclass(frozen=True)
class Entry:
    """A held-out subject and its place in the split of the paper."""

    subject: Subject
    part: str  # "train", "validation" or "test"

    @property
    def group(self) -> str:
        return KINDS[self.subject.kind].group


def _entry(part: str, kind: str, shape: str, body: str, second: str, marking: str, accessory: str) -> Entry:
    """Make an entry. `shape` has a digit of tenths for each proportion; the last two are "colour name" or "plain"."""
    proportions = tuple(int(digit) / 10 for digit in shape)
    marking_colour, _, marked = marking.rpartition(" ")
    accessory_colour, _, worn = accessory.partition(" ")
    painted, dyed = COLOURS[marking_colour or body], COLOURS[accessory_colour if worn else body]
    subject = Subject(kind, proportions, COLOURS[body], COLOURS[second], marked, painted, worn or "none", dyed)
    return Entry(subject, part)


CATALOGUE: Mapping[str, Entry] = {
    "dog_1": _entry("train", "dog", "2847", "brown", "orange", "white patches", "red scarf"),
    "dog_2": _entry("validation", "dog", "7319", "white", "black", "black spots", "blue hat"),
    "dog_3": _entry("train", "dog", "5562", "yellow", "brown", "red heart", "none"),
    "dog_4": _entry("train", "dog", "9174", "navy", "cyan", "yellow stars", "orange bow"),
    "dog_5": _entry("train", "dog", "1490", "pink", "purple", "white stripes", "green glasses"),
    "dog_6": _entry("test", "dog", "4728", "orange", "white", "navy stripes", "purple party hat"),
    "cat_1": _entry("train", "cat", "3652", "black", "yellow", "orange patches", "pink bow"),
    "cat_2": _entry("test", "cat", "8236", "cyan", "navy", "white spots", "red scarf"),
    "cat_3": _entry("train", "cat", "6081", "orange", "yellow", "white band", "green headphones"),
    "cat_4": _entry("validation", "cat", "1937", "purple", "lime", "yellow zigzag", "none"),
    "rabbit_1": _entry("train", "rabbit", "7263", "white", "pink", "pink heart", "purple flower"),
    "rabbit_2": _entry("train", "rabbit", "2508", "teal", "yellow", "navy checks", "red glasses"),
    "bird_1": _entry("train", "bird", "4816", "red", "yellow", "white stripes", "black hat"),
    "fish_1": _entry("train", "fish", "8352", "lime", "purple", "blue spots", "orange crown"),
    "turtle_1": _entry("train", "turtle", "5194", "green", "lime", "orange stars", "red hat"),
    "teapot_1": _entry("test", "teapot", "6437", "white", "red", "blue checks", "yellow flower"),
    "mug_1": _entry("train", "mug", "2745", "yellow", "black", "black band", "red glasses"),
    "mug_2": _entry("train", "mug", "9261", "navy", "red", "white zigzag", "none"),
    "boot_1": _entry("train", "boot", "4570", "red", "black", "yellow stars", "white bow"),
    "backpack_1": _entry("train", "backpack", "3819", "teal", "orange", "white zigzag", "none"),
    "car_1": _entry("train", "car", "6425", "yellow", "navy", "red stripes", "green hat"),
    "clock_1": _entry("validation", "clock", "5283", "red", "blue", "white patches", "yellow crown"),
    "vase_1": _entry("train", "vase", "7106", "blue", "pink", "yellow stripes", "red bow"),
    "can_1": _entry("test", "can", "4938", "green", "red", "white stars", "black glasses"),
    "robot_1": _entry("train", "robot", "8264", "cyan", "orange", "red band", "purple headphones"),
    "robot_2": _entry("validation", "robot", "1573", "orange", "black", "black checks", "teal party hat"),
    "bear_1": _entry("train", "bear", "3648", "brown", "yellow", "pink heart", "blue scarf"),
    "bear_2": _entry("test", "bear", "7025", "pink", "white", "red patches", "navy hat"),
    "duck_1": _entry("validation", "duck", "5917", "white", "orange", "teal checks", "red scarf"),
    "monster_1": _entry("train", "monster", "2486", "purple", "yellow", "lime spots", "orange headphones"),
}


_WIDE_SEEDS = {"dog": 21, "cat": 1, "rabbit": 12, "bird": 7, "teapot": 8, "mug": 3, "boot": 3, "car": 3, "can": 6}
_WIDE_SEEDS |= {"robot": 6, "bear": 2, "duck": 4}
_WIDE_SEEDS_2 = {"fish": 44, "turtle": 24, "backpack": 26, "clock": 37, "vase": 34, "monster": 42, "dog": 23, "cat": 25}
_WIDE_SEEDS_2 |= {"rabbit": 39, "bird": 24, "teapot": 26, "mug": 22}


def _wide(seeds: Mapping[str, int], ending: str) -> dict[str, Entry]:
    """Make subjects of kinds and their seeds, with names that end so."""
    return {
        f"{kind}_{ending}": Entry(
            sample_subject(np.random.default_rng((7, 1, list(KINDS).index(kind), seed)), kind), "test"
        )
        for kind, seed in seeds.items()
    }


WIDE: Mapping[str, Entry] = _wide(_WIDE_SEEDS, "wide") | _wide(_WIDE_SEEDS_2, "wide_2")
"""The wide test's 24 subjects: of each kind the first random one or two, with a marking and an accessory, that are near
neither a held-out subject nor any of the 40,000 that the shipped base was trained on. The second 12 were added when the
first had been looked at twice; nothing of the wide validation and training is near them.
"""


def near_catalogue(subject: Subject) -> bool:
    """Tell whether a subject is so like a held-out one that it may not be in the base's training population."""
    looks = subject.looks().values()
    return any(
        entry.subject.kind == subject.kind and sum(map(eq, entry.subject.looks().values(), looks)) >= ALIKE
        for entry in (*CATALOGUE.values(), *WIDE.values())
    )


def fresh_subject(rng: np.random.Generator, kind: str | None = None) -> Subject:
    """Draw a random subject that is not near a held-out one."""
    while near_catalogue(subject := sample_subject(rng, kind)):
        pass
    return subject
