"""ExecuTorch's own runtime, as phones run it. Its Python binding takes torch tensors, so torch is needed here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import version

import numpy as np
import torch
from executorch.extension.pybindings import portable_lib
from executorch.runtime import Runtime

from lorarar.errors import InputError
from runtime_py.backends import checked_inputs, unusable
from runtime_py.bundle import Component


class ExecuTorchSession:
    """A program with XNNPACK delegates on the CPU."""

    runtime = "executorch (XNNPACK)"
    note = ""

    def __init__(self, component: Component, threads: int | None) -> None:
        self.version = version("executorch")
        self.component = component
        if threads is not None:
            portable_lib._unsafe_reset_threadpool(threads)
        try:
            self.program = Runtime.get().load_program(component.path)
            self.method = self.program.load_method("forward")
        except RuntimeError as error:
            raise unusable(component, "ExecuTorch", "load", error) from None
        if self.method is None:
            raise InputError(f"{component.path}: it has no method forward; export the bundle again")
        meta = self.method.metadata
        sizes = [tuple(meta.input_tensor_meta(index).sizes()) for index in range(meta.num_inputs())]
        if sizes != [spec.shape for spec in component.inputs] or meta.num_outputs() != len(component.outputs):
            raise InputError(f"{component.path}: its tensors are not the manifest's; export the bundle again")

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        ordered = [torch.from_numpy(tensor) for tensor in checked_inputs(self.component, inputs).values()]
        assert self.method is not None
        try:
            outputs = self.method.execute(ordered)
        except RuntimeError as error:
            raise unusable(self.component, "ExecuTorch", "run", error) from None
        names = [spec.name for spec in self.component.outputs]
        return {name: output.numpy() for name, output in zip(names, outputs, strict=True)}


def sessions(component: Component, threads: int | None) -> Iterator[ExecuTorchSession]:
    yield ExecuTorchSession(component, threads)
