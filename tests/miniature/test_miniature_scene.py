"""Drawings of the miniature world: an identity survives poses, views, and what is worn; nothing leaves the picture."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miniature.backdrops import BACKDROPS
from miniature.buffers import BACKGROUND, CANVAS, GROUND, Buffers
from miniature.figure import frame
from miniature.markings import FINEST, MARKING_SHAPES, marking_outlines
from miniature.scene import BODIES, View, draw, sample_view
from miniature.subjects import (
    COLOURS,
    CONTRAST,
    DETAILS,
    KINDS,
    MARKINGS,
    RGB,
    Subject,
    colour_name,
    describe,
    distance,
    sample_subject,
)

KIND_NAMES = list(KINDS)
# Colours that nothing else in a drawing has.
MARKER: RGB = (0.111, 0.222, 0.333)
OTHER_MARKER: RGB = (0.333, 0.111, 0.222)

seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(KIND_NAMES)


def example(kind: str, seed: int) -> tuple[Subject, View]:
    rng = np.random.default_rng(seed)
    return sample_subject(rng, kind), sample_view(rng)


def has_colour(drawing: Buffers, colour: RGB) -> np.ndarray:
    return (drawing.albedo == np.float32(colour)).all(-1)


def colours(drawing: Buffers, among: np.ndarray, least: float = 1) -> set[tuple[float, ...]]:
    """Colours of at least so many pixels."""
    rows, counts = np.unique(drawing.albedo[among], axis=0, return_counts=True)
    return {tuple(map(float, row)) for row in rows[counts >= least]}


def same(first: Buffers, second: Buffers) -> bool:
    return all(
        getattr(first, name).tobytes() == getattr(second, name).tobytes() for name in ("part", "albedo", "height")
    )


def test_every_kind_has_a_body_and_every_marking_a_shape() -> None:
    assert set(BODIES) == set(KINDS)
    assert set(MARKING_SHAPES) == set(MARKINGS) - {"plain"}
    assert {kind.group for kind in KINDS.values()} == {"animal", "object", "toy"}


@settings(max_examples=40)
@given(kinds, seeds)
def test_same_subject_and_view_give_the_same_bytes(kind: str, seed: int) -> None:
    assert example(kind, seed) == example(kind, seed)
    assert same(draw(*example(kind, seed)), draw(*example(kind, seed)))


@settings(max_examples=150)
@given(kinds, seeds)
def test_a_subject_stays_inside_and_fills_the_picture(kind: str, seed: int) -> None:
    drawing = draw(*example(kind, seed))
    assert drawing.part.shape == drawing.height.shape == (CANVAS, CANVAS)
    assert drawing.albedo.shape == (CANVAS, CANVAS, 3)
    assert drawing.albedo.min() >= 0 and drawing.albedo.max() <= 1
    assert drawing.height.min() >= 0 and drawing.height.max() <= 1
    rim = np.ones((CANVAS, CANVAS), bool)
    rim[1:-1, 1:-1] = False
    assert not drawing.subject[rim].any()
    assert drawing.subject.mean() >= 0.15
    # The subject is raised above what is around it, but for its edge, where the relief is reduced and enlarged.
    assert np.median(drawing.height[drawing.subject]) > 0.3
    assert np.median(drawing.height[~drawing.subject]) == 0


@settings(max_examples=40)
@given(kinds, seeds)
def test_flip_mirrors_the_picture(kind: str, seed: int) -> None:
    subject, view = example(kind, seed)
    left, right = (draw(subject, replace(view, flip=flip)) for flip in (False, True))
    for name in ("part", "albedo", "height"):
        np.testing.assert_array_equal(getattr(left, name)[:, ::-1], getattr(right, name))


@pytest.mark.parametrize(
    ("kind", "marking"),
    [(kind, marking) for kind in KINDS for marking in MARKING_SHAPES if marking not in KINDS[kind].hides],
)
def test_a_marking_takes_a_fair_share_of_the_body_and_stays_inside_it(kind: str, marking: str) -> None:
    for seed in range(3):
        subject, view = example(kind, seed)
        subject = replace(subject, body=OTHER_MARKER, marking_colour=MARKER, marking=marking, accessory="none")
        plain, marked = draw(replace(subject, marking="plain"), view), draw(subject, view)
        painted = has_colour(marked, MARKER)
        body = has_colour(plain, OTHER_MARKER)
        assert not (painted & ~body).any()
        assert 0.03 < painted.sum() / body.sum() < 0.75
        np.testing.assert_array_equal(plain.albedo[~painted], marked.albedo[~painted])
        np.testing.assert_array_equal(plain.height, marked.height)
        assert len(np.unique(marked.part[painted])) == 1
        assert not np.isin(marked.part[painted][0], plain.part)


@pytest.mark.parametrize("marking", ["spots", "stars"])
def test_a_marking_is_not_distorted_by_a_long_body(marking: str) -> None:
    for outline in marking_outlines(marking, frame(0, 0, 0.9, 0.3)):
        width, height = np.ptp(outline, axis=0)
        assert width == pytest.approx(height, rel=0.1)
        assert width >= 2 * FINEST * 0.9


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_an_accessory_changes_only_its_own_region(kind: str) -> None:
    for seed, accessory in enumerate(KINDS[kind].accessories):
        subject, view = example(kind, seed)
        bare, worn = (draw(replace(subject, accessory=name), view) for name in ("none", accessory))
        changed = bare.part != worn.part
        assert 0.003 < changed.mean() < 0.15
        assert worn.part[changed].min() > bare.part.max()
        np.testing.assert_array_equal(bare.albedo[~changed], worn.albedo[~changed])
        # It touches the subject: nothing is worn in mid-air.
        assert (changed & bare.subject).any()


@settings(max_examples=60)
@given(kinds, seeds)
def test_another_pose_changes_the_parts_but_not_the_colours(kind: str, seed: int) -> None:
    subject, view = example(kind, seed)
    first, second = (draw(subject, replace(view, pose=pose)) for pose in (0.1, 0.72))
    assert (first.part != second.part).mean() > 0.01
    # Of a boot's shaded part, which its hat covers in the other pose, a pixel or two may look out.
    for one, other in ((first, second), (second, first)):
        seen = colours(one, one.subject, least=one.subject.sum() / 1000)
        assert len(seen) > 1 and seen <= colours(other, other.subject)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_two_subjects_of_a_kind_look_different(kind: str) -> None:
    rng = np.random.default_rng(5)
    view = sample_view(rng)
    drawings = [draw(sample_subject(rng, kind), view) for _ in range(4)]
    for first, second in combinations(drawings, 2):
        both = first.subject | second.subject
        assert (np.abs(first.albedo - second.albedo).max(-1) > 0.15)[both].mean() > 0.3


@pytest.mark.parametrize("backdrop", BACKDROPS)
def test_a_backdrop_is_softer_than_subjects_are(backdrop: str) -> None:
    for seed in range(5):
        subject, view = example("dog", seed)
        drawing = draw(subject, replace(view, backdrop=replace(view.backdrop, kind=backdrop)))
        behind = drawing.albedo[~drawing.subject]
        assert np.ptp(behind, axis=1).max() <= 0.31
        assert set(np.unique(drawing.part[~drawing.subject])) <= {BACKGROUND, GROUND}
        assert (drawing.part == BACKGROUND).any()


def test_a_subjects_colours_stand_apart() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        subject = sample_subject(rng)
        assert distance(subject.body, subject.second) > CONTRAST
        assert distance(subject.body, subject.marking_colour) > CONTRAST
        assert min(distance(subject.accessory_colour, other) for other in (subject.body, subject.second)) > CONTRAST
        assert subject.marking in MARKINGS and subject.marking not in KINDS[subject.kind].hides
        assert subject.accessory in ("none", *KINDS[subject.kind].accessories)


def test_colours_have_one_word_each_and_can_be_told_apart() -> None:
    assert all(name.isalpha() and colour_name(rgb) == name for name, rgb in COLOURS.items())
    assert min(distance(first, second) for first, second in combinations(COLOURS.values(), 2)) > 0.19


def test_descriptions() -> None:
    red, yellow, white, blue = (COLOURS[name] for name in ("red", "yellow", "white", "blue"))
    subject = Subject("dog", (0.5,) * 4, red, yellow, "spots", white, "hat", blue)
    assert describe(subject) == "red dog with yellow ears, white spots and a blue hat"
    assert describe(subject, ("accessory", "body")) == "red dog with a blue hat"
    assert describe(subject, ("marking", "accessory")) == "dog with white spots and a blue hat"
    assert describe(subject, ()) == "dog"
    plain = replace(subject, marking="plain", accessory="none")
    assert describe(plain, [name for name in DETAILS if name != "second"]) == "red dog"
    orange = replace(subject, marking="zigzag", accessory="crown", accessory_colour=COLOURS["orange"])
    assert describe(orange, ("marking", "accessory")) == "dog with a white zigzag and an orange crown"
    assert describe(replace(subject, accessory="glasses"), ["accessory"]) == "dog with blue glasses"
