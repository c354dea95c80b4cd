"""Bundles: a folder with a manifest, the artifacts and golden tensors. Opening one verifies all of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lorarar.errors import InputError
from lorarar.layout import ROLES, Layout, StackSize
from lorarar.lora import LoRA
from lorarar.stack import Stack, empty_stack, stack
from runtime_py.component import MEND, Component
from runtime_py.hashes import tree_sha256
from runtime_py.manifest import read_manifest, stack_size
from runtime_py.session import Session


@dataclass(frozen=True, repr=False)
class Bundle:
    """An opened bundle."""

    path: Path
    manifest: Mapping[str, Any] = field(hash=False)
    verify: bool = True  # hashes are compared

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> Bundle:
        """Open a bundle: read its manifest, check it, and compare every file with the size and hash stated there.

        A file that this process hashed before and that has not changed since is not read again. `verify=False` leaves
        the hashes out and is for a bundle that this process is still making. Raises InputError naming what is wrong.
        """
        folder = Path(path)
        bundle = cls(folder, read_manifest(folder), verify)
        for what, entry in bundle._files():
            _check_file(folder, what, entry, verify)
        return bundle

    def session(self, threads: int | None = None, keep: bool | None = None) -> Session:
        """Start a session: LoRAs to load, merge and draw with. `threads` and `keep` are those of `Session`."""
        return Session(self, threads, keep)

    @cached_property
    def layout(self) -> Layout:
        """The layout of the base that the bundle was exported for."""
        return Layout.from_json(self.manifest["base"], self.manifest["layout"])

    @property
    def stack(self) -> StackSize:
        """What the artifacts have room for; where the rank is free, its rank is that of the examples."""
        return stack_size(self.manifest)

    def stacked(self, loras: Sequence[LoRA]) -> Stack:
        """Stack LoRAs as the artifacts take them. Raises InputError as `lorarar.stack.stack`, and for a fused UNet."""
        component = self.component("unet" if "unet" in self.manifest["components"] else "hypernet")
        spec = next((spec for spec in component.inputs if spec.name == ROLES), None)
        if spec is None:
            raise InputError(f"{self.path}: its UNet takes no LoRA, one is fused into it; export it without `fused`")
        rank = None if isinstance(spec.shape[0], str) else self.stack.rank
        if not loras:
            return empty_stack(self.layout, self.stack.loras, rank or 1, spec.dtype)
        return stack(loras, self.layout, self.stack.loras, rank, spec.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of all artifacts together."""
        return sum(int(entry["bytes"]) for entry in self.manifest["components"].values())

    def component(self, name: str) -> Component:
        """Return one component. Raises InputError with the components that the bundle has."""
        entries = self.manifest["components"]
        if name not in entries:
            raise InputError(f"{self.path}: the bundle has no {name}, only {', '.join(entries)}")
        return Component.of_entry(self.path, name, entries[name])

    def verified(self, name: str) -> Component:
        """Return one component to be loaded now, as `component`. Raises InputError where its file has changed since."""
        component = self.component(name)
        _check_file(self.path, name, component.entry, self.verify)
        return component

    def _files(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield what each file that the manifest names is, and its entry."""
        for name, entry in self.manifest["components"].items():
            yield name, entry
            yield f"{name}'s golden file", entry["golden"]
        facts = self.manifest.get("pipeline")
        if facts is not None:
            for name, entry in facts["tokenizers"].items():
                yield f"the pipeline's {name}", entry
            yield "the pipeline's golden image", facts["golden"]

    def __repr__(self) -> str:
        facts, size = self.manifest, f"{self.nbytes / 1e6:.1f} MB"
        what = f"{facts['base']}, {facts['target']} {facts['precision']}, {size}, {', '.join(facts['components'])}"
        return f"Bundle({str(self.path)!r}: {what})"


def _check_file(folder: Path, what: str, entry: Mapping[str, Any], verify: bool) -> None:
    path = folder / entry["file"]
    if not path.exists() or folder.resolve() not in path.resolve().parents:
        raise InputError(f"{folder}: {what} ({entry['file']}) is missing or outside the bundle; {MEND}")
    if verify and tree_sha256(path) != (entry["bytes"], entry["sha256"]):
        raise InputError(f"{path}: damaged or changed since its export (its SHA-256 differs); {MEND}")
