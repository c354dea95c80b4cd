"""Writing manifest.json; `runtime_py/manifest.schema.json` is its published schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from export.graph import Graph
from lorarar import __version__
from lorarar.errors import InputError
from lorarar.hypernet.checkpoints import LoadedHypernet
from lorarar.layout import Layout, Shape
from runtime_py.bundle import MANIFEST, tree_sha256
from runtime_py.golden import GENERATOR, GENERATOR_TEXT
from runtime_py.parity import Parity, Tolerance

SCHEMA_VERSION = 1
_KEPT: dict[torch.dtype | None, str] = {torch.float32: "float32", torch.int32: "int32"}
NOT_RUN = Parity("not_run", "being exported", None, None, "", "", "")


def io_dtype(target: str, precision: str) -> str:
    """The type of an artifact's inputs and outputs, but for those that stay as they are in every precision.

    Weights of few bits are for the base alone; Core ML's are made from its fp16 program.
    """
    return "float16" if precision == "fp16" or (target == "coreml" and precision != "fp32") else "float32"


def check_output(out: Path) -> None:
    """Refuse to overwrite what is not a bundle."""
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not a bundle; it is not overwritten: give --out a new name")


def file_entry(folder: Path, path: Path) -> dict[str, Any]:
    """Name, size and hash of a file (or folder) in a bundle's folder."""
    size, digest = tree_sha256(path)
    return {"file": path.relative_to(folder).as_posix(), "bytes": size, "sha256": digest}


def component_entry(
    folder: Path,
    graph: Graph,
    artifact: str,
    golden: str,
    recipe: Mapping[str, Any],
    tolerance: Tolerance,
    dtype: str,
    dynamic: bool,
) -> dict[str, Any]:
    """One entry of the manifest's `components`, for files that lie in `folder` already."""
    return {
        **file_entry(folder, folder / artifact),
        "inputs": [
            _tensor(graph, name, shape, _KEPT.get(graph.kept.get(name), dtype), dynamic)
            for name, shape in graph.inputs.items()
        ],
        "outputs": [_tensor(graph, name, shape, dtype, dynamic) for name, shape in graph.outputs.items()],
        "golden": {**file_entry(folder, folder / golden), "inputs": dict(recipe)},
        "tolerance": asdict(tolerance),
        "parity": NOT_RUN.to_json(),
    }


def _tensor(graph: Graph, name: str, shape: Shape, dtype: str, dynamic: bool) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape if dynamic else graph.fixed(shape))}


def manifest(
    target: str,
    precision: str,
    rank: int,
    layout: Layout,
    components: Mapping[str, Any],
    loaded: LoadedHypernet | None = None,
) -> dict[str, Any]:
    """The whole manifest; `loaded` is the merger's hypernetwork, where there is a merger."""
    network = loaded and {
        "source": loaded.source,
        "trained": loaded.trained,
        "kv_rule": loaded.hypernet.config.kv_rule,
        "sha256": loaded.sha256,
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "toolkit_version": __version__,
        "base": layout.base,
        "target": target,
        "precision": precision,
        **({"hypernetwork": network} if network else {}),
        "layout": layout.to_json(rank),
        "golden_generator": {"name": GENERATOR, "text": GENERATOR_TEXT},
        "components": dict(components),
    }


def write_manifest(folder: Path, data: Mapping[str, Any]) -> None:
    (folder / MANIFEST).write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
