"""ExecuTorch's own runtime, as phones run it. Its Python binding takes torch tensors, so torch is needed here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np

from lorarar.errors import InputError
from lorarar.toolchains import quiet_stderr, quiet_toolchains
from runtime_py.backends import Backend, checked_inputs, checked_outputs, unusable
from runtime_py.component import MEND, Component


class ExecuTorchRunner:
    """A program with XNNPACK delegates on the CPU."""

    runtime = "executorch (XNNPACK)"
    note = ""

    def __init__(self, component: Component, threads: int | None) -> None:
        from executorch.runtime import Runtime

        self.version = version("executorch")
        self.component = component
        start_threads(threads)
        try:
            self.program = Runtime.get().load_program(component.path)
            self.method = self.program.load_method("forward")
        except RuntimeError as error:
            raise unusable(component, "ExecuTorch", "load", error) from None
        if self.method is None:
            raise InputError(f"{component.path}: it has no method forward; {MEND}")
        meta = self.method.metadata
        sizes = [tuple(meta.input_tensor_meta(index).sizes()) for index in range(meta.num_inputs())]
        if sizes != [spec.shape for spec in component.inputs] or meta.num_outputs() != len(component.outputs):
            raise component.other_tensors()

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the program once."""
        import torch

        ordered = [torch.from_numpy(tensor) for tensor in checked_inputs(self.component, inputs).values()]
        assert self.method is not None
        try:
            outputs = self.method.execute(ordered)
        except RuntimeError as error:
            raise unusable(self.component, "ExecuTorch", "run", error) from None
        names = [spec.name for spec in self.component.outputs]
        made = {name: output.numpy() for name, output in zip(names, outputs, strict=True)}
        return checked_outputs(self.component, made)


def load() -> None:
    """Import torch and ExecuTorch's runtime."""
    import executorch.runtime  # noqa: F401
    import torch  # noqa: F401


BACKEND = Backend(
    ("executorch", "torch"),
    "executorch",
    load,
    lambda component, threads: [partial(ExecuTorchRunner, component, threads)],
)


def start_threads(threads: int | None) -> Any:
    """Start ExecuTorch's threads, of which there is one pool a process, and return its binding."""
    with quiet_toolchains():
        from executorch.extension.pybindings import portable_lib

    # It writes five lines about the files in which some kernels of Linux describe an ARM CPU.
    with quiet_stderr():
        if threads is None:
            portable_lib._threadpool_get_thread_count()
        else:
            portable_lib._unsafe_reset_threadpool(threads)
    return portable_lib
