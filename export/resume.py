"""Exports that go on where they were stopped: finished components wait in a hidden folder beside the bundle.

Whatever stops an export (Ctrl-C, a kill of it or of a process that it started, a full disk, too little memory, an error
of a toolchain), the same command goes on from what was finished, since making it again may take minutes. Nothing waits
where the same command would end the same way: after an InputError, and after a component that is not PyTorch's equal.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lorarar import __version__
from lorarar.errors import CutShort, FailedCheck, InputError, first_of
from lorarar.files import atomic_file, read_json, replace_folder, resolved
from runtime_py.hashes import tree_sha256
from runtime_py.manifest import MANIFEST, MAX_MANIFEST_BYTES

try:
    import fcntl
except ModuleNotFoundError:  # Windows has none; two exports at once are not noticed there
    fcntl = None  # type: ignore[assignment]

STATE = "unfinished.json"
_TOOLCHAINS = (
    *("torch", "diffusers", "transformers", "onnx", "onnx-ir", "onnxscript", "coremltools", "executorch"),
    *("coreai-torch", "coreai-core", "coreai-opt", "torchao", "onnxruntime", "onnxruntime-qnn", "peft"),
)


@dataclass
class Unfinished:
    """A bundle under construction: its folder, and the manifest's entries of what is finished in it."""

    folder: Path
    digest: str  # of all that the bundle depends on
    entries: dict[str, Any] = field(default_factory=dict)

    def kept(self, name: str) -> Any | None:
        """Return the entry of what an earlier run finished, if its files are still what they were."""
        entry = self.entries.get(name)
        if entry is None:
            return None
        files = [entry, entry["golden"]] if "golden" in entry else [entry]
        return entry if all(self._is_whole(file) for file in files) else None

    def _is_whole(self, file: Mapping[str, Any]) -> bool:
        path = self.folder / file["file"]
        return path.exists() and tree_sha256(path) == (file["bytes"], file["sha256"])

    def keep(self, name: str, entry: Mapping[str, Any]) -> None:
        """Note that something is finished; `entry`, and its `golden` if any, have `file`, `bytes` and `sha256`."""
        self.entries[name] = dict(entry)
        with atomic_file(self.folder / STATE) as temporary:
            temporary.write_text(json.dumps({"digest": self.digest, "entries": self.entries}), encoding="utf-8")

    def discard(self, name: str) -> None:
        """Remove a file or folder of the bundle, if it is there."""
        path = self.folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def require_replaceable(out: Path) -> None:
    """Refuse an `out` that holds anything but a bundle, with InputError: what becomes `out` takes its place."""
    if not out.exists():
        return
    if Path.cwd().is_relative_to(resolved(out)):
        raise InputError(f"`out` is {out}, in which this command runs; give another folder, or run it elsewhere")
    if out.is_dir() and not any(out.iterdir()):
        return
    manifest = None
    with suppress(InputError):
        manifest = read_json(out / MANIFEST, what="a manifest", mend="", limit=MAX_MANIFEST_BYTES)
    if not isinstance(manifest, dict) or not {"schema_version", "components"} <= manifest.keys():
        raise InputError(f"{out} exists and is not a bundle; it is not overwritten: give `out` a new name")
    named = {out / name for name in (MANIFEST, STATE, ".DS_Store", *_named_files(manifest))}
    others = [path.relative_to(out).as_posix() for path in _unnamed(out, named)]
    if others:
        raise InputError(
            f"{out} holds what is no part of its bundle ({first_of(others)}), and exporting the bundle again would "
            "remove it; move it away, or give `out` a new name"
        )


def _named_files(facts: Any) -> Iterator[str]:
    """Yield the files that a manifest, or a part of one, names."""
    for key, value in facts.items() if isinstance(facts, dict) else ():
        if key == "file" and isinstance(value, str):
            yield value
        else:
            yield from _named_files(value)


def _unnamed(folder: Path, named: Collection[Path]) -> Iterator[Path]:
    """Yield the files and folders in a folder that are none of `named`, lie in none and hold none."""
    for path in sorted(folder.iterdir()):
        if path not in named:
            if any(path in one.parents for one in named):
                yield from _unnamed(path, named)
            else:
                yield path


@contextmanager
def unfinished_folder(out: Path, facts: Mapping[str, Any]) -> Iterator[Unfinished]:
    """Yield the folder to work in; it becomes `out` on success. `facts` are all that the bundle depends on.

    An earlier run's folder is taken up when it was made of the same facts by the same toolchains. Raises InputError
    while another export works on the same `out`.
    """
    digest = hashlib.sha256(json.dumps([facts, toolchain_versions()], sort_keys=True).encode()).hexdigest()
    out = resolved(out)  # "." has no name
    out.parent.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        work = _take_up(out.parent / f".{out.name}.unfinished", digest)
        try:
            yield work
            replace_folder(work.folder, out)
            (out / STATE).unlink(missing_ok=True)
        except BaseException as error:
            again = isinstance(error, (InputError, FailedCheck)) and not isinstance(error, CutShort)
            if again or not work.entries:
                shutil.rmtree(work.folder, ignore_errors=True)
            elif work.folder.exists():
                error.add_note(f"what is finished waits in {work.folder}; the same command goes on from it")
            raise


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the lock of a bundle's name. The system releases it when the process ends, however it ends."""
    path = out.parent / f".{out.name}.lock"
    if fcntl is None:
        yield
        return
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise InputError(f"{out}: another export is writing it; wait for its end, or give another `out`") from None
        if os.fstat(handle).st_nlink:
            break
        os.close(handle)  # Its last holder removed the file between the two calls.
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _take_up(folder: Path, digest: str) -> Unfinished:
    with suppress(OSError, ValueError, KeyError, TypeError):  # There is none, or it is damaged: the work starts anew.
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if state["digest"] == digest:
            work = Unfinished(folder, digest, dict(state["entries"]))
            named = {folder / name for name in (STATE, *_named_files(work.entries))}
            for path in list(_unnamed(folder, named)):
                work.discard(path.relative_to(folder).as_posix())  # such as the temporary files of a killed export
            return work
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return Unfinished(folder, digest)


def toolchain_versions() -> dict[str, str]:
    """Return the versions that an artifact depends on: ours, and those of the toolchains that are installed."""
    found = {"lorarar": __version__}
    for name in _TOOLCHAINS:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
