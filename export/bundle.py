"""Write a bundle: its components one after the other, one check of all of them, and one manifest.

`runtime_py/manifest.schema.json` is the manifest's published schema.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from export.golden import golden_recipe, write_golden
from export.graph import Graph
from export.live_memory import live_bytes
from export.options import HypernetOptions, OnProgress, Report
from export.resume import Unfinished, require_replaceable, unfinished_folder
from export.targets import Target, find_target, require_toolchains
from lorarar import __version__
from lorarar.errors import CutShort, FailedCheck, InputError
from lorarar.hypernet.checkpoints import LoadedPredictor
from lorarar.layout import COEFFICIENTS, Layout, Shape
from runtime_py.bundle import Bundle
from runtime_py.check import CheckRow, check_component, check_pipeline
from runtime_py.golden import GENERATOR, GENERATOR_TEXT
from runtime_py.hashes import tree_sha256
from runtime_py.manifest import MANIFEST, MAX_ELEMENTS, SCHEMA_VERSION, check_facts
from runtime_py.parity import Parity
from runtime_py.qnn_session import sdk_version

_DTYPES = {torch.float32: "float32", torch.int32: "int32"}
NOT_RUN = Parity("not_run", "exported without a check", None, None, None, "", "", "").to_json()
"""The parity of what is not checked yet."""


@contextmanager
def new_bundle(out: Path, target: Target, facts: Mapping[str, Any], on_progress: OnProgress) -> Iterator[BundleWriter]:
    """Yield a writer whose folder becomes `out` when the block ends; `facts` are all that the bundle depends on.

    Raises InputError when `out` is more than a bundle, the target's toolchain or runtime is missing, or another export
    works on `out`. On any error `out` is left as it was; what is finished is taken up by the next export of the same
    facts.
    """
    require_replaceable(out)
    require_toolchains(target)
    with unfinished_folder(out, facts) as work:
        yield BundleWriter(work, out, target, on_progress)
        try:
            require_replaceable(out)  # once more: an export takes hours, and `out` is what a user works with meanwhile
        except InputError as error:
            raise CutShort(str(error)) from None


class BundleWriter:
    """Writes a bundle: `write` each component in the order in which an app runs them, then `finish` once."""

    def __init__(self, work: Unfinished, out: Path, target: Target, on_progress: OnProgress) -> None:
        self.work, self.out, self.target, self.on_progress = work, out, target, on_progress
        self._entries: dict[str, Any] = {}

    def require_valid(
        self,
        graphs: Sequence[Graph],
        options: HypernetOptions,
        layout: Layout,
        hypernet: LoadedPredictor | None = None,
        pipeline: Mapping[str, Any] | None = None,
    ) -> None:
        """Refuse what `finish` would, before hours of work: facts outside the manifest's schema, and too many inputs.

        Of `graphs` the sizes alone are read; the other arguments are those of `finish`, as far as they are known.
        """
        facts = make_manifest(options, layout, {}, hypernet, pipeline)
        check_facts({name: value for name, value in facts.items() if name != "components"})
        for graph in graphs:
            total = sum(math.prod(graph.fixed(shape)) for shape in graph.inputs.values())
            if total > MAX_ELEMENTS:
                raise InputError(
                    f"{graph.name}: its inputs would hold {total:,} numbers, over {MAX_ELEMENTS:,}; give a lower "
                    "`rank` or fewer `loras`"
                )

    def write(self, graph: Graph, precision: str, prepare: Callable[[], None] | None = None) -> None:
        """Write a component as `write_component` does, unless a stopped export finished it."""
        name, work = graph.name, self.work
        entry = work.kept(name)
        if entry is None:
            artifact = f"{name}{self.target.suffix}"
            work.discard(artifact)
            try:
                entry = write_component(work.folder, graph, self.target, precision, self.on_progress, prepare)
            except BaseException:
                work.discard(artifact)  # A full disk needs the space.
                raise
            work.keep(name, entry)
        else:
            self.on_progress(f"{name}: taken from the export that was stopped")
            graph.give_back()
        self._entries[name] = entry

    def finish(
        self,
        options: HypernetOptions,
        layout: Layout,
        hypernet: LoadedPredictor | None = None,
        pipeline: Mapping[str, Any] | None = None,
    ) -> Report:
        """Check all that was written, unless told not to, and write the manifest. Raises FailedCheck if it failed."""
        folder = self.work.folder
        manifest = make_manifest(options, layout, self._entries, hypernet, pipeline)
        rows = [] if options.unchecked else check_all(Bundle(folder, manifest, verify=False), self.on_progress)
        record_parity(manifest, rows)
        write_manifest(folder, manifest)
        Bundle.open(folder, verify=False)  # The sums are those that were taken when the files were written.
        return Report(self.out, tuple(rows), manifest, hypernet.notes if hypernet else ())


def write_component(
    folder: Path,
    graph: Graph,
    target: Target,
    precision: str,
    on_progress: OnProgress,
    prepare: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Write a graph's artifact and golden file into a bundle's folder; return its manifest entry, not yet checked.

    `prepare` is called once the golden outputs are computed, and may rewrite the module for its target. A module that
    the graph owns is empty afterwards, another one is left as it was. Raises InputError for a precision that is not
    offered.
    """
    target.require(graph.name, precision)
    convert = target.load_converter()
    artifact, golden = folder / f"{graph.name}{target.suffix}", folder / "golden" / f"{graph.name}.safetensors"
    recipe = golden_recipe(graph)
    on_progress(f"{graph.name}: running PyTorch in fp32 on the golden inputs")
    write_golden(graph.module if graph.reference is None else graph.reference, recipe, golden)
    on_progress(f"{graph.name}: converting to {target.name}")
    if prepare is not None:
        prepare()
    graph = graph.taken()
    convert(graph, precision, artifact)
    graph.give_back()  # The check that follows needs the memory.
    entry = component_entry(folder, graph, target, precision, artifact, golden, recipe)
    return entry | {"running_bytes": entry["bytes"] + _bytes_beside(graph, target, precision)}


def _bytes_beside(graph: Graph, target: Target, precision: str) -> int:
    """Return the bytes of a graph's inputs and of its results that are in memory together, beside its weights."""
    itemsize = np.dtype(target.io_dtype(precision)).itemsize
    inputs = sum(math.prod(graph.fixed(shape)) for shape in graph.inputs.values())
    return inputs * itemsize + live_bytes(graph, itemsize)


def check_all(bundle: Bundle, on_progress: OnProgress) -> list[CheckRow]:
    """Check every component of a bundle, and the whole pipeline where it is one; return a row a runtime.

    Raises FailedCheck at the first component that did not pass in every runtime of this machine, and CutShort where one
    could not run it.
    """
    rows: list[CheckRow] = []
    for name in bundle.manifest["components"]:
        if name == "vae_decoder":
            _require_headroom(bundle)
        rows += _passed(check_component(bundle, name, on_progress))
    if "pipeline" in bundle.manifest:
        rows += _passed([check_pipeline(bundle, on_progress)])
    return rows


def _require_headroom(bundle: Bundle) -> None:
    """Refuse a decoder in fp16 that overflows, or nearly does, where that can be traced.

    SDXL's own VAE overflows in fp16, and what it then draws is black.
    """
    if bundle.manifest["target"] != "coreml" or bundle.component("vae_decoder").inputs[0].dtype != np.float16:
        return
    from runtime_py.overflow import overflow, trace_component  # It imports Core ML Tools.

    fault = overflow(trace_component(bundle, "vae_decoder"))
    if fault is not None:
        raise FailedCheck(
            f"vae_decoder: {fault}; leave out `vae_precision`, or export a base with a VAE that was made for fp16, "
            "such as madebyollin/sdxl-vae-fp16-fix; no bundle was written"
        )


def _passed(rows: list[CheckRow]) -> list[CheckRow]:
    for row in rows:
        if row.status != "passed":
            runtime = row.runtime or "the runtime"
            error = FailedCheck if row.status == "failed" else CutShort
            raise error(f"{row.component} in {runtime}: {row.reason}; no bundle was written")
    return rows


def file_entry(folder: Path, path: Path) -> dict[str, Any]:
    """Return the name, size and hash of a file (or folder) in a bundle's folder."""
    size, digest = tree_sha256(path)
    return {"file": path.relative_to(folder).as_posix(), "bytes": size, "sha256": digest}


def component_entry(
    folder: Path, graph: Graph, target: Target, precision: str, artifact: Path, golden: Path, recipe: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a component's entry in the manifest, not yet checked. Its two files lie in `folder` already."""
    dtype = target.io_dtype(precision)
    dtypes = dict.fromkeys(graph.inputs, dtype) | {name: _DTYPES[kind] for name, kind in graph.dtypes.items()}

    def tensor(name: str, dtype: str, shape: Shape) -> dict[str, Any]:
        return {"name": name, "dtype": dtype, "shape": list(shape if target.free_rank else graph.fixed(shape))}

    allowed = target.require(graph.name, precision)
    if not any(name.startswith(COEFFICIENTS) for name in graph.inputs):
        allowed = replace(allowed, delta=None)  # no LoRA changes its output
    units = target.compute_units(graph.name, precision)
    return {
        **file_entry(folder, artifact),
        **({"compute_units": units} if units else {}),
        "inputs": [tensor(name, dtypes[name], shape) for name, shape in graph.inputs.items()],
        "outputs": [tensor(name, dtype, shape) for name, shape in graph.outputs.items()],
        "golden": {**file_entry(folder, golden), "inputs": dict(recipe)},
        "tolerance": allowed.to_json(),
        "parity": NOT_RUN,
    }


def make_manifest(
    options: HypernetOptions,
    layout: Layout,
    components: Mapping[str, Any],
    hypernet: LoadedPredictor | None = None,
    pipeline: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the manifest of a bundle that is not yet checked.

    `hypernet` is given where the bundle holds one, `pipeline` (its facts) where it draws images.
    """
    network = hypernet and {
        "source": hypernet.source,
        "trained": hypernet.trained,
        "learned": list(hypernet.predictor.config.learned),
        "kv_rule": hypernet.predictor.config.kv_rule,
        "sha256": hypernet.sha256,
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "toolkit_version": __version__,
        "base": layout.base,
        "target": options.target,
        "precision": options.precision,
        **({"soc": _soc_entry(options)} if options.soc else {}),
        **({"hypernetwork": network} if network else {}),
        "layout": layout.to_json(options.stack),
        "golden_generator": {"name": GENERATOR, "text": GENERATOR_TEXT},
        "components": dict(components),
        **({"pipeline": pipeline} if pipeline else {}),
    }


def _soc_entry(options: HypernetOptions) -> dict[str, Any]:
    """Return what a bundle is compiled for, in the words of those who load it."""
    soc = find_target(options.target).compiled_for(options.soc).soc
    assert soc is not None
    return {"name": soc.name, "htp_arch": soc.htp_arch, "model": soc.model, "sdk": sdk_version()}


def record_parity(manifest: Mapping[str, Any], rows: Sequence[CheckRow]) -> None:
    """Put into a manifest what the check found: of each component its first row, which is nearest to a device."""
    found = {row.component: row.parity().to_json() for row in reversed(rows)}
    for name, entry in manifest["components"].items():
        entry["parity"] = found.get(name, NOT_RUN)
    if "pipeline" in manifest:
        manifest["pipeline"]["golden"]["parity"] = found.get("pipeline", NOT_RUN)


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write a bundle's manifest."""
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, allow_nan=False) + "\n", encoding="utf-8")
