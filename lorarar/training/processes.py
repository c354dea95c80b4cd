"""This process's place among those of a launch, and its device."""

from __future__ import annotations

import os
from typing import Any

from lorarar.cli import missing_toolchain, quiet_toolchains


def process_state() -> Any:
    """accelerate's PartialState: device, number of processes, whether this is the main one.

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
    wants_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes")
    return PartialState(cpu=wants_cpu or not torch.accelerator.is_available())
