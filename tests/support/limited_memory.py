"""A program in a control group of the kernel's: it has so much memory and no more, as an app on a phone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

# Version 1 of the kernel's control groups, and version 2: folder, limit, and the most that was used.
_VERSIONS = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max", "memory.peak"),
)


def run_limited(command: Sequence[str], environment: Mapping[str, str], gib: float) -> tuple[str, float]:
    """Run a program, which is ended where it needs more than `gib`; return its output and the GiB that it used.

    Pages of files count as long as they are in memory; the kernel takes those back before it ends anything.
    """
    group, limit, used = _group()
    group.mkdir()
    try:
        (group / limit).write_text(str(int(gib * 2**30)))
        enter = f'echo $$ > {group / "cgroup.procs"} && exec "$@"'
        ran = subprocess.run(
            ["sh", "-c", enter, "sh", *command], env=dict(environment), capture_output=True, text=True, check=False
        )
        peak = int((group / used).read_text()) / 2**30
    finally:
        group.rmdir()
    assert ran.returncode == 0, f"exit {ran.returncode} within {gib} GiB: {ran.stdout + ran.stderr}"
    return ran.stdout + ran.stderr, peak


def _group() -> tuple[Path, str, str]:
    """A group that is not there yet, and its files. RuntimeError where none can be made."""
    for folder, limit, used in _VERSIONS:
        if (folder / "cgroup.procs").exists() and os.access(folder, os.W_OK):
            return folder / f"lorarar-{os.getpid()}", limit, used
    raise RuntimeError("no control group can be made here, which a limit of memory needs: run it as root on Linux")
