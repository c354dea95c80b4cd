"""Random subjects and styles beside the held-out ones: the wide validation set, to choose a method on so that the wide
test stays unseen, and the wide training set, to see what more LoRAs teach a hypernetwork.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import numpy as np

from miniature.catalogue import Entry, fresh_subject
from miniature.gallery import is_near, near_gallery, random_style
from miniature.styles import FAMILIES, DrawnStyle
from miniature.subjects import KINDS

Drawn = tuple[dict[str, Entry], dict[str, DrawnStyle]]
"""Subjects and styles by name: like those that the base was trained on. Styles are near none of the shipped gallery's.
Near the wide test's, by the same distance, are three of the validation's and six of the training's; by half of it
(`WIDE_NEAR`), none.
"""

VALIDATION_SUBJECTS, VALIDATION_STYLES = 10, 8
TRAIN_ROUNDS = 2  # subjects of each kind, and styles of each family
_SEED = 1811


def wide_validation() -> Drawn:
    """Draw the set's subjects, each of another kind, and its styles, each of another family."""
    rng = np.random.default_rng((_SEED, 1))
    kinds, families = _shuffled(rng, KINDS)[:VALIDATION_SUBJECTS], _shuffled(rng, FAMILIES)[:VALIDATION_STYLES]
    subjects = {f"{kind}_v1": _subject(rng, kind, "validation") for kind in kinds}
    return subjects, {f"{family}_v1": _style(rng, family) for family in families}


def wide_training() -> Drawn:
    """Draw two subjects of each kind, and two styles of each family, no style near the wide validation's."""
    subject_rng, style_rng = (np.random.default_rng((_SEED, stream)) for stream in (2, 3))
    kinds, families = enumerate(_rounds(subject_rng, KINDS)), enumerate(_rounds(style_rng, FAMILIES))
    subjects = {f"{kind}_t{number}": _subject(subject_rng, kind, "train") for number, kind in kinds}
    held = wide_validation()[1].values()
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


def _style(rng: np.random.Generator, family: str, held: Collection[DrawnStyle] = ()) -> DrawnStyle:
    while near_gallery(style := random_style(rng, family)) or any(is_near(style, other) for other in held):
        pass
    return style
