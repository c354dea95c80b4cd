"""The miniature's styles: each really changes the picture, keeps the subject readable, and stays out of the gallery."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from miniature import styles_tools as tools
from miniature.buffers import BACKGROUND, CANVAS, GROUND, SIZE, Buffers
from miniature.gallery import GALLERY, SPLIT, WIDE, near_gallery
from miniature.population import sample_style
from miniature.styles import FAMILIES, DrawnStyle, plain, random_style, reduce, render
from miniature.styles_palette import Palette, tone

MARKING = GROUND + 2
MARKING_CONTRAST = 0.06
"""Least mean difference, of at most 1, that a marking makes to the picture on it and at its border."""


def scene(body: tuple[float, float, float] = (0.75, 0.45, 0.3), shift: int = 0) -> Buffers:
    """A round body with two spots, on ground, before a sky."""
    rows, cols = np.mgrid[:CANVAS, :CANVAS]
    part = np.where(rows > 140, GROUND, BACKGROUND)
    albedo = np.where((rows > 140)[..., None], (0.45, 0.6, 0.35), (0.65, 0.8, 0.9)).astype(np.float32)
    height = np.zeros((CANVAS, CANVAS), np.float32)
    squared = ((rows - 100) / 55) ** 2 + ((cols - 96 - shift) / 60) ** 2
    inside = squared < 1
    part[inside], albedo[inside], height[inside] = GROUND + 1, body, 0.3 + 0.6 * np.sqrt(1 - squared[inside])
    for col in (72, 118):
        spot = ((rows - 96) / 17) ** 2 + ((cols - col - shift) / 15) ** 2 < 1
        part[spot], albedo[spot] = MARKING, (0.25, 0.2, 0.55)
    return Buffers(part, albedo, height)


def styles_of(family: str, count: int = 3) -> list[DrawnStyle]:
    return [random_style(np.random.default_rng(seed), family) for seed in range(count)]


def picture(buffers: Buffers, style: DrawnStyle, seed: int = 0) -> np.ndarray:
    return render(buffers, style, np.random.default_rng(seed))


def image(buffers: Buffers, style: DrawnStyle, seed: int = 0) -> np.ndarray:
    return reduce(picture(buffers, style, seed)) / 255


def statistics(shown: np.ndarray) -> np.ndarray:
    """What of a style does not depend on where strokes fall: means, deviations, and detail at three scales."""
    detail = []
    for sigma in (0.7, 1.5, 3.0):
        soft = ndimage.gaussian_filter(shown, (sigma, sigma, 0))
        detail.append((shown - soft).std((0, 1)) * 3)
        shown = soft
    return np.concatenate((shown.mean((0, 1)), shown.std((0, 1)), *detail))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_style_draws_in_range_and_the_same_again(family: str) -> None:
    for style in styles_of(family):
        first = picture(scene(), style, 5)
        assert first.shape == (CANVAS, CANVAS, 3)
        assert np.isfinite(first).all()
        assert first.min() >= 0
        assert first.max() <= 1
        assert np.array_equal(first, picture(scene(), style, 5))


def test_drawing_leaves_the_scene_as_it_was() -> None:
    buffers = scene()
    kept = [array.copy() for array in (buffers.part, buffers.albedo, buffers.height)]
    for family in FAMILIES:
        picture(buffers, styles_of(family, 1)[0])
    for before, after in zip(kept, (buffers.part, buffers.albedo, buffers.height), strict=True):
        assert np.array_equal(before, after)


@pytest.mark.parametrize("family", FAMILIES)
def test_black_and_white_scenes_do_not_break_a_style(family: str) -> None:
    for value in (0.0, 1.0):
        buffers = scene()
        flat = replace(buffers, albedo=np.full_like(buffers.albedo, value))
        for style in styles_of(family):
            assert np.isfinite(picture(flat, style)).all()


def test_families_differ_far_more_than_two_pictures_of_a_style() -> None:
    """In one palette, so that technique alone must tell them apart."""
    palette = Palette(((0.1, 0.1, 0.2), (0.5, 0.4, 0.6), (0.95, 0.9, 0.85)), (0.9, 0.88, 0.8), 0.4)
    shown: dict[str, list[np.ndarray]] = {}
    for family in FAMILIES:
        style = replace(styles_of(family, 1)[0], palette=palette)
        shown[family] = [statistics(image(scene(shift=4 * seed), style, seed)) for seed in range(3)]
    within = {family: max(np.abs(a - b).sum() for a in some for b in some) for family, some in shown.items()}
    for family, others in ((one, [two for two in FAMILIES if two != one]) for one in FAMILIES):
        between = [np.abs(shown[family][0] - shown[other][0]).sum() for other in others]
        assert min(between) > 1.2 * within[family], (family, others[int(np.argmin(between))])
        assert np.median(between) > 4 * within[family], family


@pytest.mark.parametrize("family", FAMILIES)
def test_a_style_is_more_than_a_tint(family: str) -> None:
    """No function of a pixel's own colour makes the picture from the photograph: much is left over."""
    photo = (reduce(plain(scene())) / 255).reshape(-1, 3)
    terms = np.concatenate((np.ones((len(photo), 1)), photo, photo**2, photo[:, :1] * photo[:, 1:]), 1)
    for style in styles_of(family):
        shown = image(scene(), style).reshape(-1, 3)
        left = shown - terms @ np.linalg.lstsq(terms, shown, rcond=None)[0]
        assert left.std() > 0.025


def marking_contrast(style: DrawnStyle) -> float:
    """Mean difference, on the spots and 3 pixels around, between the body with its spots and without."""
    spotted, bare = scene(), scene()
    spots = spotted.part == MARKING
    bare.part[spots] = GROUND + 1
    bare.albedo[spots] = bare.albedo[100, 96]
    difference = np.abs(picture(spotted, style) - picture(bare, style)).mean(-1)
    return float(difference[ndimage.binary_dilation(spots, iterations=3)].mean())


@pytest.mark.parametrize("family", FAMILIES)
def test_markings_stay_visible(family: str) -> None:
    for style in styles_of(family, 6):
        assert marking_contrast(style) > MARKING_CONTRAST


@pytest.mark.parametrize("name", GALLERY)
def test_markings_stay_visible_in_the_gallery(name: str) -> None:
    assert marking_contrast(GALLERY[name]) > MARKING_CONTRAST


@pytest.mark.parametrize("family", FAMILIES)
def test_the_background_is_drawn_in_the_style_too(family: str) -> None:
    buffers = scene()
    behind = ~ndimage.binary_dilation(buffers.subject, iterations=12)
    for style in styles_of(family):
        assert np.abs(picture(buffers, style) - plain(buffers))[behind].mean() > 0.06


@pytest.mark.parametrize("family", FAMILIES)
def test_two_styles_of_a_family_look_different(family: str) -> None:
    first, second = styles_of(family, 2)
    own = np.abs(statistics(image(scene(), first, 0)) - statistics(image(scene(), first, 1))).sum()
    assert np.abs(statistics(image(scene(), first)) - statistics(image(scene(), second))).sum() > 2 * own


def test_the_gallery_has_the_papers_counts() -> None:
    assert len(GALLERY) == 26
    assert {part: len(names) for part, names in SPLIT.items()} == {"train": 18, "validation": 3, "test": 5}
    assert Counter(name for names in SPLIT.values() for name in names) == Counter(list(GALLERY))
    groups = {FAMILIES[GALLERY[name].family].group for name in SPLIT["test"]}
    assert groups == {"3d", "oil", "watercolor", "cartoon", "light"}
    assert len({style.family for style in WIDE.values()}) == len(WIDE) == 24
    for style in (*GALLERY.values(), *WIDE.values()):
        ranges = FAMILIES[style.family].ranges
        assert style.params.keys() == ranges.keys()
        assert all(low <= style.params[key] <= high for key, (low, high) in ranges.items())


def test_gallery_styles_differ_from_one_another() -> None:
    shown = {name: [statistics(image(scene(), style, seed)) for seed in range(2)] for name, style in GALLERY.items()}
    for name, (first, again) in shown.items():
        nearest = min(np.abs(first - other[0]).sum() for kept, other in shown.items() if kept != name)
        assert nearest > 3 * np.abs(first - again).sum(), name


def test_a_held_out_style_is_near_itself_and_a_far_one_is_not() -> None:
    for style in GALLERY.values():
        assert near_gallery(style)
        moved = {key: value * 1.01 for key, value in style.params.items()}
        assert near_gallery(replace(style, params=moved))
        other = Palette(((0.0, 0.3, 0.0), (0.1, 0.9, 0.1), (0.5, 1.0, 0.5)), (0.0, 0.0, 0.0), 1.0, 0.2, 1.5)
        assert not near_gallery(replace(style, palette=other)) or style.palette.distance(other) < 0.4


@settings(max_examples=200)
@given(st.integers(0, 2**63))
def test_the_population_keeps_away_from_the_gallery(seed: int) -> None:
    style = sample_style(np.random.default_rng(seed))
    assert not near_gallery(style)
    ranges = FAMILIES[style.family].ranges
    assert all(low <= style.params[key] <= high for key, (low, high) in ranges.items())


def test_the_population_has_every_family_evenly() -> None:
    rng = np.random.default_rng(0)
    counts = Counter(sample_style(rng).family for _ in range(2600))
    assert counts.keys() == FAMILIES.keys()
    assert min(counts.values()) > 60


def test_descriptions_are_distinct_captions() -> None:
    texts = [family.description for family in FAMILIES.values()]
    assert len(set(texts)) == len(texts) == 26


@pytest.mark.parametrize("name", ["line_drawing", "woodcut", "black_statue", "glowing", "abstract_rainbow"])
def test_contours_show_a_marking_of_the_bodys_own_tone(name: str) -> None:
    """Styles without the subject's colours draw markings as lines, whatever their colour."""
    spotted = scene()
    spotted.albedo[spotted.part == MARKING] = spotted.albedo[100, 96]
    bare = replace(spotted, part=np.where(spotted.part == MARKING, GROUND + 1, spotted.part))
    difference = np.abs(picture(spotted, GALLERY[name]) - picture(bare, GALLERY[name])).mean(-1)
    assert difference[tools.borders(spotted.part) > tools.borders(bare.part)].mean() > 0.1


def test_reduce_takes_the_mean_of_each_block() -> None:
    fine = np.zeros((CANVAS, CANVAS, 3), np.float32)
    fine[0, 0] = 1.0
    small = reduce(fine)
    assert small.shape == (SIZE, SIZE, 3)
    assert small[0, 0].tolist() == [64, 64, 64]
    assert not small[1:].any()
    with pytest.raises(ValueError, match="a picture has shape"):
        reduce(fine[:4, :4])


def test_a_palette_of_strength_one_leaves_only_the_inks() -> None:
    colours = np.random.default_rng(0).random((50, 3)).astype(np.float32)
    inks = ((0.1, 0.0, 0.2), (0.9, 0.8, 0.7))
    full = Palette(inks, (1.0, 1.0, 1.0), 1.0).apply(colours)
    expected = np.outer(1 - tone(colours), inks[0]) + np.outer(tone(colours), inks[1])
    assert np.allclose(full, expected, atol=1e-5)
    assert np.allclose(Palette(inks, (1.0, 1.0, 1.0), 0.0).apply(colours), colours, atol=1e-6)


def test_cells_cover_the_canvas_and_roll_with_their_centres() -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        for cells in (tools.tiles(rng, 12, 0.5), tools.strokes(rng, 24, 7, 0.6, 1.0), tools.grid(10)):
            assert cells.label.min() >= 0
            assert cells.label.max() < len(cells.rows)
            rows = tools.ROWS - cells.rows[cells.label]
            away = np.abs((rows + CANVAS / 2) % CANVAS - CANVAS / 2)
            assert np.quantile(away, 0.99) < 14
