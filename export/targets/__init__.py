"""Targets: how a graph becomes an artifact. One file a format; its toolchain is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import cast

from export.graph import Graph
from lorarar.errors import InputError
from lorarar.toolchains import missing_toolchain, quiet_toolchains

NEURAL_ENGINE_BYTES = 1_000_000_000
"""Weights that one Core ML model may have to be taken by the Neural Engine; about 1 GB, by those who met the limit."""

Convert = Callable[[Graph, str, Path], None]
"""Writes a graph in a precision to a path (a file or a folder, as the format has it)."""


@dataclass(frozen=True)
class Target:
    """One artifact format."""

    name: str
    suffix: str
    default_precision: str
    dynamic_rank: bool
    packages: tuple[str, ...]

    def load(self) -> Convert:
        """The target's `convert`; InputError names the extra to install when its toolchain is missing."""
        try:
            with quiet_toolchains():
                return cast(Convert, import_module(f"export.targets.{self.name}").convert)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in self.packages:
                raise
            raise missing_toolchain(self.packages[0], self.name) from None


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("onnx", ".onnx", "fp32", dynamic_rank=True, packages=("onnx", "onnxscript", "torch")),
        Target("coreml", ".mlpackage", "fp16", dynamic_rank=False, packages=("coremltools", "torch")),
        Target("executorch", ".pte", "fp32", dynamic_rank=False, packages=("executorch", "torch")),
    )
}


def find_target(name: str) -> Target:
    if name not in TARGETS:
        raise InputError(f"unknown target {name!r}; valid are {', '.join(TARGETS)}")
    return TARGETS[name]
