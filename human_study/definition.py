"""Read what a study shows: `study.json` and its images, in one folder that can be copied to another machine.

    {"schema_version": 1, "question": "…", "case": "random", "seed": 0, "methods": ["learned", "ziplora"],
     "example": {"subject_reference", "style_reference", "options": [path, path], "better": 2, "explanation": "…"},
     "tasks": [{"id", "subject_reference", "style_reference", "images": {"learned": path, "ziplora": path},
                "accepted": {"learned": true, "ziplora": false}}]}

Paths are relative to the folder and may not leave it. `accepted` (MARS² accepts the image shown) may be left out.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lorarar.errors import InputError
from lorarar.files import package_schema, read_json, resolved
from lorarar.images import open_image

SCHEMA_VERSION = 1
STUDY_FILE = "study.json"
MAX_JSON = 4 << 20  # bytes; a task takes about 300
DISPLAY_SIZE = 1024  # pixels of the longer side of an image; SDXL's are shown as they are
QUESTION = "Which option better shows this subject in this style?"


@dataclass(frozen=True)
class Task:
    """One comparison. `images` and `accepted` have one entry for each of the study's two methods."""

    id: str
    subject_reference: Path
    style_reference: Path
    images: Mapping[str, Path]
    accepted: Mapping[str, bool] | None = None


@dataclass(frozen=True)
class Example:
    """The task that explains the others: `better` is 1 or 2, the option that the explanation recommends."""

    subject_reference: Path
    style_reference: Path
    options: tuple[Path, Path]
    better: int
    explanation: str


@dataclass(frozen=True)
class Study:
    """A study, its images all checked. `methods[0]` is the one that the summary calls preferred or not."""

    folder: Path
    question: str
    case: str
    seed: int
    methods: tuple[str, str]
    example: Example
    tasks: tuple[Task, ...]

    def image_paths(self) -> Iterator[Path]:
        """Yield every image that a participant can be shown; some come several times."""
        yield from (self.example.subject_reference, self.example.style_reference, *self.example.options)
        for task in self.tasks:
            yield from (task.subject_reference, task.style_reference, *task.images.values())

    def fingerprint(self) -> str:
        """Return the SHA-256 of what answers depend on: methods, tasks, their images' bytes. Wording may change."""
        digest = hashlib.sha256(json.dumps(self.methods).encode())
        for task in self.tasks:
            digest.update(json.dumps(task.id).encode())
            for path in (task.subject_reference, task.style_reference, *(task.images[name] for name in self.methods)):
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


def read_study(folder: Path) -> Study:
    """Read FOLDER/study.json and check every image. Raises InputError for anything wrong in it."""
    path = folder / STUDY_FILE
    data = read_json(
        path,
        what="a study",
        mend="give the folder of a study, made by  lorarar study make  of this release",
        schema=package_schema(__package__, "study.schema.json"),
        limit=MAX_JSON,
    )
    first, second = data["methods"]
    folder = folder.resolve()
    study = Study(
        folder=folder,
        question=data["question"],
        case=data["case"],
        seed=int(data["seed"]),
        methods=(first, second),
        example=_example(data["example"], folder),
        tasks=tuple(_task(entry, {first, second}, folder) for entry in data["tasks"]),
    )
    ids = [task.id for task in study.tasks]
    if len(set(ids)) < len(ids):
        double = next(name for name in ids if ids.count(name) > 1)
        raise InputError(f"{path}: two tasks have the id {double!r}; every id must be unique")
    for image in dict.fromkeys(study.image_paths()):
        open_image(image)
    return study


def clean_png(path: Path) -> bytes:
    """Return an image as participants get it: PNG, its longer side reduced to DISPLAY_SIZE, fit for a phone.

    It has no metadata, which may name a method. Raises InputError as `open_image` does.
    """
    image = open_image(path)
    image.thumbnail((DISPLAY_SIZE, DISPLAY_SIZE), Image.Resampling.LANCZOS)
    image.info.clear()  # Pillow would carry a colour profile, with its description, over to the PNG
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _task(entry: Mapping[str, Any], methods: set[str], folder: Path) -> Task:
    images, accepted = entry["images"], entry.get("accepted")
    for name, given in (("images", images), ("accepted", accepted)):
        if given is not None and set(given) != methods:
            names = " and ".join(sorted(methods))
            raise InputError(f"{folder / STUDY_FILE}: {name} of the task {entry['id']!r} must be those of {names}")
    subject, style = (_image(entry[key], folder) for key in ("subject_reference", "style_reference"))
    return Task(entry["id"], subject, style, {name: _image(path, folder) for name, path in images.items()}, accepted)


def _example(entry: Mapping[str, Any], folder: Path) -> Example:
    paths = (entry["subject_reference"], entry["style_reference"], *entry["options"])
    subject, style, first, second = (_image(path, folder) for path in paths)
    return Example(subject, style, (first, second), int(entry["better"]), entry["explanation"])


def _image(text: str, folder: Path) -> Path:
    """Return the absolute path of an image, which must lie in the study's folder and be there."""
    path = resolved(folder / text)
    if not path.is_relative_to(folder):
        raise InputError(f"{folder / STUDY_FILE}: {text} leaves the study's folder; copy the image into it")
    if not path.is_file():
        raise InputError(f"{folder / STUDY_FILE}: {text} is not there; restore the image or make the study again")
    return path
