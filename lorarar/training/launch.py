"""How a training runs on this machine: its place among the processes of a launch, its device, its base, its numbers."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from lorarar.base.names import DTYPES
from lorarar.errors import InputError, said_by
from lorarar.toolchains import TRAINING, named_if_missing
from lorarar.training.hyper_settings import HyperSettings, ZipSettings
from lorarar.training.settings import LoraSettings

if TYPE_CHECKING:
    import torch

    from lorarar.base.components import Components

Trainable = TypeVar("Trainable", LoraSettings, HyperSettings, ZipSettings)


@dataclass(frozen=True)
class BaseLoading:
    """How a training loads its base, in a form that other processes can be given."""

    base: str
    untrained: bool
    resolution: int | None  # None: the base's own
    dtype: str  # a value of DTYPES
    device: str

    @classmethod
    def of(
        cls, base: str, process: Any, mixed_precision: str, resolution: int | None = None, untrained: bool = False
    ) -> BaseLoading:
        """Return what a process of `process_state` needs to train on a base in that precision."""
        device = "cpu" if process.device.type == "cpu" else str(process.device)
        return cls(base, untrained, resolution, DTYPES[mixed_precision], device)

    def load(self) -> Components:
        """Load the base; raises InputError as `load_components` does."""
        import torch

        from lorarar.base.components import load_components  # imports torch, and the commands' --help must not

        return load_components(
            self.base,
            untrained=self.untrained,
            resolution=self.resolution,
            dtype=getattr(torch, self.dtype),
            device=self.device,
        )


def check_device(device: str) -> str:
    """Return the device to work on, for auto a GPU where PyTorch finds one. Raises InputError for one that is not here.

    Imports torch.
    """
    import torch

    if ":" in device:  # accelerate takes the first one of those that it sees
        raise InputError(f"`device` is {device!r}; give cuda, and choose the GPU by CUDA_VISIBLE_DEVICES")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).item()  # read back: `meta` has no numbers
    except (RuntimeError, AssertionError):  # PyTorch asserts that it was built for a GPU
        there = "cuda" if torch.cuda.is_available() else "no GPU"
        raise InputError(f"`device` is {device!r}, but PyTorch finds {there} here; give cpu, or leave it out") from None
    return device


def process_state() -> Any:
    """Return accelerate's PartialState: device, number of processes, whether this is the main one.

    Several processes without a GPU (gloo) come from `accelerate launch --multi_gpu` or `torchrun --nproc-per-node`:
    with --cpu, accelerate's launcher starts a single one unless it has MPI. And accelerate lets them join each other
    only when told that the device is the CPU.
    """
    with named_if_missing(TRAINING, "train"):
        import torch
        from accelerate import PartialState
    wants_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes")
    return PartialState(cpu=wants_cpu or not torch.accelerator.is_available())


def command_process() -> Any:
    """Return `process_state` for a command, which has the process to itself: `flush_denormals` is called as well."""
    with named_if_missing(TRAINING, "train"):
        flush_denormals()  # first: threads that are started keep what they find
    return process_state()


def with_fastest_precision(settings: Trainable, process: Any) -> Trainable:
    """Return the settings with bf16 on a GPU that has it, and without mixed precision elsewhere."""
    import torch

    bf16 = process.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return replace(settings, mixed_precision="bf16" if bf16 else "no")


def flush_denormals() -> None:
    """Let this thread, and those that it starts from now on, take numbers below fp32's 1.2e-38 for zero.

    Call this before torch's first parallel work: its threads keep what they were started with. Attention gives such
    weights to what it has learned to ignore, and a CPU multiplies them in microcode. On two cores of a Xeon, a step of
    the miniature's base took 0.9 s at the start and 1.2 to 1.7 s after 2000 steps of training; with denormals flushed
    it stays at 0.9 s. The training of a LoRA is a tenth faster, and gives the same bytes.
    """
    import torch

    torch.set_flush_denormal(True)


def new_accelerator(device: torch.device, mixed_precision: str, accumulation: int = 1) -> Any:
    """Return accelerate's Accelerator on the components' device; InputError where it can't have that precision."""
    with named_if_missing(TRAINING, "train"):
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, GradientState
        from accelerate.utils import GradientAccumulationPlugin
    # accelerate keeps the first precision for the whole process and refuses another; here each training has its own.
    # It has no public way to forget one (accelerate 1.15); its own tests do it like this.
    AcceleratorState._reset_state()
    # A training that was interrupted between two passes of a step leaves the next one without steps of the optimizer.
    GradientState._reset_state()
    # accelerate takes fp16 there, and trains without autocast or a scale of the loss: small gradients vanish.
    if device.type == "cpu" and mixed_precision == "fp16":
        raise InputError("`mixed_precision` is fp16, which a CPU can't train with; give bf16 or no")
    try:
        return Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=mixed_precision,
            # A plugin, since accelerate takes a number of the environment over a bare argument.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=accumulation),
        )
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"`mixed_precision` is {mixed_precision}, which {device.type} can't train with ({said_by(error)}); use no"
        ) from None
