"""A judge that answers by given functions: for tests, and for trying the evaluation out without a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lorarar.evaluation.judges import BatchJudge, Question

Answer = Callable[[Question], float]


class ScriptedJudge(BatchJudge):
    """Answers with `subject(question)` and `style(question)`; counts the questions in `asked`."""

    def __init__(self, subject: Answer, style: Answer, name: str = "scripted") -> None:
        self.subject, self.style, self.name = subject, style, name
        self.asked = 0

    def describe(self) -> dict[str, Any]:
        return {"kind": "scripted", "name": self.name}

    def same_subjects(self, questions: Sequence[Question]) -> list[float]:
        return self._answer(self.subject, questions)

    def in_styles(self, questions: Sequence[Question]) -> list[float]:
        return self._answer(self.style, questions)

    def _answer(self, answer: Answer, questions: Sequence[Question]) -> list[float]:
        self.asked += len(questions)
        return [float(answer(question)) for question in questions]
