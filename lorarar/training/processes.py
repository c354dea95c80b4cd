"""This process's place among those of a launch, its device, and how its CPU computes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from lorarar.errors import InputError
from lorarar.toolchains import missing_toolchain, quiet_toolchains

if TYPE_CHECKING:
    import torch


def process_state() -> Any:
    """accelerate's PartialState: device, number of processes, whether this is the main one. Flushes denormals.

    Several processes without a GPU (gloo) come from `accelerate launch --multi_gpu` or `torchrun --nproc-per-node`:
    with --cpu, accelerate's launcher starts a single one unless it has MPI. And accelerate lets them join each other
    only when told that the device is the CPU.
    """
    try:
        with quiet_toolchains():
            import torch
            from accelerate import PartialState
    except ModuleNotFoundError as error:
        raise missing_toolchain(error.name or "accelerate", "train") from None
    flush_denormals()
    wants_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes")
    return PartialState(cpu=wants_cpu or not torch.accelerator.is_available())


def flush_denormals() -> None:
    """Let this thread, and those that it starts from now on, take numbers below fp32's 1.2e-38 for zero.

    To be called before torch's first parallel work, whose threads keep what they were started with. Attention gives
    what it has learned to ignore such weights, and a CPU multiplies them in microcode: a step of the miniature's base
    took 1.2 to 1.7 s on two cores of a Xeon once trained for 2000 steps, and so 0.9 s, as at the start. A LoRA's
    training is a tenth faster, and gives the same bytes.
    """
    import torch

    torch.set_flush_denormal(True)


def new_accelerator(device: torch.device, mixed_precision: str, accumulation: int = 1) -> Any:
    """accelerate's Accelerator on the components' device. InputError where it can't have that precision."""
    try:
        with quiet_toolchains():
            from accelerate import Accelerator
            from accelerate.state import AcceleratorState
    except ModuleNotFoundError:
        raise missing_toolchain("accelerate", "train") from None
    # accelerate keeps a precision for the whole process, and refuses another; here each training has its own.
    AcceleratorState._reset_state()
    try:
        return Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=mixed_precision,
            gradient_accumulation_steps=accumulation,
        )
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"{device.type} can't train with --mixed-precision {mixed_precision} ({error}); use no"
        ) from None
