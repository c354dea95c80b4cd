"""Write a bundle: its components one after the other, one check of all of them, and one manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from export.golden import golden_recipe, write_golden
from export.graph import Graph
from export.manifest import component_entry, make_manifest, require_output, with_parity, write_manifest
from export.options import OnProgress, Report
from export.parity import check_all
from export.resume import Unfinished, unfinished_folder
from export.targets import Target
from lorarar.hypernet.checkpoints import LoadedHypernet
from lorarar.layout import Layout
from runtime_py.backends import load_backend
from runtime_py.bundle import Bundle


def nothing() -> None:
    """Prepare nothing: the default of `prepare`."""


@contextmanager
def new_bundle(out: Path, target: Target, facts: Mapping[str, Any], on_progress: OnProgress) -> Iterator[BundleWriter]:
    """Yield a writer whose folder becomes `out` when the block ends; `facts` are all that the bundle depends on.

    Raises InputError when `out` is no bundle, the target's toolchain or runtime is missing, or another export works on
    `out`. On any error `out` is left as it was; what is finished is taken up by the next export of the same facts.
    """
    require_output(out)
    target.load_converter()
    load_backend(target.name)  # What could not be checked in the end is not begun.
    with unfinished_folder(out, facts) as work:
        yield BundleWriter(work, out, target, on_progress)


class BundleWriter:
    """Writes a bundle: `write` each component in the order in which an app runs them, then `finish` once."""

    def __init__(self, work: Unfinished, out: Path, target: Target, on_progress: OnProgress) -> None:
        self.work, self.out, self.target, self.on_progress = work, out, target, on_progress
        self._entries: dict[str, Any] = {}

    def write(
        self,
        graph: Graph,
        precision: str,
        reference: nn.Module | None = None,
        prepare: Callable[[], None] = nothing,
    ) -> None:
        """Write a component as `write_component` does, unless a stopped export finished it."""
        entry = self.work.kept(graph.name)
        if entry is None:
            entry = self._made(graph, precision, reference, prepare)
        else:
            self.on_progress(f"{graph.name}: taken from the export that was stopped")
            graph.give_back()
        self._entries[graph.name] = entry

    def _made(
        self, graph: Graph, precision: str, reference: nn.Module | None, prepare: Callable[[], None]
    ) -> dict[str, Any]:
        artifact = f"{graph.name}{self.target.suffix}"
        self.work.discard(artifact)
        try:
            entry = write_component(
                self.work.folder, graph, self.target, precision, self.on_progress, reference, prepare
            )
        except BaseException:
            self.work.discard(artifact)  # A full disk needs the space.
            raise
        self.work.keep(graph.name, entry)
        return entry

    def finish(
        self,
        precision: str,
        rank: int,
        layout: Layout,
        hypernet: LoadedHypernet | None = None,
        pipeline: Mapping[str, Any] | None = None,
    ) -> Report:
        """Check all that was written, and write the manifest. Raises FailedCheck unless everything passed."""
        folder = self.work.folder
        unchecked = make_manifest(self.target, precision, rank, layout, self._entries, hypernet, pipeline)
        rows = check_all(Bundle(folder, unchecked), self.on_progress)
        manifest = with_parity(unchecked, rows)
        write_manifest(folder, manifest)
        Bundle.open(folder, verify=False)  # The sums are those that were taken when the files were written.
        return Report(self.out, tuple(rows), manifest, hypernet.notes if hypernet else ())


def write_component(
    folder: Path,
    graph: Graph,
    target: Target,
    precision: str,
    on_progress: OnProgress,
    reference: nn.Module | None = None,
    prepare: Callable[[], None] = nothing,
) -> dict[str, Any]:
    """Write a graph's artifact and golden file into a bundle's folder; return its manifest entry, not yet checked.

    `reference` computes the golden outputs (default: the graph's module); `prepare` is called after them and may
    rewrite the module for its target. A module that the graph owns is empty afterwards, another one is left as it was.
    Raises InputError for a precision that is not offered.
    """
    target.require(graph.name, precision)
    convert = target.load_converter()
    artifact, golden = folder / f"{graph.name}{target.suffix}", folder / "golden" / f"{graph.name}.safetensors"
    recipe = golden_recipe(graph)
    on_progress(f"{graph.name}: running PyTorch in fp32 on the golden inputs")
    write_golden(graph.module if reference is None else reference, recipe, golden)
    on_progress(f"{graph.name}: converting to {target.name}")
    prepare()
    graph = graph.taken()
    convert(graph, precision, artifact)
    graph.give_back()  # The check that follows needs the memory.
    return component_entry(folder, graph, target, precision, artifact, golden, recipe)
