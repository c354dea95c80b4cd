"""How a LoRA is trained, with the defaults of each base. No toolchain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

from lorarar.base.names import MINIATURE
from lorarar.errors import InputError
from lorarar.files import check_output, resolved
from lorarar.settings import check_at_least, check_choice, check_positive, check_seed, setting, use_plain_numbers

PRECISIONS = ("no", "fp16", "bf16")
PRECISION_HELP = "number format of the passes and of the frozen weights (default bf16 on a GPU that has it, else no)"
DEFAULT_EVERY = 100  # steps between two writings of a training's state


@dataclass(frozen=True)
class LoraSettings:
    """The settings of a DreamBooth training; the defaults are the paper's for SDXL (appendix A1.3)."""

    rank: int = setting(64, "rank of every layer", metavar="R")
    steps: int = setting(1000, "optimizer steps", metavar="N")
    learning_rate: float = setting(5e-5, "AdamW's learning rate, constant", metavar="X")
    batch_size: int = setting(1, "images a step, over all passes and processes", metavar="N")
    accumulation: int = setting(1, "passes that a step's batch is cut into, to save memory", metavar="N")
    seed: int = setting(0, "seed of the weights, noise and timesteps", metavar="N")
    flip: bool = setting(False, "learn each image mirrored too; a subject that is not symmetric loses its sides by it")
    styled: float = setting(
        0.0,
        "share of a subject's examples that are learned under words for styles (not in the paper)",
        metavar="P",
    )
    mixed_precision: str = setting("no", PRECISION_HELP, choices=PRECISIONS)
    gradient_checkpointing: bool = setting(False, "less memory, a third more time")

    def __post_init__(self) -> None:
        """Refuse values that no training can have."""
        use_plain_numbers(self)
        check_at_least(1, rank=self.rank, steps=self.steps, batch_size=self.batch_size, accumulation=self.accumulation)
        check_positive(5e-5, learning_rate=self.learning_rate)
        check_seed(self.seed)
        check_choice(PRECISIONS, mixed_precision=self.mixed_precision)
        if not (isinstance(self.styled, Real) and 0 <= self.styled < 1):
            raise InputError(f"`styled` is {self.styled}; give a share from 0, below 1")

    def check_processes(self, processes: int) -> None:
        """Refuse a batch that so many processes can't share equally."""
        check_shares(processes, self.accumulation, batch_size=self.batch_size)


MEMORY_OPTIONS = ("accumulation", "gradient_checkpointing")
"""Settings that save memory and change nothing else: a training goes on with others, and a LoRA is the same by any."""


def check_shares(processes: int, accumulation: int, **batch: int) -> None:
    """Refuse batches that the passes and processes can't share equally, since the mean would be another one."""
    for name, size in batch.items():
        if size % (processes * accumulation):
            raise InputError(
                f"a batch of {size} can't be cut into {accumulation} passes on {processes} processes; "
                f"give a `{name}` that is a multiple of {processes * accumulation}"
            )


def check_state(state: Path | None, every: int | None, *outs: Path) -> int:
    """Return the steps between two writings of a state; refuse steps without one.

    Refuses as well a state that is a folder, can't be written, or is in the output's place.
    """
    if state is not None and resolved(state) in map(resolved, outs):
        raise InputError(f"{state}: `state` is a file that `out` is written to; give each its own")
    if state is not None:
        check_output(state)
    if state is None and every is not None:
        raise InputError("`state_every` is for `state`; give that, or leave it out")
    every = DEFAULT_EVERY if every is None else every
    check_at_least(1, state_every=every)
    return every


_OF_MINIATURE = LoraSettings(rank=8, steps=300, learning_rate=1e-3, batch_size=4)


def default_settings(base: str) -> LoraSettings:
    """Return the defaults of a base by its name; SDXL, KOALA and any folder or hub id have the paper's."""
    return _OF_MINIATURE if base == MINIATURE else LoraSettings()


def half_cosine(share: float) -> float:
    """Return the factor of a learning rate that falls from 1 to 0 along half a cosine, after a share of its steps."""
    return (1 + math.cos(math.pi * share)) / 2


def defaults_text(name: str) -> str:
    """Return what a command's help says of a setting's default: the paper's, and the miniature's."""
    paper, small = LoraSettings(), default_settings(MINIATURE)
    return f"(default {getattr(paper, name)}, the paper's; miniature {getattr(small, name)})"
