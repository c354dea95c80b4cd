"""Exports that go on where they were stopped: finished parts wait in a hidden folder beside the bundle.

Only an interrupt, a kill or a crash of the machine leaves one behind; an error that an export reports removes it, since
the same command would end there again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lorarar import __version__
from lorarar.errors import FailedCheck, InputError
from lorarar.files import atomic_file, replace_folder
from runtime_py.bundle import tree_sha256

STATE = "unfinished.json"
_TOOLCHAINS = ("torch", "diffusers", "transformers", "onnx", "onnx-ir", "onnxscript", "coremltools", "executorch")


@dataclass
class Unfinished:
    """A bundle under construction."""

    folder: Path
    digest: str
    entries: dict[str, Any] = field(default_factory=dict)

    def kept(self, name: str) -> Any | None:
        """The entry of a part that an earlier run finished, if its file is still what it was."""
        entry = self.entries.get(name)
        if entry is None:
            return None
        path = self.folder / entry["file"]
        whole = path.exists() and tree_sha256(path) == (entry["bytes"], entry["sha256"])
        return entry if whole else None

    def keep(self, name: str, entry: Mapping[str, Any]) -> None:
        """Note that a part is finished; `entry` has its `file`, `bytes` and `sha256`."""
        self.entries[name] = dict(entry)
        with atomic_file(self.folder / STATE) as temporary:
            temporary.write_text(json.dumps({"digest": self.digest, "entries": self.entries}), encoding="utf-8")

    def discard(self, entry: str | Path) -> None:
        """Remove what a stopped run left of a file or folder that is about to be made."""
        path = self.folder / entry
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def unfinished_folder(out: Path, facts: Mapping[str, Any]) -> Iterator[Unfinished]:
    """Yield the folder to work in; it becomes `out` on success. `facts` are all that the bundle depends on.

    An earlier run's folder is taken up when it was made of the same facts by the same toolchains.
    """
    digest = hashlib.sha256(json.dumps([facts, _versions()], sort_keys=True).encode()).hexdigest()
    work = _take_up(out.parent / f".{out.name}.unfinished", digest)
    try:
        yield work
        (work.folder / STATE).unlink(missing_ok=True)
        replace_folder(work.folder, out)
    except (InputError, FailedCheck, OSError, MemoryError):
        shutil.rmtree(work.folder, ignore_errors=True)
        raise


def _take_up(folder: Path, digest: str) -> Unfinished:
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if state["digest"] == digest:
            return Unfinished(folder, digest, dict(state["entries"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none, or damaged: the work starts anew
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return Unfinished(folder, digest)


def _versions() -> dict[str, str]:
    found = {"lorarar": __version__}
    for name in _TOOLCHAINS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
