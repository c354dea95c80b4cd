"""One component of a bundle: its artifact, its golden file and its entry in the manifest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from export.golden import golden_recipe, write_golden
from export.graph import Graph
from export.manifest import component_entry, io_dtype
from export.targets import Target
from export.tolerance import tolerance

Progress = Callable[[str], None]


def write_component(
    folder: Path,
    graph: Graph,
    target: Target,
    precision: str,
    progress: Progress,
    reference: nn.Module | None = None,
    prepare: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Write a graph's artifact and golden file into a bundle's folder; returns its entry, not yet checked.

    `reference` computes the golden outputs (default: the graph's module); `prepare` is called after them and may
    rewrite the module for its target. A module that the graph owns is empty afterwards. Raises InputError for a
    precision that is not offered.
    """
    allowed = tolerance(graph.name, target.name, precision)
    convert = target.load()
    artifact, golden = f"{graph.name}{target.suffix}", f"golden/{graph.name}.safetensors"
    recipe = golden_recipe(graph)
    progress(f"{graph.name}: running PyTorch in fp32 on the golden inputs")
    write_golden(graph.module if reference is None else reference, recipe, folder / golden)
    progress(f"{graph.name}: converting to {target.name}")
    prepare()
    convert(graph, precision, folder / artifact)
    graph.give_back()  # the check that follows needs the memory
    dtype = io_dtype(target.name, precision)
    return component_entry(folder, graph, artifact, golden, recipe, allowed, dtype, target.dynamic_rank)
