"""What all devices but this computer share: the files that they need, and whether a record is of these files."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.devices.device import DeviceFailed
from benchmarks.record import check_record
from lorarar.errors import InputError
from runtime_py.bundle import MANIFEST, Bundle, Component


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


def checked(record: dict[str, Any], name: str, manifest_sha256: str, part: Component, runner: str) -> dict[str, Any]:
    """The record, if it is valid and of what was asked for. DeviceFailed otherwise."""
    try:
        check_record(record, name)
    except InputError as error:
        raise DeviceFailed(f"the runner's record is not valid: {error}") from None
    for what, have, wanted in (
        ("manifest", record["bundle"]["manifest_sha256"], manifest_sha256),
        ("artifact", record["artifact"]["sha256"], part.entry["sha256"]),
        ("component", record["component"], part.name),
        ("runner", record["runner"], runner),
    ):
        if have != wanted:
            raise DeviceFailed(f"the record is of another {what} ({have}, not {wanted}); measure again")
    return record
