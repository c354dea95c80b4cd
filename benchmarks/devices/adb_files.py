"""Files on an Android device: only what changed is copied, by SHA-256."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from benchmarks.devices.adb_link import AdbLink
from benchmarks.devices.device import DeviceFailed
from benchmarks.devices.phone import ANSWER_S, sha256

HOME = "/data/local/tmp/lorarar"
"""Where the shell user may write and run programs, and every app may read."""
SLOWEST_HASH = 20e6  # bytes a second, of an old phone's flash and little cores


def copy(link: AdbLink, files: Mapping[str, Path], folder: str) -> int:
    """Make `folder` on the device hold these files, and return how many bytes were copied. Other files stay.

    Raises DeviceFailed when they don't fit or don't arrive.
    """
    total = sum(path.stat().st_size for path in files.values())
    have = _hashes(link, folder, list(files), ANSWER_S + total / SLOWEST_HASH)
    changed = {name: path for name, path in files.items() if have.get(name) != sha256(path)}
    if not changed:
        return 0
    folders = sorted({str(PurePosixPath(folder, name).parent) for name in changed})
    made = link.shell(f"mkdir -p {shlex.join(folders)}")
    if made.code != 0:
        raise DeviceFailed(f"{folder} can't be made on it ({made.last_words})")
    needed = sum(path.stat().st_size for path in changed.values())
    free = free_bytes(link.shell(f"df -k {folder}").out)
    if free is not None and free < needed:
        raise DeviceFailed(
            f"it is full: {needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free; free some space on it"
        )
    for name, path in changed.items():
        link.push(path, f"{folder}/{name}")
    return needed


def _hashes(link: AdbLink, folder: str, names: list[str], timeout: float) -> dict[str, str]:
    """Return the SHA-256 of each of the files that is there."""
    answer = link.shell(f"cd {folder} 2>/dev/null && sha256sum {shlex.join(names)} 2>/dev/null", timeout)
    return {name: digest for digest, name in re.findall(r"^([0-9a-f]{64}) [ *](.+?)\r?$", answer.out, re.MULTILINE)}


def free_bytes(text: str) -> int | None:
    """Read the free space from `df -k FOLDER`: its fourth column, which is in kB."""
    found = re.search(r"\s\d+\s+\d+\s+(\d+)\s+\d+%", text)
    return int(found[1]) * 1024 if found else None
