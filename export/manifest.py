"""Make a bundle's manifest; `runtime_py/manifest.schema.json` is its published schema."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from export.graph import Graph
from export.targets import Target
from lorarar import __version__
from lorarar.hypernet.checkpoints import LoadedHypernet
from lorarar.layout import Layout, Shape
from runtime_py.bundle import MANIFEST, tree_sha256
from runtime_py.check import CheckRow
from runtime_py.golden import GENERATOR, GENERATOR_TEXT
from runtime_py.parity import Parity

SCHEMA_VERSION = 1
_DTYPES = {torch.float32: "float32", torch.int32: "int32"}
NOT_RUN = Parity("not_run", "being exported", None, None, "", "", "").to_json()
"""The parity of what is not checked yet."""


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

    return {
        **file_entry(folder, artifact),
        "inputs": [tensor(name, dtypes[name], shape) for name, shape in graph.inputs.items()],
        "outputs": [tensor(name, dtype, shape) for name, shape in graph.outputs.items()],
        "golden": {**file_entry(folder, golden), "inputs": dict(recipe)},
        "tolerance": asdict(target.require(graph.name, precision)),
        "parity": NOT_RUN,
    }


def make_manifest(
    target: Target,
    precision: str,
    rank: int,
    layout: Layout,
    components: Mapping[str, Any],
    hypernet: LoadedHypernet | None = None,
    pipeline: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the manifest of a bundle that is not yet checked.

    `hypernet` is given where the bundle holds one, `pipeline` (its facts) where it draws images.
    """
    network = hypernet and {
        "source": hypernet.source,
        "trained": hypernet.trained,
        "kv_rule": hypernet.hypernet.config.kv_rule,
        "sha256": hypernet.sha256,
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "toolkit_version": __version__,
        "base": layout.base,
        "target": target.name,
        "precision": precision,
        **({"hypernetwork": network} if network else {}),
        "layout": layout.to_json(rank),
        "golden_generator": {"name": GENERATOR, "text": GENERATOR_TEXT},
        "components": dict(components),
        **({"pipeline": pipeline} if pipeline else {}),
    }


def record_parity(manifest: Mapping[str, Any], rows: Sequence[CheckRow]) -> None:
    """Put into a manifest what the check found: of each component its first row, which is nearest to a device."""
    found = {row.component: row.parity().to_json() for row in reversed(rows)}
    for name, entry in manifest["components"].items():
        entry["parity"] = found[name]
    if "pipeline" in manifest:
        manifest["pipeline"]["golden"]["parity"] = found["pipeline"]


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write a bundle's manifest."""
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, allow_nan=False) + "\n", encoding="utf-8")
