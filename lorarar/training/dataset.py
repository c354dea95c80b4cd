"""A dataset of contents and styles: `DIR/dataset.json`, its images, its LoRA files and its splits. No toolchain.

A content is a subject with a rare token ("a sks dog"), a style has a description ("watercolour"); each has a few
reference images and one LoRA file, which need not exist yet: `lorarar train-lora --dataset` makes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lorarar.errors import InputError

DATASET_FILE = "dataset.json"
SCHEMA_VERSION = 1
PARTS = ("train", "validation", "test")
DEFAULT_SPLIT = "paper"
MAX_FILE = 16 * 2**20  # bytes; a dataset of a thousand contents needs less than one MiB


@dataclass(frozen=True)
class Content:
    """A subject. Paths are absolute; `lora` may not exist yet."""

    name: str
    class_name: str
    token: str
    group: str
    images: tuple[Path, ...]
    lora: Path

    @property
    def prompt(self) -> str:
        """The prompt of its reference images: the rare token, then the class (DreamBooth)."""
        return f"a {self.token} {self.class_name}"


@dataclass(frozen=True)
class Style:
    """A style. `image_class` is what its reference images show. Paths are absolute; `lora` may not exist yet."""

    name: str
    description: str
    group: str
    image_class: str
    images: tuple[Path, ...]
    lora: Path

    @property
    def prompt(self) -> str:
        """The prompt of its reference images."""
        return f"a {self.image_class} in {self.description} style"


@dataclass(frozen=True)
class Split:
    """Names by part (`train`, `validation`, `test`), contents and styles apart; a pair takes one of each."""

    contents: Mapping[str, tuple[str, ...]]
    styles: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Dataset:
    """What `dataset.json` says. `resolution` is the side of its images in pixels."""

    folder: Path
    name: str
    resolution: int
    contents: Mapping[str, Content]
    styles: Mapping[str, Style]
    splits: Mapping[str, Split]

    def split(self, name: str = DEFAULT_SPLIT) -> Split:
        """A split by its name; InputError when there is none of that name."""
        if name not in self.splits:
            valid = ", ".join(self.splits) or "none, so add one to its dataset.json"
            raise InputError(f"{self.folder}: the dataset has no split {name!r}; valid are {valid}")
        return self.splits[name]


def merged_prompt(content: Content, style: Style) -> str:
    """The prompt of a merge: the content's words in the style's (paper, appendix A1.3)."""
    return f"{content.prompt} in {style.description} style"


def read_dataset(folder: Path) -> Dataset:
    """Read and check `folder/dataset.json`.

    Raises InputError for whatever is wrong: a missing or damaged file, an unknown schema version, a missing or empty
    field, a duplicate name, an image that is not there, a path that leaves the folder, two entries with one LoRA file,
    a split with an unknown name or with one name in two parts.
    """
    path = folder / DATASET_FILE
    top = _Fields(_read_json(path), f"{path}: ")
    if top.raw.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path}: schema version {top.raw.get('schema_version')!r} is not known; this release reads "
            f"{SCHEMA_VERSION}: write the dataset again or update the toolkit"
        )
    contents = _by_name([_content(fields, folder) for fields in top.items("contents")], f"{path}: contents")
    styles = _by_name([_style(fields, folder) for fields in top.items("styles")], f"{path}: styles")
    _check_lora_files([*contents.values(), *styles.values()], path)
    splits = {
        name: Split(_parts(split.fields("contents"), contents), _parts(split.fields("styles"), styles))
        for name, split in top.fields("splits").children()
    }
    return Dataset(folder.resolve(), top.text("name"), top.positive("resolution"), contents, styles, splits)


class _Fields:
    """A JSON object with checked access; `where` says in errors which one it is."""

    def __init__(self, raw: Any, where: str) -> None:
        if not isinstance(raw, dict):
            raise InputError(f"{where}expected an object, got {_short(raw)}; see the format in the documentation")
        self.raw, self.where = raw, where

    def get(self, key: str) -> Any:
        if key not in self.raw:
            raise InputError(f"{self.where}the field {key!r} is missing; add it")
        return self.raw[key]

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise InputError(f"{self.where}{key!r} must be a text of one line that is not empty, not {_short(value)}")
        return value

    def positive(self, key: str) -> int:
        value = self.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{self.where}{key!r} must be a positive whole number, not {_short(value)}")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise InputError(f"{self.where}{key!r} must be a list of texts, not {_short(value)}")
        return tuple(value)

    def items(self, key: str) -> Iterator[_Fields]:
        value = self.get(key)
        if not isinstance(value, list):
            raise InputError(f"{self.where}{key!r} must be a list of objects, not {_short(value)}")
        for number, item in enumerate(value):
            name = item.get("name", number) if isinstance(item, dict) else number
            yield _Fields(item, f"{self.where}{key}[{name!r}]: ")

    def fields(self, key: str) -> _Fields:
        return _Fields(self.get(key), f"{self.where}{key}: ")

    def children(self) -> Iterator[tuple[str, _Fields]]:
        for key in self.raw:
            yield key, self.fields(key)


Entry = TypeVar("Entry", Content, Style)


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a folder that holds a {DATASET_FILE}")
    if path.stat().st_size > MAX_FILE:
        raise InputError(f"{path}: larger than {MAX_FILE >> 20} MiB, so it is not the description of a dataset")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); write it again") from None


def _content(fields: _Fields, folder: Path) -> Content:
    return Content(
        name=fields.text("name"),
        class_name=fields.text("class"),
        token=fields.text("token"),
        group=fields.text("group"),
        images=_images(fields, folder),
        lora=_lora(fields, folder),
    )


def _style(fields: _Fields, folder: Path) -> Style:
    return Style(
        name=fields.text("name"),
        description=fields.text("description"),
        group=fields.text("group"),
        image_class=fields.text("image_class"),
        images=_images(fields, folder),
        lora=_lora(fields, folder),
    )


def _images(fields: _Fields, folder: Path) -> tuple[Path, ...]:
    images = tuple(_inside(fields, folder, text) for text in fields.texts("images"))
    if not images:
        raise InputError(f"{fields.where}'images' is empty; give at least one reference image")
    for image in images:
        if not image.is_file():
            raise InputError(f"{fields.where}the image {image} does not exist; put it there or correct the path")
    return images


def _lora(fields: _Fields, folder: Path) -> Path:
    path = _inside(fields, folder, fields.text("lora"))
    if path.suffix != ".safetensors":
        raise InputError(f"{fields.where}'lora' must name a .safetensors file, not {path.name!r}")
    return path


def _inside(fields: _Fields, folder: Path, text: str) -> Path:
    """The absolute path of a relative one; links are followed before it is compared with the folder."""
    if not text.isprintable():  # a NUL or half a surrogate pair, which no file name can hold
        raise InputError(f"{fields.where}{_short(text)} is not a path")
    path = (folder / text).resolve()
    if Path(text).is_absolute() or not path.is_relative_to(folder.resolve()):
        raise InputError(f"{fields.where}{text!r} leaves the dataset's folder; give a path inside it")
    return path


def _by_name(entries: Sequence[Entry], where: str) -> dict[str, Entry]:
    named = {entry.name: entry for entry in entries}
    if len(named) < len(entries):
        names = [entry.name for entry in entries]
        double = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{where}: the name {double!r} occurs twice; give each its own")
    return named


def _check_lora_files(entries: Sequence[Content | Style], path: Path) -> None:
    owners: dict[Path, str] = {}
    for entry in entries:
        if entry.lora in owners:
            raise InputError(
                f"{path}: {owners[entry.lora]!r} and {entry.name!r} have the same LoRA file {entry.lora.name}; "
                "give each its own"
            )
        owners[entry.lora] = entry.name


def _parts(fields: _Fields, known: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Names by part; a part that is not given is empty."""
    unknown = [key for key in fields.raw if key not in PARTS]
    if unknown:
        raise InputError(f"{fields.where}unknown part {unknown[0]!r}; valid are {', '.join(PARTS)}")
    parts = {part: fields.texts(part) if part in fields.raw else () for part in PARTS}
    seen: dict[str, str] = {}
    for part, names in parts.items():
        for name in names:
            if name not in known:
                raise InputError(f"{fields.where}{part}: no entry is named {name!r}; valid are {', '.join(known)}")
            if name in seen:
                places = f"twice in {part}" if seen[name] == part else f"in {seen[name]} and in {part}"
                raise InputError(f"{fields.where}{name!r} is {places}; a name may be in one part only")
            seen[name] = part
    return parts


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
