"""Files on an Android device: only what changed is copied, by SHA-256."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath

from benchmarks.devices import DeviceFailed
from benchmarks.devices.adb_link import ANSWER_S, Link
from runtime_py.bundle import MANIFEST, Bundle, Component

HOME = "/data/local/tmp/lorarar"
"""Where the shell user may write and run programs, and every app may read."""
SLOWEST_HASH = 20e6  # bytes a second, of an old phone's flash and little cores


def bundle_files(bundle: Bundle, component: Component) -> dict[str, Path]:
    """What a device needs to run one component, by path inside the bundle."""
    artifact = [component.path]
    if component.path.is_dir():
        artifact = [path for path in sorted(component.path.rglob("*")) if path.is_file()]
    files = [bundle.path / MANIFEST, *artifact, component.golden_path]
    return {path.relative_to(bundle.path).as_posix(): path for path in files}


def sha256(path: Path) -> str:
    """Of a file of this computer; read once as long as it doesn't change."""
    facts = path.stat()
    return _sha256(path, facts.st_size, facts.st_mtime_ns)


@cache
def _sha256(path: Path, size: int, changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy(link: Link, files: Mapping[str, Path], folder: str) -> int:
    """Make `folder` on the device hold these files, and say how many bytes were copied. Others stay.

    DeviceFailed when they don't fit or don't arrive.
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


def _hashes(link: Link, folder: str, names: list[str], timeout: float) -> dict[str, str]:
    """Of those files that are there."""
    answer = link.shell(f"cd {folder} 2>/dev/null && sha256sum {shlex.join(names)} 2>/dev/null", timeout)
    return {name: digest for digest, name in re.findall(r"^([0-9a-f]{64}) [ *](.+?)\r?$", answer.out, re.MULTILINE)}


def free_bytes(text: str) -> int | None:
    """`df -k FOLDER`: its fourth column, in kB."""
    found = re.search(r"\s\d+\s+\d+\s+(\d+)\s+\d+%", text)
    return int(found[1]) * 1024 if found else None
