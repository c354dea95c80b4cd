"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from lorarar.errors import InputError
from lorarar.toolchains import import_onnxruntime
from runtime_py.backends import Backend, checked_inputs, checked_outputs, unusable
from runtime_py.component import MEND, Component

# Where a CPU has no fp16, ONNX Runtime computes in fp32 and keeps widened weights beside the stored ones: up to five
# times the file. In an artifact of this many bytes or more, each weight is widened in each run instead, just before it
# is used, and stays mapped from its file.
WIDEN_AT_LOAD = 2_000_000_000
_WIDENER = "FuseFp16InitializerToFp32NodeTransformer"
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int32)": np.int32}


class OnnxRunner:
    """An ONNX model in ONNX Runtime on the CPU."""

    runtime = "onnxruntime (CPU)"
    note = ""

    def __init__(self, component: Component, threads: int | None) -> None:
        ort = import_onnxruntime()
        self.version = ort.__version__
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors; a warning tells of every initializer that no node reads
        # It would plan a second run's results as one block, beside the memory of the first run's, which is kept.
        options.enable_mem_pattern = False
        if threads is not None:
            options.intra_op_num_threads = threads
        if _stays_narrow(component):
            # The default order widens all weights before anything else.
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        self.component = component
        try:
            self.session = ort.InferenceSession(
                str(component.onnx_model),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=disabled_optimizers(component),
            )
        except Exception as error:  # onnxruntime raises a class of its own for each status, all of them unrelated
            raise unusable(component, "onnxruntime", "load", error) from None
        _check_signature(self.session, component)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the model once."""
        given = checked_inputs(self.component, inputs)
        names = [spec.name for spec in self.component.outputs]
        try:
            outputs = self.session.run(names, given)
        except Exception as error:  # as above
            raise unusable(self.component, "onnxruntime", "run", error) from None
        return checked_outputs(self.component, dict(zip(names, outputs, strict=True)))


BACKEND = Backend(
    ("onnxruntime",), "onnx", import_onnxruntime, lambda component, threads: [partial(OnnxRunner, component, threads)]
)


def _stays_narrow(component: Component) -> bool:
    """Tell whether weights of half precision are too large to be widened when they are loaded."""
    return component.is_half and component.entry["bytes"] > WIDEN_AT_LOAD


def disabled_optimizers(component: Component) -> list[str]:
    """Return the optimizers that a component can't afford."""
    return ["ConstantFolding", _WIDENER] if _stays_narrow(component) else []


def _check_signature(session: Any, component: Component) -> None:
    for specs, have in ((component.inputs, session.get_inputs()), (component.outputs, session.get_outputs())):
        found = {value.name: (_DTYPES.get(value.type), tuple(value.shape)) for value in have}
        for spec in specs:
            dtype, shape = found.get(spec.name, (None, ()))
            same = len(shape) == len(spec.shape) and all(
                isinstance(want, str) or size == want for size, want in zip(shape, spec.shape, strict=True)
            )
            if dtype != spec.dtype or not same:
                raise InputError(f"{component.path}: {spec.name} is not as the manifest says; {MEND}")
