"""ONNX Runtime, and its adapter files: a saved adapter can be given in place of inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lorarar.errors import InputError
from lorarar.files import atomic_file
from lorarar.toolchains import import_onnxruntime
from runtime_py.backends import checked_inputs, unusable
from runtime_py.bundle import ONNX_MODEL, Component

ort = import_onnxruntime()

ADAPTER_VERSION = 1
# Where a CPU has no fp16, ONNX Runtime computes in fp32 and keeps widened weights beside the stored ones: up to five
# times the file. From this many bytes on, each weight is widened in each run instead, just before it is used, and stays
# mapped from its file.
_WIDEN_AT_LOAD = 2_000_000_000
_WIDENER = "FuseFp16InitializerToFp32NodeTransformer"
_DTYPES = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int32)": np.dtype(np.int32),
}


class OnnxSession:
    """A merger or UNet in ONNX Runtime on the CPU."""

    runtime = "onnxruntime (CPU)"
    version = ort.__version__
    note = ""

    def __init__(self, component: Component, threads: int | None) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        if _stays_narrow(component):
            # The default order widens all weights before anything else.
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        self.component = component
        path = component.path / ONNX_MODEL if component.path.is_dir() else component.path
        try:
            self.session = ort.InferenceSession(
                str(path),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=_without(component),
            )
        except Exception as error:  # onnxruntime raises a class of its own for each status, all of them unrelated
            raise unusable(component, "onnxruntime", "load", error) from None
        _check_signature(self.session, component)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._run(checked_inputs(self.component, inputs), None)

    def run_with_adapters(
        self, inputs: Mapping[str, np.ndarray], adapters: Sequence[OnnxAdapter]
    ) -> dict[str, np.ndarray]:
        """Run with inputs taken from `.onnx_adapter` files (memory-mapped, not copied).

        ONNX Runtime takes the first of two adapters with the same names and says nothing; that is refused here.
        """
        given: dict[str, str] = dict.fromkeys(inputs, "the inputs")
        options = ort.RunOptions()
        for adapter in adapters:
            for name in adapter.tensors:
                if name in given:
                    raise InputError(f"{name} is given twice, by {given[name]} and by {adapter.path}; give it once")
                given[name] = str(adapter.path)
            options.add_active_adapter(adapter.native)
        tensors = {name: value for adapter in adapters for name, value in adapter.tensors.items()}
        checked = checked_inputs(self.component, {**inputs, **tensors})
        return self._run({name: checked[name] for name in inputs}, options)

    def _run(self, inputs: Mapping[str, np.ndarray], options: Any) -> dict[str, np.ndarray]:
        names = [spec.name for spec in self.component.outputs]
        try:
            outputs = self.session.run(names, inputs, options)
        except Exception as error:  # see above
            raise unusable(self.component, "onnxruntime", "run", error) from None
        return dict(zip(names, outputs, strict=True))


class OnnxAdapter:
    """A `.onnx_adapter` file, opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise InputError(f"{path}: no such adapter file; make one with  lorarar adapter")
        try:
            self.native = ort.LoraAdapter()
            self.native.Load(str(path))
            values = ort.AdapterFormat.read_adapter(str(path)).get_parameters()
            self.tensors: dict[str, np.ndarray] = {name: value.numpy() for name, value in values.items()}
        except Exception:  # see above
            raise InputError(f"{path}: not an .onnx_adapter file; make it again") from None


def save_adapter(tensors: Mapping[str, np.ndarray], path: Path) -> None:
    """Write tensors by input name (for example `content_qo_640x640_down`) as an `.onnx_adapter` file."""
    adapter = ort.AdapterFormat()
    adapter.set_adapter_version(ADAPTER_VERSION)
    adapter.set_model_version(ADAPTER_VERSION)
    adapter.set_parameters({name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in sorted(tensors.items())})
    with atomic_file(path) as temporary:
        adapter.export_adapter(str(temporary))


def sessions(component: Component, threads: int | None) -> Iterator[OnnxSession]:
    yield OnnxSession(component, threads)


def _half(component: Component) -> bool:
    return any(spec.dtype == np.float16 for spec in component.inputs)


def _stays_narrow(component: Component) -> bool:
    """Whether weights of half precision are too large to be widened when they are loaded."""
    return _half(component) and component.entry["bytes"] > _WIDEN_AT_LOAD


def _without(component: Component) -> list[str]:
    """The optimizers that a component can't afford, or does not survive: versions 1.24 to 1.29 crash where a merger
    widens an input that has a default."""
    if _stays_narrow(component):
        return ["ConstantFolding", _WIDENER]
    return [_WIDENER] if _half(component) and component.name == "merger" else []


def _check_signature(session: Any, component: Component) -> None:
    # Factors have defaults of rank 0, so that adapters may bring them: ONNX Runtime lists them apart.
    inputs = [*session.get_inputs(), *session.get_overridable_initializers()]
    for specs, have in ((component.inputs, inputs), (component.outputs, session.get_outputs())):
        found = {value.name: (_DTYPES.get(value.type), tuple(value.shape)) for value in have}
        for spec in specs:
            dtype, shape = found.get(spec.name, (None, ()))
            same = len(shape) == len(spec.shape) and all(
                isinstance(want, str) or size == want for size, want in zip(shape, spec.shape, strict=True)
            )
            if dtype != np.dtype(spec.dtype) or not same:
                raise InputError(f"{component.path}: {spec.name} is not as the manifest says; export the bundle again")
