"""What several test files of the Android app need, made once a run."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from android.kotlin import build_merger


def folder(name: str) -> Path:
    """A new folder that goes when the run ends."""
    made = Path(tempfile.mkdtemp(prefix=f"lorarar-android-{name}-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@cache
def merger() -> Path:
    """The engine's jar."""
    return build_merger(folder("merger"))
