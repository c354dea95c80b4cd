"""What the merge benchmark runs. Needs torch; the artifacts' runtimes are imported when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.timing import Case
from lorarar.hypernet.graph import Merger
from lorarar.hypernet.network import Hypernetwork
from lorarar.layout import ROLES, SCALES, Group, Layout
from runtime_py.backends.onnx import OnnxRunner
from runtime_py.bundle import Bundle

_DENSE_AT_ONCE = 6  # layers: 240 ΔW of SDXL and their copies would take 6 GB


def random_inputs(layout: Layout, rank: int, seed: int = 0) -> dict[str, Tensor]:
    """Return the merger's inputs, filled with seeded random numbers as small as a LoRA's."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for group in layout.groups:
        count = len(group.modules)
        for role in ROLES:
            for end, shape in (
                (group.down, (count, rank, group.in_features)),
                (group.up, (count, group.out_features, rank)),
            ):
                tensors[f"{role}_{end}"] = torch.randn(shape, generator=generator) * 0.02
    return tensors | {name: torch.ones(1) for name in SCALES}


def pytorch_cases(hypernet: Hypernetwork, layout: Layout, inputs: Mapping[str, Tensor]) -> dict[str, Case]:
    """Return the cases of PyTorch: the coefficients in three forms, and the whole merger."""

    def factors(group: Group) -> list[Tensor]:
        return [inputs[f"{role}_{end}"] for role in ROLES for end in (group.down, group.up)]

    learned = [factors(group) for group in layout.part("qo")]

    def dense() -> list[Tensor]:
        found = []
        for group in learned:
            for c_down, c_up, s_down, s_up in zip(*(tensor.split(_DENSE_AT_ONCE) for tensor in group), strict=True):
                found.append(hypernet.dense(c_up @ c_down, s_up @ s_down))
        return found

    prepared = [
        (hypernet.prepare(c_down, c_up, "content"), hypernet.prepare(s_down, s_up, "style"))
        for c_down, c_up, s_down, s_up in learned
    ]
    merger = Merger(hypernet, layout)
    return {
        "dense": dense,
        "factored": lambda: [hypernet(*group) for group in learned],
        "prepared": lambda: [hypernet.combine(*pair) for pair in prepared],
        "merger": lambda: merger(**inputs),
    }


def artifact_case(target: str, bundle: Path, inputs: Mapping[str, Tensor], threads: int) -> Case:
    """Return one run of an artifact on inputs that are already in memory."""
    component = Bundle.open(bundle).component("merger")
    if target == "onnx":
        runner = OnnxRunner(component, threads)
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        return lambda: runner.run(arrays)
    from executorch.extension.pybindings import portable_lib

    # Not `runtime_py`'s runner: it copies every output, which an app that reads them in place does not need.
    portable_lib._unsafe_reset_threadpool(threads)
    program = portable_lib._load_for_executorch(str(component.path))
    ordered = [inputs[spec.name] for spec in component.inputs]
    return lambda: program.run_method("forward", ordered, clone_outputs=False)
