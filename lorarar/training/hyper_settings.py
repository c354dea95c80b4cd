"""How a hypernetwork, and ZipLoRA's coefficients, are trained, with the defaults of each base. No toolchain."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Real

from lorarar.base.names import MINIATURE
from lorarar.errors import InputError
from lorarar.layout import PAPER_LEARNED, check_kinds
from lorarar.merging import RULES
from lorarar.settings import (
    check_at_least,
    check_choice,
    check_from,
    check_positive,
    check_seed,
    setting,
    use_plain_numbers,
    words,
)
from lorarar.training.settings import PRECISION_HELP, PRECISIONS, check_shares, half_cosine

DISTANCES = {
    "mse": "the mean of the squared differences, as the paper's released code has it",
    "l2": "the norm ‖·‖₂ of each example, as Eq. 3 is printed",
    "change": "as mse, but a smaller change of the base's answer is not less wrong (not in the paper)",
}
REGULARISERS = {
    "dot": "|m_c·m_s| divided by the columns, averaged over the layers: λ means the same for every base",
    "dot-sum": "|m_c·m_s| summed over the layers: Eq. 3 as printed",
    "cosine": "|cos(m_c, m_s)| summed over the layers, as the paper's released code has it",
    "none": "no term",
}
JOINTS = {
    "none": "Eq. 3 as the paper has it",
    "composed": "the two LoRAs' own predictions put together, ε_c + ε_s − ε",
    "images": "images of the training pairs, of `joint_images`",
}
PREDICTORS = ("hypernetwork", "constant")
SCHEDULES = ("constant", "cosine")
KEEPS = ("best", "last")
MEAN_PAIRS = 25  # training pairs that the means of a hypernetwork are of


@dataclass(frozen=True)
class LossSettings:
    """The settings of the merging loss, Eq. 3."""

    distance: str = setting("mse", "distance of the UNet's outputs; l2 is the norm of Eq. 3", choices=DISTANCES)
    regulariser: str = setting("dot", "form of the term |m_c·m_s| that keeps the two apart", choices=REGULARISERS)
    weight: float = setting(0.01, "weight λ of that term", metavar="X", flag="lambda")
    joint: str = setting("none", "what the merge is to say of the merged prompt (not in the paper)", choices=JOINTS)
    joint_weight: float = setting(1.0, "weight of the joint term", metavar="X")
    joint_style: float = setting(1.0, "composed: strength of the style's change in the answer", metavar="X")
    joint_guidance: float = setting(1.0, "guidance scale of the joint answers; 1 takes none", metavar="X")

    def __post_init__(self) -> None:
        """Refuse unknown forms and a λ that is no number of 0 or more."""
        use_plain_numbers(self)
        check_choice(DISTANCES, distance=self.distance)
        check_choice(REGULARISERS, regulariser=self.regulariser)
        check_from(0, weight=self.weight)
        check_choice(JOINTS, joint=self.joint)
        check_positive(1.0, joint_weight=self.joint_weight)
        check_positive(1.0, joint_style=self.joint_style)
        check_from(1, joint_guidance=self.joint_guidance)


def check_weighed(regulariser: str | None, weight: float | None) -> None:
    """Refuse a λ that a user gave beside a regulariser of none; neither may be given."""
    if regulariser == "none" and weight is not None:
        raise InputError("without a regulariser there is nothing to weigh; leave `weight` out")


@dataclass(frozen=True)
class HyperSettings:
    """The settings of Algorithm 1, by which a hypernetwork is trained; the defaults are the paper's for SDXL (A1.3)."""

    predictor: str = setting(
        "hypernetwork", "constant: one pair for each kind of layer, an ablation", choices=PREDICTORS
    )
    hidden: int = setting(128, "units of the hypernetwork's hidden layer", metavar="N")
    positions: bool = setting(False, "the network knows which layer it looks at (not in the paper)")
    columns: bool = setting(False, "each column has coefficients of its own, added to the others (not in the paper)")
    column_rate: float = setting(0.01, "AdamW's highest learning rate of the columns' own", metavar="X")
    normalise: bool = setting(False, "inputs are seen at size 1, as folded into the weights (not in the paper)")
    kv_rule: str = setting("average", "average or sum: the merge of the layers that are not learned", metavar="RULE")
    learned: tuple[str, ...] = setting(
        PAPER_LEARNED,
        "layers with coefficients of their own: some of q,k,v,out",
        metavar="KINDS",
        parse=words,
    )
    initial: float = setting(0.5, "coefficients that training starts near, 0.5 or 1", metavar="X")
    steps: int = setting(5000, "optimizer steps", metavar="N")
    learning_rate: float = setting(0.01, "AdamW's highest learning rate", metavar="X")
    lr_schedule: str = setting("constant", "course of the learning rate after the warm-up", choices=SCHEDULES)
    warmup: int = setting(0, "steps in which the learning rate rises from 0", metavar="N")
    batch_pairs: int = setting(1, "pairs a step, over all passes and processes", metavar="N")
    accumulation: int = setting(1, "passes that a step's pairs are cut into, to save memory", metavar="N")
    combinations: int | None = setting(100, "pairs of the training split that are used; 0 for all of them", metavar="N")
    loss: LossSettings = field(default_factory=LossSettings)
    seed: int = setting(0, "seed of the weights, pairs, noise and timesteps", metavar="N")
    validate_every: int = setting(250, "steps between validations", metavar="N")
    validation_draws: int = setting(2, "timesteps a validation pair", metavar="N")
    keep: str = setting("last", "which weights to keep: of the lowest validation loss, or the last", choices=KEEPS)
    mixed_precision: str = setting("no", PRECISION_HELP, choices=PRECISIONS)
    gradient_checkpointing: bool = setting(False, "less memory, a third more time")

    def __post_init__(self) -> None:
        """Refuse values that no training can have; 0 combinations become None, which stands for all.

        Constant coefficients have no network, which positions and normalised inputs are of.
        """
        use_plain_numbers(self)
        if self.predictor == "constant":
            object.__setattr__(self, "positions", False)
            object.__setattr__(self, "normalise", False)
        object.__setattr__(self, "learned", check_kinds(self.learned))
        counts = ("hidden", "steps", "batch_pairs", "accumulation", "validate_every", "validation_draws")
        check_at_least(1, **{name: getattr(self, name) for name in counts})
        object.__setattr__(self, "combinations", self.combinations or None)
        check_at_least(1, combinations=self.combinations or 1)
        check_at_least(0, warmup=self.warmup)
        if self.warmup >= self.steps:
            raise InputError(f"`warmup` is {self.warmup}; give 0 or more steps, fewer than the {self.steps} of `steps`")
        check_positive(0.01, learning_rate=self.learning_rate, column_rate=self.column_rate)
        if not (isinstance(self.initial, Real) and math.isfinite(self.initial)):
            raise InputError(f"`initial` is {self.initial}; give a finite number, such as 0.5 or 1")
        check_seed(self.seed)
        check_choice(PREDICTORS, predictor=self.predictor)
        check_choice(RULES, kv_rule=self.kv_rule)
        check_choice(SCHEDULES, lr_schedule=self.lr_schedule)
        check_choice(KEEPS, keep=self.keep)
        check_choice(PRECISIONS, mixed_precision=self.mixed_precision)

    def check_processes(self, processes: int) -> None:
        """Refuse a batch that so many processes can't share equally."""
        check_shares(processes, self.accumulation, batch_pairs=self.batch_pairs)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step (from 0): a linear rise, then constant or half a cosine towards 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / (self.warmup + 1)
        if self.lr_schedule == "constant":
            return self.learning_rate
        return self.learning_rate * half_cosine((step - self.warmup) / (self.steps - self.warmup))


@dataclass(frozen=True)
class ZipSettings:
    """The settings of ZipLoRA's optimisation of one pair; the defaults are the paper's (appendix A1.3)."""

    steps: int = setting(100, "optimizer steps", metavar="N", flag="zip_steps")
    learning_rate: float = setting(0.01, "AdamW's learning rate", metavar="X", flag="zip_learning_rate")
    initial: float = 1.0
    batch_pairs: int = 1  # draws of images, noise and timesteps a step
    loss: LossSettings = field(default_factory=LossSettings)
    seed: int = 0
    mixed_precision: str = setting("no", PRECISION_HELP, choices=PRECISIONS)
    gradient_checkpointing: bool = setting(False, "less memory, a third more time")

    def __post_init__(self) -> None:
        """Refuse values that no optimisation can have."""
        use_plain_numbers(self)
        check_at_least(1, steps=self.steps, batch_pairs=self.batch_pairs)
        if self.loss.joint != "none":
            raise InputError(f"ZipLoRA's loss has no joint term, and `joint` is {self.loss.joint!r}; give none")
        check_positive(0.01, learning_rate=self.learning_rate)
        check_seed(self.seed)
        check_choice(PRECISIONS, mixed_precision=self.mixed_precision)


_OF_MINIATURE = HyperSettings(
    # Chosen on validation pairs: the miniature's LoRAs share little, and their sum is nearer to both than their
    # average; a joint term that outweighs Eq. 3 shows more of both, where the style's share decides how much of each;
    # of the kinds to learn, all but q show more than all, in each of three trainings; without positions and normalised
    # inputs the network learns constants. Normalised inputs need a lower rate: at 0.01 a training of 600 steps went
    # astray.
    kv_rule="sum",
    initial=1.0,
    learned=("k", "v", "out"),
    positions=True,
    normalise=True,
    learning_rate=0.002,
    loss=LossSettings(joint="composed", joint_weight=20.0, joint_style=0.8),
    steps=300,
    batch_pairs=4,
    combinations=None,
    lr_schedule="cosine",
    warmup=20,
    validate_every=50,
)


def default_hyper_settings(base: str) -> HyperSettings:
    """Return the defaults of a base by its name; SDXL, KOALA and any folder or hub id have the paper's."""
    return _OF_MINIATURE if base == MINIATURE else HyperSettings()
