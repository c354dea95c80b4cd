"""Say what a judge is: who decides whether an image shows the subject, and whether it is in the style (paper §4).

A judge is found by its name: an installed provider, a folder that says which, or a transformers model. It answers with
P(yes); a verdict is P(yes) > 0.5. Importing this needs no toolchain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

from lorarar.errors import InputError
from lorarar.files import read_json

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_CONFIG = 16 * 2**20  # bytes
PROVIDERS = "lorarar.judges"
"""The group of entry points whose functions, called with a folder or None, return a judge."""
THRESHOLD = 0.5


@dataclass(frozen=True)
class Question:
    """One comparison. `text` is the subject's class name, or the style's description."""

    reference: Image
    test: Image
    text: str


@runtime_checkable
class Judge(Protocol):
    """The questions that the evaluation asks of a judge, many at once. All answers are P(yes) in [0, 1], in order."""

    @property
    def name(self) -> str: ...

    def describe(self) -> dict[str, Any]:
        """Return all that its answers depend on, as JSON: kept answers are used again only if this is the same."""
        ...

    def same_subjects(self, questions: Sequence[Question]) -> list[float]: ...

    def in_styles(self, questions: Sequence[Question]) -> list[float]: ...


def load_judge(spec: str, device: str = "cpu", batch: int = 4) -> Judge:
    """Open a judge: an installed provider's name, or a folder or hub id of a transformers image-text-to-text model.

    A folder whose `config.json` has a `judge` is opened by the provider of that name. `batch` is the number of
    questions that a language model takes at once. Raises InputError when the judge can't be had.
    """
    providers = {entry.name: entry for entry in entry_points(group=PROVIDERS)}
    named = spec if spec in providers else _provider_of(Path(spec))
    if named is not None:
        if named not in providers:
            known = ", ".join(providers) or "none"
            raise InputError(f"{spec} is a judge of {named!r}, which no installed package provides; there is {known}")
        return cast(Judge, providers[named].load()(None if named == spec else Path(spec)))
    # A judge of another kind needs no torch.
    from lorarar.evaluation.judges.vlm import VlmJudge

    return VlmJudge.load(spec, device, batch)


def _provider_of(folder: Path) -> str | None:
    """Return the provider that a judge's folder names in its `config.json`."""
    path = folder / "config.json"
    if not path.is_file():
        return None
    try:
        config: Any = read_json(path, what="a judge's config", mend="give the folder of a judge", limit=MAX_CONFIG)
    except InputError:
        return None  # transformers may read it, or say what is wrong
    named = config.get("judge") if isinstance(config, dict) else None
    return named if isinstance(named, str) else None
