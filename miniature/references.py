"""Write the miniature's datasets: reference images of held-out subjects and styles, and splits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from lorarar.files import atomic_file
from lorarar.training.dataset import DATASET_FILE, DEFAULT_SPLIT, SCHEMA_VERSION, SPLIT_PARTS, pair_folder
from miniature import catalogue, gallery
from miniature.buffers import SIZE
from miniature.catalogue import CATALOGUE, Entry, fresh_subject
from miniature.progress import Report, counted, silent
from miniature.scene import picture
from miniature.styles import FAMILIES, DrawnStyle
from miniature.subjects import describe
from miniature.wide_sets import wide_training, wide_validation

TOKEN = "sks"  # the rare token of DreamBooth; no caption of the population has it
REFERENCES = (4, 5, 6)  # images a subject, in turn
DRAWN = 2  # images a pair
HALVES = ("first-half", "second-half")  # splits of the wide test
_WIDE_SETS = {
    "validation": (wide_validation, ((1, 1814), (1, 1815))),
    "train": (wide_training, ((1, 1816), (1, 1817))),
}  # what is drawn, and the seeds of its pictures

# The paper's §A2.6, in the miniature's groups: what is trained on shares no group with what is tested on.
MACRO_SPLITS: Mapping[str, Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "objects-to-toys": {"train": (("object",), ("3d",)), "test": (("toy",), ("cartoon",))},
    "animals-to-objects": {
        "train": (("animal", "toy"), ("watercolor",)),
        "test": (("object",), ("abstract_rainbow", "wooden_sculpture", "melting_golden_rendering")),
    },
}


def write_dataset(folder: Path, seed: int) -> Path:
    """Draw the reference images and write dataset.json; LoRA files that are there stay."""
    paper = {
        "contents": {part: [name for name, entry in CATALOGUE.items() if entry.part == part] for part in SPLIT_PARTS},
        "styles": {part: list(gallery.SPLIT[part]) for part in SPLIT_PARTS},
    }
    splits = {DEFAULT_SPLIT: paper} | {name: _macro_split(parts) for name, parts in MACRO_SPLITS.items()}
    return _write_dataset(folder, "miniature", CATALOGUE, gallery.GALLERY, splits, (seed, 1), (seed, 2))


def write_wide_dataset(folder: Path, seed: int, part: str = "test") -> Path:
    """Do the same for the wide test, 24 subjects × 24 styles, the wide validation or the wide training; its splits have
    that part alone. The test's subjects are also halved, for those who draw it in two sittings.

    The drawings of validation and training are the same for every seed.
    """
    subjects, styles = wide_sides(part)
    streams = ((seed, 4), (seed, 5)) if part == "test" else _WIDE_SETS[part][1]
    names, half = list(subjects), len(subjects) // 2
    halves = dict(zip(HALVES, (names[:half], names[half:]), strict=True)) if part == "test" else {}
    kept = {DEFAULT_SPLIT: names} | halves
    splits = {split: _only(part, contents=chosen, styles=list(styles)) for split, chosen in kept.items()}
    name = "miniature-wide" + ("" if part == "test" else f"-{part}")
    return _write_dataset(folder, name, subjects, styles, splits, *streams)


def wide_sides(part: str) -> tuple[Mapping[str, Entry], Mapping[str, DrawnStyle]]:
    """Return the subjects and the styles of the wide test, validation or training, by name."""
    return (catalogue.WIDE, gallery.WIDE) if part == "test" else _WIDE_SETS[part][0]()


def _only(part: str, **sides: list[str]) -> dict[str, dict[str, list[str]]]:
    return {side: {each: names if each == part else [] for each in SPLIT_PARTS} for side, names in sides.items()}


def style_words() -> tuple[str, ...]:
    """Return the descriptions of the training part's styles, each once: subjects' LoRAs are trained under them."""
    return tuple(dict.fromkeys(FAMILIES[gallery.GALLERY[name].family].description for name in gallery.SPLIT["train"]))


def write_pairs(folder: Path, seed: int, report: Report = silent) -> Path:
    """Draw every training subject in every training style, and the validation ones, for the merging loss's joint term.

    No pair of the test is drawn. The folder has one folder a pair, as the images of an evaluation.
    """
    sides = {
        part: ([name for name, entry in CATALOGUE.items() if entry.part == part], gallery.SPLIT[part])
        for part in ("train", "validation")
    }
    pairs = [pair for names in sides.values() for pair in product(*names)]
    for number, (content, style) in enumerate(counted(pairs, len(pairs), "drawing pairs", report)):
        rng = np.random.default_rng((seed, 7, number))
        for index in range(DRAWN):
            image = picture(CATALOGUE[content].subject, gallery.GALLERY[style], rng)
            _write(pair_folder(folder, content, style), f"{index:02d}.png", image)
    return folder


def _write_dataset(
    folder: Path,
    name: str,
    subjects: Mapping[str, Entry],
    drawn: Mapping[str, DrawnStyle],
    splits: Mapping[str, Any],
    content_seed: tuple[int, int],
    style_seed: tuple[int, int],
) -> Path:
    contents = [_content(folder, *item, (*content_seed, number)) for number, item in enumerate(subjects.items())]
    styles = [_style(folder, *item, (*style_seed, number)) for number, item in enumerate(drawn.items())]
    described = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "resolution": SIZE,
        "contents": contents,
        "styles": styles,
        "splits": splits,
    }
    path = folder / DATASET_FILE
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    return path


def _content(folder: Path, name: str, entry: Entry, seed: tuple[int, ...]) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    paths = [f"images/contents/{name}_{index}.png" for index in range(REFERENCES[seed[-1] % len(REFERENCES)])]
    return {
        "name": name,
        "class": entry.subject.kind,
        "token": TOKEN,
        "group": entry.group,
        "images": [_write(folder, path, picture(entry.subject, None, rng)) for path in paths],
        "lora": f"loras/contents/{name}.safetensors",
    }


def _style(folder: Path, name: str, style: DrawnStyle, seed: tuple[int, ...]) -> dict[str, Any]:
    """Draw one image of a random subject, as a style's reference shows something that nobody asks for."""
    rng = np.random.default_rng(seed)
    subject = fresh_subject(rng)
    image = picture(subject, style, rng)
    return {
        "name": name,
        "description": FAMILIES[style.family].description,
        "group": FAMILIES[style.family].group,
        # The more of the picture the prompt explains, the less of it the LoRA takes for the style.
        "image_class": describe(subject),
        "images": [_write(folder, f"images/styles/{name}.png", image)],
        "lora": f"loras/styles/{name}.safetensors",
    }


def _write(folder: Path, name: str, image: UInt8[np.ndarray, "size size 3"]) -> str:
    with atomic_file(folder / name) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")
    return name


def _macro_split(parts: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]) -> dict[str, Any]:
    """Make a split by groups (or names); it has no validation, as the paper keeps its settings for these."""
    contents = {name: entry.group for name, entry in CATALOGUE.items()}
    styles = {name: FAMILIES[style.family].group for name, style in gallery.GALLERY.items()}
    split: dict[str, dict[str, list[str]]] = {"contents": {}, "styles": {}}
    for part, wanted in parts.items():
        for side, groups, names in zip(split, (contents, styles), wanted, strict=True):
            split[side][part] = [name for name, group in groups.items() if name in names or group in names]
    return {side: chosen | {"validation": []} for side, chosen in split.items()}
