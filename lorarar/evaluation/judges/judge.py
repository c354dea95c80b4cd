"""Say what a judge is: who decides whether an image shows the subject, and whether it is in the style (paper §4).

Importing this needs no toolchain. A judge answers with P(yes); a verdict is P(yes) > 0.5.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL.Image import Image

THRESHOLD = 0.5


@dataclass(frozen=True)
class Question:
    """One comparison. `text` is the subject's class name, or the style's description."""

    reference: Image
    test: Image
    text: str


@runtime_checkable
class Judge(Protocol):
    """The questions that the evaluation asks of a judge. All answers are P(yes) in [0, 1]."""

    @property
    def name(self) -> str: ...

    def describe(self) -> dict[str, Any]:
        """Return all that its answers depend on, as JSON: kept answers are used again only if this is the same."""
        ...

    def same_subject(self, reference: Image, test: Image, class_name: str) -> float: ...

    def in_style(self, reference: Image, test: Image, description: str) -> float: ...

    def same_subjects(self, questions: Sequence[Question]) -> list[float]:
        """Answer `same_subject` for many at once, in order."""
        ...

    def in_styles(self, questions: Sequence[Question]) -> list[float]:
        """Answer `in_style` for many at once, in order."""
        ...


class BatchJudge(ABC):
    """A judge that is written for many questions at once; a single question is a batch of one."""

    @abstractmethod
    def same_subjects(self, questions: Sequence[Question]) -> list[float]: ...

    @abstractmethod
    def in_styles(self, questions: Sequence[Question]) -> list[float]: ...

    def same_subject(self, reference: Image, test: Image, class_name: str) -> float:
        return self.same_subjects([Question(reference, test, class_name)])[0]

    def in_style(self, reference: Image, test: Image, description: str) -> float:
        return self.in_styles([Question(reference, test, description)])[0]
