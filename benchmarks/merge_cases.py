"""The things that `benchmarks.merge` runs. Needs torch; the artifacts' runtimes are imported when asked for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.merge_work import FLOAT_BYTES, Machine
from benchmarks.timing import interleave
from lorarar.errors import InputError
from lorarar.hypernet.graph import Merger
from lorarar.hypernet.network import Hypernetwork
from lorarar.layout import ROLES, SCALES, Group, Layout

Case = Callable[[], object]
_DENSE_AT_ONCE = 6  # layers: 240 ΔW of SDXL and their copies would take 6 GB
_SGEMM_SIZES = (1024, 2048, 3072)
_BANDWIDTH_FLOATS = 1 << 26  # 256 MB, larger than any cache


def measure_machine(rounds: int = 3) -> Machine:
    """The best sgemm rate of several sizes, and the rate at which memory is read."""
    data = torch.ones(_BANDWIDTH_FLOATS)
    with torch.inference_mode():
        samples = interleave({str(size): sgemm_case(size) for size in _SGEMM_SIZES}, rounds)
        read = interleave({"read": data.sum}, rounds)["read"]
    rate = max(2 * size**3 / samples[str(size)].best for size in _SGEMM_SIZES)
    return Machine(rate, _BANDWIDTH_FLOATS * FLOAT_BYTES / read.best)


def sgemm_case(size: int) -> Case:
    """One square product; run among the other cases it also tells whether the machine was busy."""
    square = torch.randn(size, size)
    out = torch.empty_like(square)
    return lambda: torch.mm(square, square, out=out)


def random_inputs(layout: Layout, rank: int, seed: int = 0) -> dict[str, Tensor]:
    """The merger's inputs, filled with seeded numbers of a LoRA's size."""
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
    """Coefficients in three forms, and the whole merger."""

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


def export(module: str, arguments: Sequence[str], out: Path) -> Path:
    """The artifact as users get it, made by the command that they use; it has been checked against PyTorch."""
    run_module(module, *arguments, "--out", str(out))
    return out


def run_module(module: str, *arguments: str) -> str:
    """Run one of our commands in a process of its own; its output. InputError with what it said when it fails."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise InputError(f"python -m {module} {' '.join(arguments[:2])} failed: {said[-1].removeprefix('error: ')}")
    return done.stdout


def artifact_case(target: str, bundle: Path, inputs: Mapping[str, Tensor], threads: int) -> Case:
    """One run of an artifact on inputs that are already in memory."""
    from runtime_py.bundle import Bundle

    component = Bundle.open(bundle).component("merger")
    if target == "onnx":
        from runtime_py.backends.onnx import OnnxRunner

        session = OnnxRunner(component, threads)
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        return lambda: session.run(arrays)
    from executorch.extension.pybindings import portable_lib

    # Not `runtime_py`'s session: it copies every output, which an app that reads them in place does not need.
    portable_lib._unsafe_reset_threadpool(threads)
    program = portable_lib._load_for_executorch(str(component.path))
    ordered = [inputs[spec.name] for spec in component.inputs]
    return lambda: program.run_method("forward", ordered, clone_outputs=False)
