"""What a study shows: `study.json` and its images, in one folder that can be copied to another machine.

    {"schema_version": 1, "question": "…", "case": "random", "seed": 0, "methods": ["learned", "ziplora"],
     "example": {"subject_reference", "style_reference", "options": [path, path], "better": 2, "explanation": "…"},
     "tasks": [{"id", "subject_reference", "style_reference", "images": {"learned": path, "ziplora": path},
                "accepted": {"learned": true, "ziplora": false}}]}

Paths are relative to the folder and may not leave it. `accepted` (MARS² accepts the image shown) may be left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from human_study.images import check_image
from lorarar.errors import InputError

SCHEMA_VERSION = 1
STUDY_FILE = "study.json"
MAX_JSON = 4 << 20  # bytes; a task takes about 300
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
        """Every image that a participant can be shown; some come several times."""
        yield from (self.example.subject_reference, self.example.style_reference, *self.example.options)
        for task in self.tasks:
            yield from (task.subject_reference, task.style_reference, *task.images.values())

    def fingerprint(self) -> str:
        """SHA-256 of what answers depend on: methods, tasks and the bytes of their images. Wording may change."""
        digest = hashlib.sha256(json.dumps(self.methods).encode())
        for task in self.tasks:
            digest.update(json.dumps(task.id).encode())
            for path in (task.subject_reference, task.style_reference, *(task.images[name] for name in self.methods)):
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


def read_study(folder: Path) -> Study:
    """Read FOLDER/study.json and check every image. Raises InputError for anything wrong in it."""
    path = folder / STUDY_FILE
    if not path.is_file():
        raise InputError(f"{folder}: no {STUDY_FILE} there; give the folder of a study, made by  lorarar study make")
    reader = _Reader(folder, path)
    study = reader.study()
    for image in dict.fromkeys(study.image_paths()):
        check_image(image)
    return study


class _Reader:
    """Turns the file's JSON into a Study; each refusal names the file and the place in it."""

    def __init__(self, folder: Path, path: Path) -> None:
        self.folder = folder.resolve()
        self.path = path

    def study(self) -> Study:
        data = self._load()
        version = data.get("schema_version")
        if version != SCHEMA_VERSION:
            raise self._wrong(f"schema_version is {version!r}; this version of the toolkit reads {SCHEMA_VERSION}")
        methods = data.get("methods")
        if not (isinstance(methods, list) and len(methods) == 2 and all(isinstance(name, str) for name in methods)):
            raise self._wrong("methods must be a list of two names")
        if methods[0] == methods[1]:
            raise self._wrong(f"methods must be two different names; both are {methods[0]!r}")
        tasks = tuple(self._task(entry, place, methods) for place, entry in enumerate(self._list(data, "tasks")))
        ids = [task.id for task in tasks]
        for name in ids:
            if ids.count(name) > 1:
                raise self._wrong(f"two tasks have the id {name!r}; every id must be unique")
        return Study(
            folder=self.folder,
            question=self._text(data, "question", "study"),
            case=self._text(data, "case", "study"),
            seed=self._integer(data, "seed"),
            methods=(methods[0], methods[1]),
            example=self._example(data.get("example")),
            tasks=tasks,
        )

    def _load(self) -> dict[str, Any]:
        if self.path.stat().st_size > MAX_JSON:
            raise self._wrong(f"larger than {MAX_JSON >> 20} MiB; this is no study")
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise self._wrong(f"not valid JSON ({error})") from None
        if not isinstance(data, dict):
            raise self._wrong("must hold one JSON object")
        return data

    def _task(self, entry: Any, place: int, methods: list[str]) -> Task:
        where = f"tasks[{place}]"
        if not isinstance(entry, dict):
            raise self._wrong(f"{where} must be an object")
        images = entry.get("images")
        if not isinstance(images, dict) or set(images) != set(methods):
            raise self._wrong(f"{where}.images must have exactly the keys {', '.join(methods)}")
        accepted = entry.get("accepted")
        if accepted is not None and not (
            isinstance(accepted, dict)
            and set(accepted) == set(methods)
            and all(isinstance(verdict, bool) for verdict in accepted.values())
        ):
            raise self._wrong(f"{where}.accepted must give true or false for {' and '.join(methods)}, or be left out")
        return Task(
            id=self._text(entry, "id", where),
            subject_reference=self._image(entry.get("subject_reference"), f"{where}.subject_reference"),
            style_reference=self._image(entry.get("style_reference"), f"{where}.style_reference"),
            images={name: self._image(images[name], f"{where}.images.{name}") for name in methods},
            accepted=accepted,
        )

    def _example(self, entry: Any) -> Example:
        if not isinstance(entry, dict):
            raise self._wrong("example must be an object")
        options = entry.get("options")
        if not (isinstance(options, list) and len(options) == 2):
            raise self._wrong("example.options must be a list of two images")
        better = entry.get("better")
        if better not in (1, 2) or isinstance(better, bool):
            raise self._wrong("example.better must be 1 or 2")
        return Example(
            subject_reference=self._image(entry.get("subject_reference"), "example.subject_reference"),
            style_reference=self._image(entry.get("style_reference"), "example.style_reference"),
            options=(self._image(options[0], "example.options[0]"), self._image(options[1], "example.options[1]")),
            better=int(better),
            explanation=self._text(entry, "explanation", "example"),
        )

    def _image(self, value: Any, where: str) -> Path:
        if not isinstance(value, str) or not value or "\0" in value:
            raise self._wrong(f"{where} must be the path of an image")
        place = (self.folder / value).resolve()
        if not place.is_relative_to(self.folder):
            raise self._wrong(f"{where} ({value}) leaves the study's folder; copy the image into it")
        if not place.is_file():
            raise self._wrong(f"{where} ({value}) is not there; restore the image or make the study again")
        return place

    def _list(self, data: dict[str, Any], key: str) -> list[Any]:
        value = data.get(key)
        if not isinstance(value, list) or not value:
            raise self._wrong(f"{key} must be a list with at least one entry")
        return value

    def _text(self, data: dict[str, Any], key: str, where: str) -> str:
        value = data.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(f"{where}: {key} must be a text that is not empty")
        return value

    def _integer(self, data: dict[str, Any], key: str) -> int:
        value = data.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(f"{key} must be a whole number")
        return value

    def _wrong(self, message: str) -> InputError:
        return InputError(f"{self.path}: {message}")
