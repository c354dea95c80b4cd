"""Core AI: Apple's own runtime, with the system's kernels on macOS and those of its interpreter on Linux."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lorarar.errors import InputError
from lorarar.toolchains import import_coreai, quiet_stderr
from runtime_py.backends import Backend, checked_inputs, unusable
from runtime_py.component import Component
from runtime_py.processes import end_of, start

NO_APPLE = (
    "Apple's runtime on Linux, with products of fp16 in fp32, since its own are 190 times slower and add up in fp16; "
    "Apple's kernels need macOS or a device"
)
_ENTRY = "main"


class CoreAIRunner:
    """A program in Apple's runtime. It is lowered into a temporary folder, which takes the room of its weights."""

    def __init__(self, component: Component) -> None:
        self.component = component
        self.version = version("coreai-core")
        apple = sys.platform == "darwin"
        self.runtime = "Core AI" if apple else "Core AI (Linux, CPU)"
        self.note = "" if apple else NO_APPLE
        try:
            with quiet_stderr():
                self._model = _load(component.path) if apple else self._load_lowered()
                self._function = self._model.load_function(_ENTRY)
        except (RuntimeError, ValueError, KeyError, OSError) as error:
            raise unusable(component, "Core AI", "load", error) from None
        _check_signature(component, self._function.desc)

    def _load_lowered(self) -> Any:
        """Lower the program as Apple's `executable` does, but for its products; nothing is changed in the bundle."""
        with tempfile.TemporaryDirectory(prefix="lorarar-", suffix=".aimodelx") as name:
            folder = Path(name)
            free, needed = shutil.disk_usage(folder).free, self.component.entry["bytes"]
            if free < needed:
                raise InputError(
                    f"{self.component.path}: Core AI lowers it into {folder.parent}, which has {free / 1e9:.1f} GB of "
                    f"the {needed / 1e9:.1f} GB that this takes; free some, or set TMPDIR to another folder"
                )
            # In a process of its own, which Apple's reader ends (SIGABRT) when the file is damaged.
            process = start(
                "runtime_py.coreai_lowering", self.component.path, folder,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            said, _ = process.communicate()
            if process.returncode != 0:
                raise unusable(self.component, "Core AI", "load", RuntimeError(end_of(process, said)))
            return _load(folder)  # which maps its files, so that their names can go

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the program once."""
        from coreai.runtime import NDArray

        given = {name: NDArray(value) for name, value in checked_inputs(self.component, inputs).items()}
        try:
            outputs = asyncio.run(self._function(given))
        except RuntimeError as error:
            raise unusable(self.component, "Core AI", "run", error) from None
        return {spec.name: np.array(outputs[spec.name].numpy()) for spec in self.component.outputs}


def _load(path: Path) -> Any:
    from coreai.runtime import AIModel

    return asyncio.run(AIModel.load(path))


def _check_signature(component: Component, function: Any) -> None:
    """Refuse a program whose tensors are not the manifest's."""
    have = {name: tuple(function.input_descriptor(name).shape) for name in function.input_names}
    made = {name: tuple(function.output_descriptor(name).shape) for name in function.output_names}
    for specs, shapes in ((component.inputs, have), (component.outputs, made)):
        if {spec.name: spec.shape for spec in specs} != shapes:
            raise InputError(f"{component.path}: its tensors are not the manifest's; export the bundle again")


BACKEND = Backend(("coreai",), "coreai", import_coreai, lambda component, threads: [CoreAIRunner(component)])
