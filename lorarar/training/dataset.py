"""Read a dataset of contents and styles: `DIR/dataset.json`, its images, LoRA files and splits. No toolchain.

A content is a subject with a rare token ("a sks dog"), a style has a description ("watercolour"); each has a few
reference images and one LoRA file, which need not exist yet: `lorarar train-lora --dataset` makes it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lorarar.composed import ComposedStart
from lorarar.errors import InputError, first_of
from lorarar.files import package_schema, read_json, resolved
from lorarar.training.style_words import in_style

DATASET_FILE = "dataset.json"
SCHEMA_VERSION = 1
SPLIT_PARTS = ("train", "validation", "test")
DEFAULT_SPLIT = "paper"
MAX_FILE = 16 * 2**20  # bytes; a dataset of a thousand contents needs less than one MiB
JOINED = " + "  # between the names of datasets that were trained on as one


@dataclass(frozen=True)
class Content:
    """A subject that a LoRA has learned or will learn. Paths are absolute; `lora` may not exist yet."""

    name: str
    class_name: str
    token: str
    group: str
    images: tuple[Path, ...]
    lora: Path

    @property
    def prompt(self) -> str:
        """Return the prompt of its reference images: the rare token, then the class (DreamBooth)."""
        return f"a {self.token} {self.class_name}"

    @property
    def class_prompt(self) -> str:
        """Return the same without the token: what the subject is."""
        return f"a {self.class_name}"


@dataclass(frozen=True)
class Style:
    """A style, as `Content` is a subject; `image_class` is what its reference images show."""

    name: str
    description: str
    group: str
    image_class: str
    images: tuple[Path, ...]
    lora: Path

    @property
    def prompt(self) -> str:
        """Return the prompt of its reference images."""
        return in_style(f"a {self.image_class}", self.description)


@dataclass(frozen=True)
class Split:
    """The names of each part (`train`, `validation`, `test`), contents and styles apart; a pair takes one of each."""

    contents: Mapping[str, tuple[str, ...]]
    styles: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Dataset:
    """A dataset as its `dataset.json` describes it. `resolution` is the side of its images in pixels."""

    folder: Path
    name: str
    resolution: int
    contents: Mapping[str, Content]
    styles: Mapping[str, Style]
    splits: Mapping[str, Split]

    def split(self, name: str = DEFAULT_SPLIT) -> Split:
        """Return a split by its name; InputError when there is none of that name."""
        if name not in self.splits:
            valid = ", ".join(self.splits) or "none, so add one to its dataset.json"
            raise InputError(f"{self.folder}: the dataset has no split {name!r}; valid are {valid}")
        return self.splits[name]

    def part(self, split: str, part: str) -> tuple[list[Content], list[Style]]:
        """Return the contents and styles of a split's part; InputError as `split`."""
        names = self.split(split)
        contents = [self.contents[name] for name in names.contents[part]]
        return contents, [self.styles[name] for name in names.styles[part]]

    def trained_on(self, split: str) -> list[Content | Style]:
        """Return all that a training reads: the contents and styles of a split's training and validation parts."""
        return [entry for part in ("train", "validation") for role in self.part(split, part) for entry in role]

    def check_loras(self, entries: Iterable[Content | Style]) -> None:
        """Refuse entries whose LoRA files are not all there, naming them."""
        asked = dict.fromkeys(entries)
        missing = [entry.name for entry in asked if not entry.lora.is_file()]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(asked)} LoRA files are missing ({first_of(missing, 5)}); make them with  "
                f"lorarar train-lora --dataset {self.folder}"
            )


def joined(datasets: Sequence[Dataset], split: str) -> Dataset:
    """Join datasets for a training: one that has the entries of all, and each part of their splits of one name.

    Raises InputError for datasets of several resolutions, a name that two of them have, LoRA files of the training and
    validation parts that are missing, and as `Dataset.split`.
    """
    contents: dict[str, Content] = {}
    styles: dict[str, Style] = {}
    first = datasets[0]
    for dataset in datasets:
        if dataset.resolution != first.resolution:
            raise InputError(
                f"{dataset.folder}: its images have {dataset.resolution} pixels a side, those of {first.folder} "
                f"{first.resolution}; join datasets of one resolution"
            )
        twice = [name for name in (*dataset.contents, *dataset.styles) if name in contents or name in styles]
        if twice:
            raise InputError(f"{dataset.folder}: another dataset has an entry {twice[0]!r} too; give each its own name")
        trained = dataset.trained_on(split)
        if not trained:
            raise InputError(f"{dataset.folder}: its split {split!r} has no training or validation part; leave it out")
        dataset.check_loras(trained)
        contents |= dataset.contents
        styles |= dataset.styles
    splits = [dataset.split(split) for dataset in datasets]
    whole = Split(_all_parts([each.contents for each in splits]), _all_parts([each.styles for each in splits]))
    name = JOINED.join(dataset.name for dataset in datasets)
    return Dataset(first.folder, name, first.resolution, contents, styles, {split: whole})


def _all_parts(sides: Sequence[Mapping[str, tuple[str, ...]]]) -> dict[str, tuple[str, ...]]:
    return {part: tuple(name for side in sides for name in side[part]) for part in SPLIT_PARTS}


def merged_prompt(content: Content, style: Style) -> str:
    """Return the prompt of a merge: the content's words in the style's (paper, appendix A1.3)."""
    return in_style(content.prompt, style.description)


def composed_prompts(content: Content, style: Style) -> tuple[str, str, str]:
    """Return the prompts whose predictions are composed: the content's own, its class in the style, its class."""
    return ComposedStart(content.prompt, content.class_prompt).prompts(merged_prompt(content, style))


def pair_folder(folder: Path, content: str, style: str) -> Path:
    """Return where a pair's images lie among those of many pairs."""
    return folder / f"{safe_name(content)}--{safe_name(style)}"


def safe_name(name: str) -> str:
    """Return a dataset's name as a folder's: odd characters become `_`, and a few digits keep two such names apart.

    Odd is as well a `-` that would be taken for a part of the `--` between two names.
    """
    plain = re.sub(r"[^A-Za-z0-9_.-]|^-|-$|-(?=-)", "_", name).lstrip(".")
    return plain if plain == name else f"{plain or '_'}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def read_dataset(folder: Path) -> Dataset:
    """Read and check `folder/dataset.json`.

    Raises InputError for whatever breaks its schema, a name that two entries have, an image that is not there, a path
    that leaves the folder, two entries with one LoRA file, a split with an unknown name or with one name in two parts.
    """
    path = folder / DATASET_FILE
    data = read_json(
        path,
        what="the description of a dataset",
        mend=f"give a folder that holds a {DATASET_FILE} of this release's format",
        schema=package_schema(__package__, "dataset.schema.json"),
        limit=MAX_FILE,
    )
    _check_printable(data, path)
    keys = ("name", "class", "token", "group")
    contents = _entries(Content, keys, data["contents"], folder, f"{path}: contents")
    keys = ("name", "description", "group", "image_class")
    styles = _entries(Style, keys, data["styles"], folder, f"{path}: styles")
    _check_lora_files([*contents.values(), *styles.values()], path)
    for name in contents:
        if name in styles:
            raise InputError(f"{path}: a content and a style are both named {name!r}; give each its own name")
    splits = {}
    for name, split in data["splits"].items():
        where = f"{path}: splits: {name}"
        of_contents = _parts(split["contents"], contents, f"{where}: contents")
        splits[name] = Split(of_contents, _parts(split["styles"], styles, f"{where}: styles"))
    return Dataset(folder.resolve(), data["name"], int(data["resolution"]), contents, styles, splits)


Entry = TypeVar("Entry", Content, Style)


def _check_printable(data: Any, path: Path) -> None:
    """Refuse texts of several lines, or with what no file name can hold (a NUL, half a surrogate pair)."""
    left = [data]
    while left:
        item = left.pop()
        if isinstance(item, str) and not item.isprintable():
            raise InputError(f"{path}: {item[:60]!r} has characters that can't be printed; give a text of one line")
        left += [*item, *item.values()] if isinstance(item, dict) else item if isinstance(item, list) else []


def _entries(
    kind: Callable[..., Entry], keys: Sequence[str], items: Sequence[Mapping[str, Any]], folder: Path, where: str
) -> dict[str, Entry]:
    """Return contents or styles by name, with absolute paths; `keys` are those of the texts, in the fields' order."""
    named: dict[str, Entry] = {}
    for item in items:
        name, place = item["name"], f"{where}: {item['name']}"
        images = tuple(_inside(folder, text, place) for text in item["images"])
        for image in images:
            if not image.is_file():
                raise InputError(f"{place}: the image {image} does not exist; put it there or correct the path")
        if name in named:
            raise InputError(f"{where}: the name {name!r} occurs twice; give each its own")
        named[name] = kind(*(item[key] for key in keys), images, _inside(folder, item["lora"], place))
    return named


def _inside(folder: Path, text: str, where: str) -> Path:
    """Return the absolute path of a relative one; links are followed before it is compared with the folder."""
    path = resolved(folder / text)
    if Path(text).is_absolute() or not path.is_relative_to(folder.resolve()):
        raise InputError(f"{where}: {text!r} leaves the dataset's folder; give a path inside it")
    return path


def _check_lora_files(entries: Sequence[Content | Style], path: Path) -> None:
    owners: dict[Path, str] = {}
    for entry in entries:
        if entry.lora in owners:
            raise InputError(
                f"{path}: {owners[entry.lora]!r} and {entry.name!r} have the same LoRA file {entry.lora.name}; "
                "give each its own"
            )
        owners[entry.lora] = entry.name


def _parts(raw: Mapping[str, Sequence[str]], known: Mapping[str, Any], where: str) -> dict[str, tuple[str, ...]]:
    """Return the names by part; a part that is not given is empty."""
    parts = {part: tuple(raw.get(part, ())) for part in SPLIT_PARTS}
    seen: dict[str, str] = {}
    for part, names in parts.items():
        for name in names:
            if name not in known:
                raise InputError(f"{where}: {part}: no entry is named {name!r}; valid are {', '.join(known)}")
            if name in seen:
                raise InputError(f"{where}: {name!r} is in {seen[name]} and in {part}; a name may be in one part only")
            seen[name] = part
    return parts
