"""The wide validation set: random subjects and styles to choose a method on, so that the wide test stays unseen."""

from __future__ import annotations

import numpy as np

from miniature.catalogue import Entry, fresh_subject
from miniature.gallery import near_gallery, random_style
from miniature.styles import FAMILIES, DrawnStyle
from miniature.subjects import KINDS

SUBJECTS, STYLES = 10, 8
_SEED = (1811, 1)


def wide_validation() -> tuple[dict[str, Entry], dict[str, DrawnStyle]]:
    """Draw the set's subjects, each of another kind with a marking and an accessory, and its styles, each of another
    family. They are like those that the base was trained on, and near nothing that is held out for a test.
    """
    rng = np.random.default_rng(_SEED)
    kinds, families = rng.permutation(list(KINDS))[:SUBJECTS], rng.permutation(list(FAMILIES))[:STYLES]
    subjects = {}
    for kind in kinds:
        while (subject := fresh_subject(rng, str(kind))).marking == "plain" or subject.accessory == "none":
            pass
        subjects[f"{kind}_v1"] = Entry(subject, "validation")
    styles = {}
    for family in families:
        while near_gallery(style := random_style(rng, str(family))):
            pass
        styles[f"{family}_v1"] = style
    return subjects, styles
