"""Hash the files of bundles with SHA-256, each of them once while it stays unchanged."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from lorarar.errors import InputError
from lorarar.files import file_digest, in_utf8, is_utf8

# A file that was written this shortly before it is hashed may be written again within one tick of its clock (2 s on
# FAT, 4 ms on ext4), and would look unchanged: its hash is not kept.
_SETTLED_NS = 2_000_000_000
_KNOWN: dict[tuple[str | int, ...], str] = {}
"""How a file looked → its hash. A pipeline of SDXL has 14 GB, which take half a minute to read."""


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file; one that has not changed since this process hashed it is not read again.

    A change shows in the file's size, modification time, change time, inode or device.
    """
    before = _look(path)
    if before in _KNOWN:
        return _KNOWN[before]
    start = time.time_ns()
    digest = file_digest(path)
    if path.stat().st_mtime_ns < start - _SETTLED_NS and _look(path) == before:
        _KNOWN[before] = digest
    return digest


def tree_sha256(path: Path) -> tuple[int, str]:
    """Return the bytes and the SHA-256 of a file; of a folder, over the sorted lines `<sha256>  <relative path>`.

    Raises InputError for a link or a special file in a folder.
    """
    if path.is_file():
        return path.stat().st_size, file_sha256(path)
    total, lines = 0, []
    for item in sorted(path.rglob("*"), key=lambda p: p.relative_to(path).as_posix()):
        if item.is_symlink() or not (item.is_file() or item.is_dir()):
            raise InputError(f"{item}: links are not allowed in a bundle; export it again")
        if item.is_file():
            size, digest = tree_sha256(item)
            total += size
            name = item.relative_to(path).as_posix()
            if not is_utf8(name):
                raise InputError(f"{in_utf8(str(item))}: its name is not UTF-8; export the bundle again")
            lines.append(f"{digest}  {name}\n")
    return total, hashlib.sha256("".join(lines).encode()).hexdigest()


def _look(path: Path) -> tuple[str | int, ...]:
    found = path.stat()
    return str(path.resolve()), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev
