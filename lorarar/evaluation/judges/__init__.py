"""Find a judge by its name: an installed provider, a folder that says which, or a transformers model.

Importing this needs no toolchain.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, cast

from lorarar.errors import InputError
from lorarar.evaluation.judges.judge import THRESHOLD, BatchJudge, Judge, Question
from lorarar.files import read_json

__all__ = ["PROVIDERS", "THRESHOLD", "BatchJudge", "Judge", "Question", "judge_names", "load_judge"]

CONFIG_FILE = "config.json"
MAX_CONFIG = 16 * 2**20  # bytes
PROVIDERS = "lorarar.judges"
"""The group of entry points whose functions, called with a folder or None, return a judge."""


def judge_names() -> tuple[str, ...]:
    """List the judges that installed packages provide."""
    return tuple(sorted(_providers()))


def load_judge(spec: str, device: str = "cpu", batch: int = 4) -> Judge:
    """Open a judge: a name of `judge_names`, or a folder or hub id of a transformers image-text-to-text model.

    A folder whose `config.json` has a `judge` is opened by the provider of that name. `batch` is the number of
    questions that a language model takes at once. Raises InputError when the judge can't be had.
    """
    providers = _providers()
    named = spec if spec in providers else _provider_of(Path(spec))
    if named is not None:
        if named not in providers:
            known = ", ".join(providers) or "none"
            raise InputError(f"{spec} is a judge of {named!r}, which no installed package provides; there is {known}")
        return cast(Judge, providers[named].load()(None if named == spec else Path(spec)))
    # A judge of another kind needs no torch.
    from lorarar.evaluation.judges.vlm import VlmJudge

    return VlmJudge.load(spec, device, batch)


def _providers() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=PROVIDERS)}


def _provider_of(folder: Path) -> str | None:
    """Return the provider that a judge's folder names in its `config.json`."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        return None
    try:
        config: Any = read_json(path, what="a judge's config", mend="give the folder of a judge", limit=MAX_CONFIG)
    except InputError:
        return None  # transformers may read it, or say what is wrong
    named = config.get("judge") if isinstance(config, dict) else None
    return named if isinstance(named, str) else None
