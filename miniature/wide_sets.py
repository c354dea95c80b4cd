"""Random subjects and styles beside the held-out ones: the wide validation set, to choose a method on so that the wide
test stays unseen, and the wide training set, to see what more LoRAs teach a hypernetwork.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import numpy as np

from miniature.catalogue import Entry, fresh_subject
from miniature.gallery import WIDE, is_near, near_gallery, random_style, seeded_style
from miniature.styles import FAMILIES, DrawnStyle
from miniature.subjects import KINDS

Drawn = tuple[dict[str, Entry], dict[str, DrawnStyle]]
"""Subjects and styles by name. No style is near one of the shipped gallery, of the wide test, or of the other set."""

VALIDATION_SUBJECTS = 16
TRAIN_ROUNDS = 2  # subjects of each kind, and styles of each family
_SEED = 1811
_STYLE_SEEDS = {"rendering": 46, "ink_wash": 365, "stained_glass": 270, "woodcut": 67, "chalk": 157, "smoke": 379}
_STYLE_SEEDS |= {"wood": 306, "flat_cartoon": 74, "sticker": 234, "embroidery": 12, "mosaic": 267, "blueprint": 270}
_STYLE_SEEDS |= {"neon": 41, "pastel": 268, "pointillism": 389, "line": 22}
"""Of the validation's styles, which are found as the wide test's are: of each family the one of 400 that is farthest
from all that the shipped base was trained on, and near none that is held out.
"""


def wide_validation() -> Drawn:
    """Draw the set's subjects, each of another kind, and its styles, each of another family."""
    rng = np.random.default_rng((_SEED, 1))
    kinds, families = _shuffled(rng, KINDS)[:VALIDATION_SUBJECTS], _shuffled(rng, FAMILIES)[: len(_STYLE_SEEDS)]
    subjects = {f"{kind}_v1": _subject(rng, kind, "validation") for kind in kinds}
    # Not _v1: easier styles had these names, in results that are kept.
    return subjects, {f"{family}_v2": seeded_style(family, 3, _STYLE_SEEDS[family]) for family in families}


def wide_training() -> Drawn:
    """Draw two subjects of each kind, and two styles of each family, no style near the wide validation's or test's."""
    subject_rng, style_rng = (np.random.default_rng((_SEED, stream)) for stream in (2, 3))
    kinds, families = enumerate(_rounds(subject_rng, KINDS)), enumerate(_rounds(style_rng, FAMILIES))
    subjects = {f"{kind}_t{number}": _subject(subject_rng, kind, "train") for number, kind in kinds}
    held = [*wide_validation()[1].values(), *WIDE.values()]
    return subjects, {f"{family}_t{number}": _style(style_rng, family, held) for number, family in families}


def _rounds(rng: np.random.Generator, names: Iterable[str]) -> Iterator[str]:
    """Yield all names in a random order, and again; each order is drawn when the one before is used up."""
    for _ in range(TRAIN_ROUNDS):
        yield from _shuffled(rng, names)


def _shuffled(rng: np.random.Generator, names: Iterable[str]) -> list[str]:
    return rng.permutation(list(names)).tolist()


def _subject(rng: np.random.Generator, kind: str, part: str) -> Entry:
    """Draw a subject of a kind with a marking and an accessory."""
    while (subject := fresh_subject(rng, kind)).marking == "plain" or subject.accessory == "none":
        pass
    return Entry(subject, part)


def _style(rng: np.random.Generator, family: str, held: Collection[DrawnStyle]) -> DrawnStyle:
    while near_gallery(style := random_style(rng, family)) or any(is_near(style, other) for other in held):
        pass
    return style
