"""Folders that are made once, for all workers of a run and for later runs of the same sources."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from filelock import FileLock

from export.resume import toolchain_versions

ROOT = Path(__file__).parents[2]
A_DAY = 86400.0  # seconds
SOURCES = ("lorarar", "export", "runtime_py", "models", "tests/support", "tests/conftest.py")


class MadeOnce:
    """Makes folders in a place of its own, and makes one again that somebody has changed since."""

    def __init__(self, place: Path) -> None:
        self.place = place / _sources()
        with FileLock(f"{place}.lock"):
            self.place.mkdir(parents=True, exist_ok=True)
            # What older sources made is of no use to anybody, unless a run of theirs is under way.
            for other in place.iterdir():
                if other != self.place and time.time() - other.stat().st_mtime > A_DAY:
                    shutil.rmtree(other)

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        """Return the folder of that name; `make` is called with its path where it is not there yet."""
        folder = self.place / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        seal = folder.with_name(f"{folder.name}.sha256")
        with FileLock(f"{folder}.lock"):
            if not seal.is_file() or not folder.is_dir() or seal.read_text() != digest(folder):
                shutil.rmtree(folder, ignore_errors=True)
                make(folder)
                seal.write_text(digest(folder))
        return folder


def digest(*paths: Path) -> str:
    """Return a digest of the names and contents of files and of all files in folders; caches of Python are left out."""
    found = hashlib.sha256()
    for path in paths:
        for item in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if item.is_file() and "__pycache__" not in item.parts:
                found.update(f"{item.relative_to(path.parent)}\0".encode())
                found.update(hashlib.sha256(item.read_bytes()).digest())
    return found.hexdigest()


@cache
def _sources() -> str:
    """A digest of all that the folders are made by: our sources, and the toolchains' versions."""
    sources = digest(*(ROOT / name for name in SOURCES))
    return hashlib.sha256("\n".join([sources, *map(str, toolchain_versions().items())]).encode()).hexdigest()[:16]
