"""Subjects of the miniature world: what makes one of them itself, whatever it does and wherever it stands."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

RGB = tuple[float, float, float]
"""sRGB, each channel in [0, 1]."""

COLOURS: Mapping[str, RGB] = {
    "red": (0.86, 0.16, 0.18),
    "orange": (0.97, 0.52, 0.13),
    "yellow": (0.99, 0.83, 0.20),
    "lime": (0.66, 0.85, 0.22),
    "green": (0.14, 0.56, 0.27),
    "teal": (0.10, 0.62, 0.62),
    "cyan": (0.48, 0.83, 0.95),
    "blue": (0.18, 0.38, 0.86),
    "navy": (0.13, 0.16, 0.40),
    "purple": (0.54, 0.27, 0.74),
    "pink": (0.98, 0.60, 0.74),
    "brown": (0.52, 0.31, 0.17),
    "black": (0.20, 0.19, 0.22),
    "white": (0.98, 0.97, 0.94),
}


@dataclass(frozen=True)
class Kind:
    """What all subjects of one kind share."""

    group: str  # "animal", "object" or "toy"
    second: str  # what carries the second colour, in words
    accessories: tuple[str, ...]
    hides: tuple[str, ...] = ()  # markings that other parts would cover


HEADWEAR = ("hat", "crown", "party hat", "bow", "flower")
WORN = (*HEADWEAR, "scarf", "glasses", "headphones")
ON_OBJECTS = (*HEADWEAR, "glasses")

KINDS: Mapping[str, Kind] = {
    "dog": Kind("animal", "ears", WORN),
    "cat": Kind("animal", "ears", WORN),
    "rabbit": Kind("animal", "ears", WORN),
    "bird": Kind("animal", "wings", WORN),
    "fish": Kind("animal", "fins", ON_OBJECTS),
    "turtle": Kind("animal", "skin", WORN),
    "teapot": Kind("object", "lid", ON_OBJECTS),
    "mug": Kind("object", "handle", ON_OBJECTS),
    "boot": Kind("object", "sole", ON_OBJECTS),
    "backpack": Kind("object", "pocket", ON_OBJECTS),
    "car": Kind("object", "wheels", ON_OBJECTS),
    "clock": Kind("object", "bells", ON_OBJECTS, hides=("heart",)),
    "vase": Kind("object", "flowers", ON_OBJECTS),
    "can": Kind("object", "straw", ON_OBJECTS),
    "robot": Kind("toy", "arms", WORN),
    "bear": Kind("toy", "paws", WORN),
    "duck": Kind("toy", "beak", WORN),
    "monster": Kind("toy", "horns", WORN),
}

# Marking → its words after the colour; {} is the colour.
MARKINGS: Mapping[str, str] = {
    "plain": "",
    "spots": "{} spots",
    "stripes": "{} stripes",
    "patches": "{} patches",
    "checks": "{} checks",
    "band": "a {} band",
    "stars": "{} stars",
    "zigzag": "a {} zigzag",
    "heart": "a {} heart",
}
PLURAL_ACCESSORIES = ("glasses", "headphones")
DETAILS = ("body", "second", "marking", "accessory")

# Distance in sRGB below which two colours of one subject are too alike to tell apart at 96 pixels.
CONTRAST = 0.5
# Shares of plain subjects and of subjects that wear nothing.
PLAIN, BARE = 0.12, 0.25


@dataclass(frozen=True)
class Subject:
    """An identity: nothing here changes between two drawings of the same subject."""

    kind: str
    shape: tuple[float, ...]  # four proportions in [0, 1] that each kind reads in its own way
    body: RGB
    second: RGB
    marking: str
    marking_colour: RGB
    accessory: str  # "none" or one of KINDS[kind].accessories
    accessory_colour: RGB

    def looks(self) -> dict[str, RGB | str | None]:
        """Return all that is seen of it beside its kind and shape; None for the colour of what it does not have."""
        plain, bare = self.marking == "plain", self.accessory == "none"
        return {
            "body": self.body,
            "second": self.second,
            "marking": self.marking,
            "marking_colour": None if plain else self.marking_colour,
            "accessory": self.accessory,
            "accessory_colour": None if bare else self.accessory_colour,
        }


def sample_subject(rng: np.random.Generator, kind: str | None = None) -> Subject:
    """Make a random subject, of a random kind unless one is named, whose colours stand apart from each other."""
    kind = kind or str(rng.choice(list(KINDS)))
    body = COLOURS[str(rng.choice(list(COLOURS)))]
    second = _contrasting(rng, body)
    markings = [name for name in MARKINGS if name not in ("plain", *KINDS[kind].hides)]
    marking = "plain" if rng.random() < PLAIN else str(rng.choice(markings))
    marking_colour = _contrasting(rng, body)
    worn = "none" if rng.random() < BARE else str(rng.choice(KINDS[kind].accessories))
    shape = tuple(rng.random(4).tolist())
    return Subject(kind, shape, body, second, marking, marking_colour, worn, _contrasting(rng, body, second))


def describe(subject: Subject, details: Collection[str] = DETAILS) -> str:
    """Return words for a caption, such as "red dog with yellow ears, white spots and a blue hat".

    `details` says which of DETAILS are told; the order of the words does not depend on it.
    """
    noun = f"{colour_name(subject.body)} {subject.kind}" if "body" in details else subject.kind
    extras = []
    if "second" in details:
        extras.append(f"{colour_name(subject.second)} {KINDS[subject.kind].second}")
    if "marking" in details and subject.marking != "plain":
        extras.append(MARKINGS[subject.marking].format(colour_name(subject.marking_colour)))
    if "accessory" in details and subject.accessory != "none":
        words = f"{colour_name(subject.accessory_colour)} {subject.accessory}"
        extras.append(words if subject.accessory in PLURAL_ACCESSORIES else f"{article(words)} {words}")
    if not extras:
        return noun
    *first, last = extras
    return f"{noun} with {', '.join(first)} and {last}" if first else f"{noun} with {last}"


def article(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"


def colour_name(colour: RGB) -> str:
    """Return the name of the nearest colour in COLOURS."""
    return min(COLOURS, key=lambda name: distance(COLOURS[name], colour))


def distance(first: RGB, second: RGB) -> float:
    return float(np.linalg.norm(np.subtract(first, second)))


def _contrasting(rng: np.random.Generator, *others: RGB) -> RGB:
    choices = [name for name, rgb in COLOURS.items() if all(distance(rgb, other) > CONTRAST for other in others)]
    return COLOURS[str(rng.choice(choices))]
