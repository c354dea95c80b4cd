"""How a hypernetwork, or ZipLoRA's coefficients, are trained, with the defaults of each base. No toolchain."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from lorarar.base.names import MINIATURE
from lorarar.errors import InputError
from lorarar.layout import PAPER_LEARNED, check_kinds
from lorarar.merging import RULES
from lorarar.settings import setting
from lorarar.training.settings import PRECISION_HELP, PRECISIONS

DISTANCES = {
    "mse": "the mean of the squared differences, as the paper's released code has it",
    "l2": "the norm ‖·‖₂ of each example, as Eq. 3 is printed",
}
REGULARISERS = {
    "dot": "|m_c·m_s| divided by the columns, averaged over the layers: λ means the same for every base",
    "dot-sum": "|m_c·m_s| summed over the layers: Eq. 3 as printed",
    "cosine": "|cos(m_c, m_s)| summed over the layers, as the paper's released code has it",
    "none": "no term",
}
PREDICTORS = {
    "hypernetwork": "predicts from the two LoRAs: LoRA.rar",
    "constant": "one pair for each kind of layer, whatever the LoRAs: an ablation",
}
SCHEDULES = ("constant", "cosine")
KEEPS = ("best", "last")


@dataclass(frozen=True)
class LossSettings:
    """The merging loss, Eq. 3."""

    distance: str = setting("mse", "distance of the UNet's outputs; l2 is the norm of Eq. 3", choices=DISTANCES)
    regulariser: str = setting("dot", "form of the term |m_c·m_s| that keeps the two apart", choices=REGULARISERS)
    weight: float = setting(0.01, "weight λ of that term", metavar="X", flag="lambda")

    def __post_init__(self) -> None:
        _check_choice("distance", self.distance, DISTANCES)
        _check_choice("regulariser", self.regulariser, REGULARISERS)
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise InputError(f"--lambda is {self.weight}; give a number of 0 or more, the paper's is 0.01")


@dataclass(frozen=True)
class HyperSettings:
    """Training of a hypernetwork by Algorithm 1; the defaults are the paper's for SDXL (appendix A1.3)."""

    predictor: str = "hypernetwork"  # a key of PREDICTORS
    hidden: int = 128
    kv_rule: str = "average"  # of every attention linear that is not learned
    learned: tuple[str, ...] = PAPER_LEARNED
    initial: float = 0.5  # the coefficients that training starts near
    steps: int = 5000
    learning_rate: float = 0.01
    lr_schedule: str = "constant"  # a name of SCHEDULES
    warmup: int = 0  # steps in which the rate rises from 0
    batch_pairs: int = 1  # pairs a step, over all passes and processes
    accumulation: int = 1  # passes that a step's pairs are cut into, to save memory
    combinations: int | None = 100  # pairs of the training split that are used; None: all of them
    loss: LossSettings = field(default_factory=LossSettings)
    seed: int = 0
    validate_every: int = 250  # steps
    validation_draws: int = 2  # timesteps a validation pair
    keep: str = "last"  # a name of KEEPS; "best" is by validation loss
    mixed_precision: str = "no"  # a name of PRECISIONS
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "learned", check_kinds(self.learned))
        for name in ("hidden", "steps", "batch_pairs", "accumulation", "validate_every", "validation_draws"):
            _check_positive(name, getattr(self, name))
        if self.combinations is not None:
            _check_positive("combinations", self.combinations)
        if not 0 <= self.warmup < self.steps:
            raise InputError(f"--warmup is {self.warmup}; give 0 or more steps, fewer than the {self.steps} of --steps")
        _check_rate(self.learning_rate)
        if not math.isfinite(self.initial):
            raise InputError(f"--initial is {self.initial}; give a finite number, such as 0.5 or 1")
        _check_seed(self.seed)
        _check_choice("predictor", self.predictor, PREDICTORS)
        _check_choice("kv-rule", self.kv_rule, RULES)
        _check_choice("lr-schedule", self.lr_schedule, SCHEDULES)
        _check_choice("keep", self.keep, KEEPS)
        _check_choice("mixed-precision", self.mixed_precision, PRECISIONS)

    def check_processes(self, processes: int) -> None:
        """Refuse a batch that the passes and processes can't share equally, since the mean would be another one."""
        if self.batch_pairs % (processes * self.accumulation):
            raise InputError(
                f"{self.batch_pairs} pairs a step can't be cut into {self.accumulation} passes on {processes} "
                f"processes; give a --batch-pairs that is a multiple of {processes * self.accumulation}"
            )

    def rate(self, step: int) -> float:
        """The learning rate of a step (from 0): a linear rise, then constant or half a cosine down towards 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / (self.warmup + 1)
        if self.lr_schedule == "constant":
            return self.learning_rate
        share = (step - self.warmup) / (self.steps - self.warmup)
        return self.learning_rate * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class ZipSettings:
    """ZipLoRA's optimisation of one pair; the defaults are the paper's (appendix A1.3)."""

    steps: int = setting(100, "optimizer steps", metavar="N", flag="zip_steps")
    learning_rate: float = setting(0.01, "AdamW's learning rate", metavar="X", flag="zip_learning_rate")
    initial: float = 1.0
    accumulation: int = 1
    batch_pairs: int = 1  # draws of images, noise and timesteps a step
    loss: LossSettings = field(default_factory=LossSettings)
    seed: int = 0
    mixed_precision: str = setting("no", PRECISION_HELP, choices=PRECISIONS)
    gradient_checkpointing: bool = setting(False, "less memory, a third more time")

    def __post_init__(self) -> None:
        for name in ("steps", "batch_pairs", "accumulation"):
            _check_positive(name, getattr(self, name))
        if self.batch_pairs % self.accumulation:
            raise InputError(f"{self.batch_pairs} draws a step can't be cut into {self.accumulation} equal passes")
        _check_rate(self.learning_rate)
        _check_seed(self.seed)
        _check_choice("mixed-precision", self.mixed_precision, PRECISIONS)


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise InputError(f"--{name.replace('_', '-')} is {value}; give a whole number of 1 or more")


def _check_rate(value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"--learning-rate is {value}; give a positive number, the paper's is 0.01")


def _check_seed(value: int) -> None:
    if not 0 <= value < 2**63:
        raise InputError(f"--seed is {value}; give a whole number of 0 or more, below 2**63")


def _check_choice(name: str, value: str, valid: Any) -> None:
    if value not in valid:
        raise InputError(f"--{name} is {value!r}; valid are {', '.join(valid)}")


DEFAULTS: dict[str, HyperSettings] = {
    MINIATURE: HyperSettings(
        # The rule and the start were chosen by the loss on validation pairs: the miniature's LoRAs share little, and
        # their sum is nearer to both than their average.
        kv_rule="sum",
        initial=1.0,
        steps=600,
        batch_pairs=4,
        combinations=None,
        lr_schedule="cosine",
        warmup=20,
        validate_every=50,
        keep="best",
    ),
}
"""Bases whose defaults are not the paper's."""


def default_hyper_settings(base: str) -> HyperSettings:
    """The defaults for a base by name; the paper's for SDXL, KOALA and any folder or hub id."""
    return DEFAULTS.get(base, HyperSettings())
