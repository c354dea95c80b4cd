"""What several test files of the Android app need, made once a run."""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
from functools import cache
from pathlib import Path

from android.kotlin import ROOT, build_merger
from devices.fetch import run


def folder(name: str) -> Path:
    """A new folder that goes when the run ends."""
    made = Path(tempfile.mkdtemp(prefix=f"lorarar-android-{name}-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


@cache
def merger() -> Path:
    """The engine's jar."""
    return build_merger(folder("merger"))


@cache
def miniature(target: str) -> Path:
    """The miniature's bundle."""
    out = folder("bundle") / target
    # In a process of its own, where no type is checked while it runs: a minute instead of four.
    run(sys.executable, "-m", "export.pipeline", "--target", target, "--steps", "4", "--out", str(out), cwd=ROOT)
    return out
