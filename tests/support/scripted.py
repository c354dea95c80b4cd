"""A judge that answers by given functions, and what makes it one that an installed package provides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lorarar.evaluation.judges import PROVIDERS, Question

NAME = "scripted"


class ScriptedJudge:
    """Answers with `subject(question)` and `style(question)`; counts the questions in `asked`."""

    def __init__(
        self, subject: Callable[[Question], float], style: Callable[[Question], float], name: str = NAME
    ) -> None:
        self.subject, self.style, self.name = subject, style, name
        self.asked = 0
        self.folder: Path | None = None

    def describe(self) -> dict[str, Any]:
        return {"kind": "scripted", "name": self.name}

    def same_subjects(self, questions: Sequence[Question]) -> list[float]:
        return self._answer(self.subject, questions)

    def in_styles(self, questions: Sequence[Question]) -> list[float]:
        return self._answer(self.style, questions)

    def _answer(self, answer: Callable[[Question], float], questions: Sequence[Question]) -> list[float]:
        self.asked += len(questions)
        return [float(answer(question)) for question in questions]


_installed: list[ScriptedJudge] = []


def provide(folder: Path | None = None) -> ScriptedJudge:
    """The entry point: the judge that was installed last, which is told from which folder it was asked for."""
    _installed[-1].folder = folder
    return _installed[-1]


def install(judge: ScriptedJudge, place: Path, monkeypatch: pytest.MonkeyPatch) -> ScriptedJudge:
    """Write the metadata of a package that provides the judge into `place`, where Python finds it."""
    metadata = place / "scripted-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: scripted\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{PROVIDERS}]\n{NAME} = scripted:provide\n")
    monkeypatch.syspath_prepend(place)
    monkeypatch.setattr("scripted._installed", [judge])
    return judge
