"""How a LoRA is trained, with the defaults of each base. No toolchain."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lorarar.base.names import MINIATURE
from lorarar.errors import InputError

PRECISIONS = ("no", "fp16", "bf16")
PRECISION_HELP = "number format of the passes and of the frozen weights; bf16 on a GPU that has it, unless given"
DEFAULT_EVERY = 100  # steps between two writings of a training's state


@dataclass(frozen=True)
class LoraSettings:
    """DreamBooth LoRA training; the defaults are the paper's for SDXL (appendix A1.3)."""

    rank: int = 64
    steps: int = 1000
    learning_rate: float = 5e-5
    batch_size: int = 1  # images a step, over all passes and processes
    accumulation: int = 1  # passes that a step's batch is cut into, to save memory
    seed: int = 0
    flip: bool = False  # each image also mirrored; a subject that is not symmetric loses its sides by it
    mixed_precision: str = "no"  # a name of PRECISIONS
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("rank", "steps", "batch_size", "accumulation"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise InputError(f"--{flag} is {getattr(self, name)}; give a whole number of 1 or more")
        if not math.isfinite(self.learning_rate) or self.learning_rate <= 0:
            raise InputError(f"--learning-rate is {self.learning_rate}; give a positive number, such as 5e-5")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"--seed is {self.seed}; give a whole number of 0 or more, below 2**63")
        if self.mixed_precision not in PRECISIONS:
            raise InputError(f"--mixed-precision is {self.mixed_precision!r}; valid are {', '.join(PRECISIONS)}")

    def check_processes(self, processes: int) -> None:
        """Refuse a batch that the passes and processes can't share equally, since the mean would be another one."""
        if self.batch_size % (processes * self.accumulation):
            raise InputError(
                f"a batch of {self.batch_size} can't be cut into {self.accumulation} passes on {processes} processes; "
                f"give a --batch-size that is a multiple of {processes * self.accumulation}"
            )


DEFAULTS: dict[str, LoraSettings] = {
    MINIATURE: LoraSettings(rank=16, steps=800, learning_rate=1e-3, batch_size=4),
}
"""Bases whose defaults are not the paper's."""


def default_settings(base: str) -> LoraSettings:
    """The defaults for a base by name; the paper's for SDXL, KOALA and any folder or hub id."""
    return DEFAULTS.get(base, LoraSettings())


def defaults_text(name: str) -> str:
    """For a command's help: a setting's default by the paper, and the miniature's."""
    paper, small = LoraSettings(), default_settings(MINIATURE)
    return f"(default {getattr(paper, name)}, the paper's; miniature {getattr(small, name)})"
